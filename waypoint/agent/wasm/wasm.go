// Package wasm keeps the Wasm modules that policies name in files Envoy can load: downloaded once, checked against their
// hash, bounded in size.
//
// It knows http, https and file URLs and bytes that start like a module. It does not know what a module does or whom it
// is for. Its one goroutine is the caller of Run. Start reading at Store.File.
package wasm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Limits.
const (
	maxModule  = 64 << 20
	maxModules = 256
	timeout    = 2 * time.Minute
	minBackoff = time.Second
	maxBackoff = time.Minute
)

// Store is a folder of modules. File may be called from any goroutine.
type Store struct {
	dir    string
	log    *slog.Logger
	client *http.Client
	wake   chan struct{} // capacity 1
	news   chan struct{} // capacity 1

	mu sync.Mutex
	// guarded by mu
	modules map[Key]*module
	changed []Key
}

// Key is a module as a policy names it.
type Key struct{ URL, SHA256 string }

type module struct {
	path     string // set once it is there
	err      error  // why it is not
	attempts int
	due      time.Time
}

// errPending is the state before the first attempt has ended.
var errPending = errors.New("the module is being fetched")

// New returns a Store that keeps modules in a folder, which must exist and be private.
func New(dir string, log *slog.Logger) *Store {
	return &Store{
		dir: dir, log: log, client: &http.Client{Timeout: timeout, Transport: transport(notOurs)}, wake: make(chan struct{}, 1), news: make(chan struct{}, 1),
		modules: map[Key]*module{},
	}
}

// transport judges every address before it is dialed, whatever name or redirect led there.
func transport(judge func(netip.Addr) error) *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{Timeout: 10 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		return judge(at.Addr().Unmap())
	}}).DialContext
	return t
}

// notOurs refuses what a URL could only be meant to find out about: this pod's own ports, and services of its node.
func notOurs(a netip.Addr) error {
	if a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsLinkLocalMulticast() || a.IsMulticast() || a.IsUnspecified() {
		return fmt.Errorf("%s is no address to fetch from: it means something else on each machine", a)
	}
	return nil
}

// File is where a module lies. If it is not there it is fetched from now on, and the error says how that stands.
func (s *Store) File(rawURL, sha string) (string, error) {
	key := Key{rawURL, sha}
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.modules[key]
	if m == nil {
		if len(s.modules) >= maxModules {
			return "", fmt.Errorf("module %s: more than %d modules", rawURL, maxModules)
		}
		m = &module{err: errPending, due: time.Now()}
		s.modules[key] = m
		poke(s.wake)
	}
	if m.path != "" {
		return m.path, nil
	}
	return "", fmt.Errorf("module %s: %w", rawURL, m.err)
}

// News has something to receive when modules came or failed; Take then says which.
func (s *Store) News() <-chan struct{} { return s.news }

// Take lists the modules that came or failed since the last call.
func (s *Store) Take() []Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.changed
	s.changed = nil
	return out
}

// Run fetches what is asked for until ctx ends, and tries again what failed.
func (s *Store) Run(ctx context.Context) error {
	for {
		key, wait := s.next(time.Now())
		if key == nil {
			t := time.NewTimer(wait)
			select {
			case <-s.wake:
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return nil
			}
			t.Stop()
			continue
		}
		path, err := s.fetch(ctx, *key)
		if ctx.Err() != nil {
			return nil
		}
		s.settle(*key, path, err)
	}
}

// next is a module that is due, or how long until one is.
func (s *Store) next(now time.Time) (*Key, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait := time.Hour
	for key, m := range s.modules {
		if m.path != "" {
			continue
		}
		if !m.due.After(now) {
			return &key, 0
		}
		wait = min(wait, m.due.Sub(now))
	}
	return nil, wait
}

func (s *Store) settle(key Key, path string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.modules[key]
	before := m.err
	m.path, m.err = path, err
	if err != nil {
		backoff := min(minBackoff<<min(m.attempts, 6), maxBackoff)
		m.attempts++
		m.due = time.Now().Add(backoff/2 + rand.N(backoff/2+1))
		s.log.Warn("Wasm module not available", "url", key.URL, "err", err, "dur", time.Until(m.due).Round(time.Millisecond))
		if before != nil && before.Error() == err.Error() {
			return
		}
	} else {
		s.log.Info("Wasm module", "url", key.URL, "path", path)
	}
	s.changed = append(s.changed, key)
	poke(s.news)
}

// fetch brings a module into the folder.
func (s *Store) fetch(ctx context.Context, key Key) (string, error) {
	body, err := s.read(ctx, key.URL)
	if err != nil {
		return "", err
	}
	// "\0asm", WebAssembly core specification §5.5.16. Before the hash: of other files nothing is said.
	if !bytes.HasPrefix(body, []byte("\x00asm")) {
		return "", errors.New("it is no Wasm module: it does not start with \\0asm")
	}
	sum := sha256.Sum256(body)
	got := hex.EncodeToString(sum[:])
	if want := strings.ToLower(strings.TrimPrefix(key.SHA256, "sha256:")); want != "" && got != want {
		return "", fmt.Errorf("it has the hash %s, not %s as the policy says", got, want)
	}
	path := filepath.Join(s.dir, got+".wasm")
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, body, 0o600); err != nil {
		return "", fmt.Errorf("keep it: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return "", fmt.Errorf("keep it: %w", err)
	}
	return path, nil
}

func (s *Store) read(ctx context.Context, rawURL string) ([]byte, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, fmt.Errorf("its URL cannot be read: %w", err)
	}
	var in io.ReadCloser
	switch u.Scheme {
	case "file":
		info, err := os.Stat(u.Path)
		if err == nil && !info.Mode().IsRegular() { // reading a pipe may never end
			err = fmt.Errorf("%s is no file", u.Path)
		}
		if err != nil {
			return nil, err
		}
		if in, err = os.Open(u.Path); err != nil {
			return nil, err
		}
	case "http", "https":
		if in, err = s.download(ctx, rawURL); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("a URL with %q is not supported: use https, http or file", u.Scheme)
	}
	defer in.Close()
	body, err := io.ReadAll(io.LimitReader(in, maxModule+1))
	if err != nil {
		return nil, fmt.Errorf("read it: %w", err)
	}
	if len(body) > maxModule {
		return nil, fmt.Errorf("it is larger than %d MiB", maxModule>>20)
	}
	return body, nil
}

func (s *Store) download(ctx context.Context, rawURL string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, rawURL, nil)
	if err != nil {
		return nil, err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("the server answers %s", resp.Status)
	}
	return resp.Body, nil
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
