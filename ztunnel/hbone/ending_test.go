package hbone

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// TestDrainDeliversTheTail drains a server while its last stream ends with more bytes under way than sockets hold, towards
// a peer that goes on sending WINDOW_UPDATEs.
func TestDrainDeliversTheTail(t *testing.T) {
	for range 20 {
		bothTransports(t, func(t *testing.T, c, s net.Conn) {
			const size = 3 << 20
			server := NewServer(s, Config{})
			var running sync.WaitGroup
			running.Go(func() {
				server.Run(context.Background(), func(_ context.Context, in *Incoming) {
					st, err := in.Accept(200)
					if err != nil {
						t.Error(err)
						return
					}
					server.Drain()
					io.Copy(io.Discard, st)
					if _, err := st.Write(make([]byte, size)); err != nil {
						t.Error(err)
					}
					st.CloseWrite()
				})
			})
			cc := Client(c, Config{StreamWindow: 100_000})
			running.Go(func() { cc.Run(context.Background()) })
			defer running.Wait()
			st, err := cc.Open(t.Context(), "10.0.0.1:80", nil)
			if err != nil {
				t.Fatal(err)
			}
			st.CloseWrite()
			if n, err := io.Copy(io.Discard, st); n != size || err != nil {
				t.Errorf("read %d bytes, %v", n, err)
			}
		})
	}
}

// TestCloseIsPrompt checks that our own wish to end does not wait for a peer that does not react.
func TestCloseIsPrompt(t *testing.T) {
	c, s := connect(t, false)
	cc := Client(c, Config{})
	var running sync.WaitGroup
	running.Go(func() {
		if err := cc.Run(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if _, err := io.ReadFull(s, make([]byte, len(preface))); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	cc.Close()
	running.Wait()
	if d := time.Since(start); d > time.Second {
		t.Errorf("took %s", d)
	}
}
