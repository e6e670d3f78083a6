package h2spec

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/ztunnel/hbone"
	"github.com/summerwind/h2spec/config"
)

// TestServer runs every server case, the strict ones included, each on a connection of its own.
func TestServer(t *testing.T) {
	cfg := serve(t, hbone.Config{})
	// One case sends a little more than the default frame size and expects a refusal; we announce 1 MiB.
	small := serve(t, hbone.Config{MaxFrame: 16 << 10})
	pick := func(id string) *config.Config {
		if id == "http2/4.2/3" {
			return small
		}
		return cfg
	}
	Run(t, pick)
}

// serve answers like a ztunnel: CONNECT gets a tunnel that echoes, anything else 400.
func serve(t *testing.T, hc hbone.Config) *config.Config {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() { hbone.Serve(ctx, nc, hc, answer) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		cancel()
		running.Wait()
	})
	addr := ln.Addr().(*net.TCPAddr)
	return &config.Config{
		Host: addr.IP.String(), Port: addr.Port, Path: "/", Timeout: 2 * time.Second, MaxHeaderLen: 4000, Strict: true,
	}
}

func answer(_ context.Context, in *hbone.Incoming) {
	if in.Method() != "CONNECT" {
		in.Reject(400)
		return
	}
	s, err := in.Accept(200)
	if err != nil {
		return
	}
	if _, err := io.Copy(s, s); err == nil {
		s.CloseWrite()
	}
}
