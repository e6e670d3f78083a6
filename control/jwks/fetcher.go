package jwks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Defaults and bounds.
const (
	DefaultRefresh = 20 * time.Minute
	DefaultTimeout = 5 * time.Second
	// MaxSources bounds how many key sets are kept up to date; those beyond have no keys and say so.
	MaxSources = 512
	// MaxBody bounds a key set, MaxRedirects how often one may be elsewhere.
	MaxBody      = 1 << 20
	MaxRedirects = 3

	maxTimeout = 30 * time.Second
	firstRetry = time.Second
)

// Config of a Fetcher.
type Config struct {
	// AllowHTTP lets key sets be fetched over plain HTTP, AllowPrivate from private addresses.
	AllowHTTP, AllowPrivate bool
	// AllowLoopback lets them come from this machine; for tests.
	AllowLoopback bool
	// Refresh is how often a set is fetched again; 0 means DefaultRefresh.
	Refresh time.Duration
	// Update receives what became of each attempt that changed anything. It is called from several goroutines.
	Update func(Source, Set)
	// Resolver and Dial replace the network in tests.
	Resolver interface {
		LookupHost(ctx context.Context, host string) ([]string, error)
	}
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Transport settings such as the roots to trust come from here; nil means the system's.
	Transport  *http.Transport
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Fetcher keeps key sets up to date.
type Fetcher struct {
	cfg      Config
	client   *http.Client
	changed  chan struct{}
	attempts *prometheus.CounterVec

	mu     sync.Mutex
	needed []Source // guarded by mu
}

// New returns a Fetcher that needs nothing yet.
func New(cfg Config) *Fetcher {
	if cfg.Refresh <= 0 {
		cfg.Refresh = DefaultRefresh
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Update == nil {
		cfg.Update = func(Source, Set) {}
	}
	if cfg.Resolver == nil {
		cfg.Resolver = net.DefaultResolver
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{Timeout: DefaultTimeout}).DialContext
	}
	f := &Fetcher{cfg: cfg, changed: make(chan struct{}, 1)}
	f.client = f.newClient()
	f.attempts = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ambit_control_jwks_fetches_total", Help: "Attempts to fetch key sets, by outcome.",
	}, []string{"outcome"})
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(f.attempts)
	}
	return f
}

// Need says which key sets are needed from now on. It does not wait for any.
func (f *Fetcher) Need(all []Source) {
	f.mu.Lock()
	f.needed = all
	f.mu.Unlock()
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// Run fetches until ctx ends.
func (f *Fetcher) Run(ctx context.Context) error {
	type job struct {
		cancel context.CancelFunc
		done   chan struct{}
	}
	jobs := map[Source]job{}
	defer func() {
		for _, j := range jobs {
			j.cancel()
		}
		for _, j := range jobs {
			<-j.done
		}
		f.client.CloseIdleConnections()
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.changed:
		}
		f.mu.Lock()
		needed := f.needed
		f.mu.Unlock()
		keep := make(map[Source]bool, len(needed))
		for i, s := range needed {
			if i >= MaxSources {
				f.cfg.Update(s, Set{Problem: fmt.Sprintf("more than %d key sets are asked for: this one is not fetched", MaxSources)})
				continue
			}
			keep[s] = true
		}
		for s, j := range jobs {
			if !keep[s] {
				j.cancel()
				<-j.done
				delete(jobs, s)
			}
		}
		for s := range keep {
			if _, ok := jobs[s]; ok {
				continue
			}
			own, cancel := context.WithCancel(ctx)
			j := job{cancel, make(chan struct{})}
			jobs[s] = j
			// Waited for above, when nobody needs it any more or when Run ends.
			go func() {
				defer close(j.done)
				f.follow(own, s)
			}()
		}
	}
}

// follow keeps one key set up to date. After a failure it tries again sooner, ever more slowly.
func (f *Fetcher) follow(ctx context.Context, s Source) {
	var set Set
	retry := firstRetry
	for {
		keys, err := f.fetch(ctx, s)
		if ctx.Err() != nil {
			return
		}
		now, wait := set, f.cfg.Refresh
		if err != nil {
			f.attempts.WithLabelValues("failed").Inc()
			now.Problem = fmt.Sprintf("key set of %s: %v", s, err)
			if set.Problem != now.Problem {
				f.cfg.Logger.Warn("a key set cannot be fetched; the one before stays", "source", s.String(), "err", err)
			}
			wait = min(retry, f.cfg.Refresh)
			retry *= 2
		} else {
			f.attempts.WithLabelValues("good").Inc()
			now, retry = Set{Keys: keys}, firstRetry
		}
		if now != set {
			set = now
			f.cfg.Update(s, set)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// timeout of one attempt.
func (s Source) timeout() time.Duration {
	if s.Timeout <= 0 {
		return DefaultTimeout
	}
	return min(s.Timeout, maxTimeout)
}

// errRefused is wrapped by every error about an address that may not be asked.
var errRefused = errors.New("refused")
