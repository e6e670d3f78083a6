package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Addresses says where to serve; an empty one is off. Socket is the path of a unix socket with the content of the admin
// port.
type Addresses struct {
	Admin, Socket, Metrics, Readiness string
}

// Serve answers on all addresses until ctx ends, and returns when no request is in flight any more. An address another
// process holds is tried again: during an upgrade that is the proxy we replace, and it will let go.
func Serve(ctx context.Context, at Addresses, s Sources, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	errs := make(chan error, 5)
	serve := func(addr string, h http.Handler, listen func(string) (net.Listener, error)) {
		if addr == "" {
			return
		}
		wg.Go(func() {
			if err := serveOne(ctx, addr, h, listen, log); err != nil {
				errs <- err
				cancel()
			}
		})
	}
	admin := Handler(s)
	for _, addr := range loopbacks(at.Admin) {
		serve(addr, admin, listenTCP)
	}
	serve(at.Socket, admin, listenUnix)
	serve(at.Metrics, MetricsHandler(s), listenTCP)
	serve(at.Readiness, ReadinessHandler(s), listenTCP)
	wg.Wait()
	close(errs)
	var all error
	for err := range errs {
		all = errors.Join(all, err)
	}
	return all
}

// loopbacks turns localhost:port into both loopback addresses, because clients try either.
func loopbacks(addr string) []string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host != "localhost" {
		return []string{addr}
	}
	return []string{net.JoinHostPort("127.0.0.1", port), net.JoinHostPort("::1", port)}
}

func serveOne(ctx context.Context, addr string, h http.Handler, listen func(string) (net.Listener, error), log *slog.Logger) error {
	l, err := listenPatiently(ctx, addr, listen, log)
	if l == nil {
		return err
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	done := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		select {
		case <-ctx.Done():
		case <-done:
			return
		}
		// Profiles run for seconds; nobody should wait for one to stop a proxy.
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			srv.Close()
		}
	})
	err = srv.Serve(l)
	close(done)
	if ctx.Err() != nil && errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", addr, err)
}

// listenPatiently returns no listener and no error when ctx ended, or when the address family does not exist here.
func listenPatiently(ctx context.Context, addr string, listen func(string) (net.Listener, error), log *slog.Logger) (net.Listener, error) {
	pause := 50 * time.Millisecond
	for told := false; ; {
		l, err := listen(addr)
		switch {
		case err == nil:
			return l, nil
		case addr[0] == '[' && (errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)):
			return nil, nil
		case !errors.Is(err, syscall.EADDRINUSE):
			return nil, fmt.Errorf("listen on %s: %w", addr, err)
		case !told:
			log.Warn("address is in use, trying again until it is free", "addr", addr)
			told = true
		}
		select {
		case <-ctx.Done():
			return nil, nil
		case <-time.After(pause/2 + rand.N(pause)):
		}
		pause = min(2*pause, time.Second)
	}
}

func listenTCP(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }

// listenUnix takes the path over from whoever had it: the socket is made in a folder closed to others, and moved there
// with its own mode set. It is not removed at the end, since by then it may be the next process's.
func listenUnix(path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	temp, err := os.MkdirTemp(dir, ".admin-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(temp)
	sock := filepath.Join(temp, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: sock, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(sock, 0o600), os.Rename(sock, path)); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}
