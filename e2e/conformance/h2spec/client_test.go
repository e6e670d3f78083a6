package h2spec

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/ztunnel/hbone"
	"github.com/summerwind/h2spec/client"
	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/spec"
)

// notApplicable lists the client cases that assume a request which ended before its response. A tunnel is still half
// open then, and RFC 9113 §5.1 wants a stream error there, which is what we send, where these want a connection error.
var notApplicable = map[string]bool{"client/5.1/8": true, "client/5.1/9": true}

// TestClient lets h2spec play the server for every client case.
func TestClient(t *testing.T) { runClientGroup(t, client.Spec()) }

func runClientGroup(t *testing.T, group *spec.ClientTestGroup) {
	for _, tc := range group.Tests {
		id := fmt.Sprintf("%s/%d", group.ID(), tc.Seq)
		t.Run(id, func(t *testing.T) {
			if notApplicable[id] {
				t.Skip("assumes a finished request; a tunnel is half open")
			}
			t.Parallel()
			cfg := &config.Config{Timeout: 2 * time.Second, MaxHeaderLen: 4000, Strict: true}
			switch err := tc.Run(cfg, called(t, cfg)); err {
			case nil:
			case spec.ErrSkipped:
				t.Skip("h2spec found nothing to test")
			default:
				t.Errorf("%s\n%s\n%v", tc.Desc, tc.Requirement, err)
			}
		})
	}
	for _, g := range group.Groups {
		runClientGroup(t, g)
	}
}

// called returns h2spec's end of a connection on which our client asks for one tunnel.
func called(t *testing.T, cfg *config.Config) *spec.Conn {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ours, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := spec.Accept(cfg, theirs)
	if err != nil {
		t.Fatal(err)
	}
	// The cases assume the default frame size, whatever the client announces.
	cc := hbone.Client(ours, hbone.Config{MaxFrame: 16 << 10})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { cc.Run(ctx) })
	running.Go(func() {
		if s, err := cc.Open(ctx, "10.0.0.1:80", nil); err == nil {
			s.CloseWrite()
		}
	})
	t.Cleanup(func() {
		conn.Close()
		cancel()
		running.Wait()
	})
	return conn
}
