package lab

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// serveTestApp makes the test binary a small program for pods when it is called testapp:
// serve PORT TEXT, get URL, loop URL DURATION.
func serveTestApp() bool {
	if filepath.Base(os.Args[0]) != "testapp" {
		return false
	}
	err := fmt.Errorf("what?")
	switch os.Args[1] {
	case "serve":
		err = serveText(os.Args[2], os.Args[3])
	case "get":
		err = fetchTo(os.Stdout, os.Args[2])
	case "loop":
		err = loop(os.Args[2], os.Args[3])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

func serveText(port, text string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	srv := &http.Server{Addr: ":" + port, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s saw %s\n", text, os.Getenv("WHO"), hostOnly(r.RemoteAddr))
	})}
	srv.SetKeepAlivesEnabled(false)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		<-ctx.Done()
		// Connections that were on their way when the pod left its Services still find a listener.
		lameDuck := time.NewTimer(300 * time.Millisecond)
		<-lameDuck.C
		_ = srv.Shutdown(context.Background())
	}()
	if err := srv.ListenAndServe(); err != http.ErrServerClosed {
		return err
	}
	<-drained
	return nil
}

func hostOnly(addr string) string {
	for i := len(addr) - 1; i >= 0; i-- {
		if addr[i] == ':' {
			return addr[:i]
		}
	}
	return addr
}

func fetch(url string) error { return fetchTo(io.Discard, url) }

func fetchTo(w io.Writer, url string) error {
	c := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

func loop(url, duration string) error {
	d, err := time.ParseDuration(duration)
	if err != nil {
		return err
	}
	n := 0
	for end := time.Now().Add(d); time.Now().Before(end); n++ {
		if err := fetch(url); err != nil {
			return fmt.Errorf("request %d: %w", n, err)
		}
	}
	return nil
}
