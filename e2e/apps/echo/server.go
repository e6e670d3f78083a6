// Package echo is a server and a client for trying out networks: every kind of conversation a mesh has to carry (HTTP,
// plain TCP, TCP where the server speaks first, bulk, connections held open) and the figures a story wants of them.
//
// It knows no mesh. Server.Run and the client functions run on their caller's goroutine and wait for all they start.
// Start reading at Server, then load.go.
package echo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// Server serves on every address that is not empty.
type Server struct {
	// HTTP answers with who served and who asked; see handler.
	HTTP string
	// TCP sends back what it gets. First greets before it does. Sink takes everything, and says how much it was when the
	// client has finished. Source sends until the client goes.
	TCP, First, Sink, Source string
	// Health answers gRPC health checks, as probes make them.
	Health string
	// Text is part of every answer.
	Text string
	// Drain is how long HTTP requests under way may take after the end was asked for; 0 means 5 s.
	Drain time.Duration
	// LameDuck is how long HTTP is served as before after the end was asked for.
	LameDuck time.Duration
}

// Run serves until ctx ends.
func (s Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	errs := make(chan error, 6)
	start := func(addr string, serve func(net.Listener) error) error {
		if addr == "" {
			return nil
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		wg.Go(func() {
			if err := serve(l); err != nil {
				errs <- err
			}
			cancel()
		})
		return nil
	}
	tcp := func(talk func(net.Conn) error) func(net.Listener) error {
		return func(l net.Listener) error { return Accept(ctx, l, talk) }
	}
	err := errors.Join(
		start(s.HTTP, func(l net.Listener) error { return s.serveHTTP(ctx, l) }),
		start(s.TCP, tcp(Back)),
		start(s.First, tcp(s.greet)),
		start(s.Sink, tcp(sink)),
		start(s.Source, tcp(source)),
		start(s.Health, func(l net.Listener) error { return serveHealth(ctx, l) }),
	)
	if err != nil {
		cancel()
	}
	wg.Wait()
	close(errs)
	for e := range errs {
		err = errors.Join(err, e)
	}
	return err
}

// serveHealth answers gRPC health checks until ctx ends.
func serveHealth(ctx context.Context, l net.Listener) error {
	g := grpc.NewServer()
	healthpb.RegisterHealthServer(g, health.NewServer())
	defer context.AfterFunc(ctx, g.Stop)()
	if err := g.Serve(l); err != nil {
		return fmt.Errorf("serve health checks: %w", err)
	}
	return nil
}

// Accept serves connections until ctx ends, and then closes them.
func Accept(ctx context.Context, l net.Listener, talk func(net.Conn) error) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept: %w", err)
		}
		wg.Go(func() {
			defer context.AfterFunc(ctx, func() { _ = c.Close() })()
			defer c.Close()
			if err := talk(c); err != nil && ctx.Err() == nil {
				fmt.Fprintf(os.Stderr, "connection from %s: %v\n", c.RemoteAddr(), err)
			}
		})
	}
}

// Back sends back what it gets.
func Back(c net.Conn) error {
	_, err := io.Copy(c, c)
	return closeWrite(c, err)
}

func closeWrite(c net.Conn, err error) error {
	if t, ok := c.(*net.TCPConn); ok && err == nil {
		return t.CloseWrite()
	}
	return err
}

func (s Server) greet(c net.Conn) error {
	if _, err := fmt.Fprintf(c, "220 %s %s sees %s\n", host(), s.Text, c.RemoteAddr()); err != nil {
		return err
	}
	return Back(c)
}

func sink(c net.Conn) error {
	n, err := io.Copy(io.Discard, c)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c, "%d\n", n)
	return err
}

func source(c net.Conn) error {
	block := make([]byte, 64<<10)
	fill(block)
	for {
		if _, err := c.Write(block); err != nil {
			// The client has had enough.
			return nil
		}
	}
}

// fill writes readable text, so that a capture shows whether it was hidden.
func fill(b []byte) {
	const line = "the quick brown fox jumps over the lazy dog\n"
	for i := range b {
		b[i] = line[i%len(line)]
	}
}

func host() string {
	h, err := os.Hostname()
	if err != nil {
		return "?"
	}
	return h
}

func (s Server) serveHTTP(ctx context.Context, l net.Listener) error {
	srv := &http.Server{Handler: s.handler(ctx), ReadHeaderTimeout: 10 * time.Second, Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	// Callers need a moment to learn that this pod is leaving; until then it serves them.
	wait(context.WithoutCancel(ctx), s.LameDuck)
	drain := s.Drain
	if drain == 0 {
		drain = 5 * time.Second
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	if srv.Shutdown(end) != nil {
		_ = srv.Close()
	}
	<-failed
	return nil
}

// handler answers on every path with who served and who asked. /download?bytes=N sends N bytes, /upload counts what it
// gets, /hold keeps the response open with a line a second, /delay?d=100ms waits, /status/N answers with that status,
// /ws is a WebSocket.
func (s Server) handler(ctx context.Context) http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("/", s.who)
	m.HandleFunc("/download", download)
	m.Handle("/ws", webSocketHandler())
	m.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "%d\n", n)
	})
	m.HandleFunc("/hold", func(w http.ResponseWriter, r *http.Request) { hold(ctx, w, r) })
	m.HandleFunc("/delay", func(w http.ResponseWriter, r *http.Request) {
		d, err := time.ParseDuration(r.URL.Query().Get("d"))
		if err != nil || d < 0 || d > time.Hour {
			http.Error(w, "d: a duration up to 1h", http.StatusBadRequest)
			return
		}
		if wait(r.Context(), d) {
			s.who(w, r)
		}
	})
	m.HandleFunc("/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		code, err := strconv.Atoi(r.PathValue("code"))
		if err != nil || code < 200 || code > 599 {
			code = http.StatusBadRequest
		}
		w.WriteHeader(code)
	})
	return m
}

func (s Server) who(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "Hostname=%s\n", host())
	if s.Text != "" {
		fmt.Fprintf(w, "Text=%s\n", s.Text)
	}
	fmt.Fprintf(w, "Client=%s\nMethod=%s\nURL=%s\nHost=%s\nProto=%s\n", r.RemoteAddr, r.Method, r.URL, r.Host, r.Proto)
	var lines []string
	for name, values := range r.Header {
		for _, v := range values {
			lines = append(lines, fmt.Sprintf("RequestHeader=%s:%s\n", name, v))
		}
	}
	slices.Sort(lines)
	fmt.Fprint(w, strings.Join(lines, ""))
}

func download(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(r.URL.Query().Get("bytes"), 10, 64)
	if err != nil || n < 0 {
		http.Error(w, "bytes: how many", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	block := make([]byte, 64<<10)
	fill(block)
	for n > 0 {
		k, err := w.Write(block[:min(n, int64(len(block)))])
		if err != nil {
			return
		}
		n -= int64(k)
	}
}

func hold(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	out := bufio.NewWriter(w)
	for i := 0; ; i++ {
		fmt.Fprintf(out, "%d %s\n", i, time.Now().UTC().Format(time.RFC3339Nano))
		if out.Flush() != nil {
			return
		}
		if f, ok := w.(http.Flusher); ok {
			f.Flush()
		}
		select {
		case <-ctx.Done():
			return
		default:
		}
		if !wait(r.Context(), time.Second) {
			return
		}
	}
}

// wait says false when ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
