package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/ambit-mesh/ambit/ztunnel/state"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

// Config is what one pod's DNS proxy needs. It is copied.
type Config struct {
	Zone Zone
	// State returns the current snapshot, Client the pod whose questions these are; nil while it is not known.
	State    func() *state.Snapshot
	Client   func(*state.Snapshot) *state.Workload
	Upstream Upstream
	Dial     Dial
	Metrics  *telemetry.DNSMetrics // nil counts nothing
	Logger   *slog.Logger
	// MaxForwards bounds the questions waiting for upstream at once, default 500; MaxConns the TCP clients, default 100.
	MaxForwards, MaxConns int
	// IdleTimeout is how long a TCP client may say nothing, default 10 s.
	IdleTimeout time.Duration
}

// Server answers the questions of one pod. Its Serve functions may run on several sockets at once and share its limits.
type Server struct {
	cfg      Config
	forwards chan struct{} // one token per question upstream
	conns    chan struct{} // one token per TCP client
}

// New starts nothing.
func New(cfg Config) *Server {
	if cfg.MaxForwards == 0 {
		cfg.MaxForwards = 500
	}
	if cfg.MaxConns == 0 {
		cfg.MaxConns = 100
	}
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = 10 * time.Second
	}
	return &Server{cfg: cfg, forwards: make(chan struct{}, cfg.MaxForwards), conns: make(chan struct{}, cfg.MaxConns)}
}

// ServePacket answers on a datagram socket until ctx ends, or until the socket's read deadline has passed and what was asked
// before is answered: a client whose question is lost asks again only after seconds. Then it closes the socket.
func (s *Server) ServePacket(ctx context.Context, pc net.PacketConn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer pc.Close()
	defer context.AfterFunc(ctx, func() { pc.Close() })()
	var wg sync.WaitGroup
	defer wg.Wait()
	buf := make([]byte, maxUDP)
	send := sender(pc)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
				return nil
			}
			if transient(err) {
				continue
			}
			return fmt.Errorf("read DNS questions: %w", err)
		}
		j, answer := s.handle(ctx, buf[:n], false)
		if j == nil {
			send(answer, from)
			continue
		}
		select {
		case s.forwards <- struct{}{}:
		default:
			send(j.failed(ctx, errors.New("too many questions are waiting for an answer")), from)
			continue
		}
		j.msg = append([]byte(nil), j.msg...)
		wg.Go(func() {
			defer func() { <-s.forwards }()
			send(j.run(ctx), from)
		})
	}
}

// transient reports errors that concern one datagram and not the socket: on Linux an ICMP error about an earlier answer
// surfaces at the next read.
func transient(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && !ne.Timeout() && !errors.Is(err, net.ErrClosed)
}

// ServeStream answers on a listener until ctx ends, then closes it and every client's connection; or until somebody else
// closes the listener, then questions under way are answered first.
func (s *Server) ServeStream(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	asking, last := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer last()
	pause := time.Duration(0)
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			// Out of descriptors, most likely: others may free some.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.cfg.Logger.Warn("accept DNS client", "error", err, "retry", pause)
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			continue
		}
		pause = 0
		select {
		case s.conns <- struct{}{}:
		default:
			c.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-s.conns }()
			s.serveConn(ctx, asking, c)
		})
	}
}

// serveConn answers one client's questions in order, and takes no more when asking has ended. RFC 7766 §6.2.1: the
// connection stays open for more.
func (s *Server) serveConn(ctx, asking context.Context, c net.Conn) {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	defer context.AfterFunc(asking, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })()
	for {
		if c.SetDeadline(time.Now().Add(s.cfg.IdleTimeout)) != nil || asking.Err() != nil {
			return
		}
		msg, err := readTCP(c)
		if err != nil {
			return
		}
		j, answer := s.handle(ctx, msg, true)
		if j != nil {
			select {
			case s.forwards <- struct{}{}:
				answer = j.run(ctx)
				<-s.forwards
			case <-ctx.Done():
				return
			}
		}
		if answer == nil || writeTCP(c, answer) != nil {
			return
		}
	}
}

// job is a question that has to go upstream.
type job struct {
	s      *Server
	q      query
	msg    []byte
	tcp    bool
	client *state.Workload
}

// handle answers what can be answered at once; otherwise it returns a job. No job and no answer means silence.
func (s *Server) handle(ctx context.Context, msg []byte, tcp bool) (*job, []byte) {
	q, err := parse(msg)
	if err != nil {
		if errors.Is(err, errShort) || errors.Is(err, errNotQuery) {
			return nil, nil
		}
		return nil, orNothing(q.failure(dnsmessage.RCodeFormatError))
	}
	snap := s.cfg.State()
	j := &job{s: s, q: q, msg: msg, tcp: tcp, client: s.cfg.Client(snap)}
	if m := s.cfg.Metrics; m != nil {
		m.Request(typeName(q.question.Type), tcp, j.client)
	}
	if j.client == nil {
		// Which names a client may see depends on who it is. istio/ztunnel src/dns/server.rs.
		return nil, j.failed(ctx, errors.New("unknown client"))
	}
	if !q.answerable() {
		return j, nil
	}
	a, known := Lookup(snap, s.cfg.Zone, j.client, q.name(), q.question.Type == dnsmessage.TypeAAAA)
	if !known {
		return j, nil
	}
	limit := q.limit
	if tcp {
		limit = maxTCP
	}
	answer, err := q.reply(a, limit)
	if err != nil {
		return nil, j.failed(ctx, err)
	}
	j.log(ctx, "served", slog.Int("endpoints", len(a.Addrs)))
	return nil, answer
}

// run asks upstream.
func (j *job) run(ctx context.Context) []byte {
	start := time.Now()
	answer, err := j.s.forward(ctx, j.q, j.msg, j.tcp)
	if m := j.s.cfg.Metrics; m != nil {
		m.Upstream(typeName(j.q.question.Type), j.tcp, j.client, time.Since(start), err != nil)
	}
	if err != nil {
		return j.failed(ctx, err)
	}
	j.log(ctx, "forwarded")
	return answer
}

func (j *job) failed(ctx context.Context, err error) []byte {
	j.log(ctx, "failed", slog.String("error", err.Error()))
	return orNothing(j.q.failure(dnsmessage.RCodeServerFailure))
}

func orNothing(msg []byte, err error) []byte {
	if err != nil {
		return nil
	}
	return msg
}

func (j *job) log(ctx context.Context, result string, attrs ...slog.Attr) {
	log := j.s.cfg.Logger
	if !log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	all := make([]slog.Attr, 0, 6)
	if j.client != nil {
		all = append(all, slog.String("src.workload", j.client.Name), slog.String("src.namespace", j.client.Namespace))
	}
	all = append(all, slog.String("query", typeName(j.q.question.Type)),
		slog.String("domain", strings.TrimSuffix(j.q.question.Name.String(), ".")), slog.String("result", result))
	log.LogAttrs(ctx, slog.LevelDebug, "dns request", append(all, attrs...)...)
}
