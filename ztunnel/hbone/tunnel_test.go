package hbone

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pair runs a client and a server over an in-memory connection until the test ends.
func pair(t *testing.T, cfg Config, h Handler) (*ClientConn, *ServerConn) {
	t.Helper()
	cn, sn := net.Pipe()
	client, server := Client(cn, cfg), NewServer(sn, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { t.Log("client", client.Run(ctx)) })
	wg.Go(func() { t.Log("server", server.Run(ctx, h)) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return client, server
}

// echo accepts every request and sends back what it reads, then its own end.
func echo(ctx context.Context, in *Incoming) {
	s, err := in.Accept(200)
	if err != nil {
		return
	}
	io.Copy(s, s)
	s.CloseWrite()
}

func TestEchoThroughTunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := pair(t, Config{}, echo)
		data := make([]byte, 9<<20)
		r := rand.NewChaCha8([32]byte{})
		r.Read(data)
		s, err := client.Open(t.Context(), "10.0.0.1:80", nil)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.Write(data); err != nil {
				t.Error(err)
			}
			s.CloseWrite()
		})
		got, err := io.ReadAll(s)
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("read %d bytes, %v", len(got), err)
		}
		wg.Wait()
		if n := client.InUse(); n != 0 {
			t.Errorf("%d streams left", n)
		}
	})
}

func TestRejectReportsStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := pair(t, Config{}, func(_ context.Context, in *Incoming) {
			in.Reject(401, Header{"why", in.Authority() + in.Header("forwarded")})
		})
		_, err := client.Open(t.Context(), "10.0.0.1:80", []Header{{"forwarded", "for=x"}})
		var status *StatusError
		if !errors.As(err, &status) || status.Code != 401 || lookup(status.Headers, "why") != "10.0.0.1:80for=x" {
			t.Fatalf("got %v", err)
		}
	})
}

func TestKeepaliveFindsDeadPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cn, sn := net.Pipe()
		client := Client(cn, Config{})
		go func() {
			sn.Write(appendSettings(nil))
			io.Copy(io.Discard, sn)
			sn.Close()
		}()
		start := time.Now()
		err := client.Run(t.Context())
		if !errors.Is(err, ErrPingTimeout) {
			t.Fatalf("got %v", err)
		}
		if d := time.Since(start); d < 30*time.Second || d > 45*time.Second {
			t.Errorf("took %s", d)
		}
	})
}
