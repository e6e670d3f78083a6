package hbone

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2"
)

func pipe(t *testing.T) (a, b net.Conn) {
	a, b = net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// opening starts an Open whose result can be fetched.
func opening(cc *ClientConn, ctx context.Context) func() (*Stream, error) {
	type result struct {
		s   *Stream
		err error
	}
	ch := make(chan result, 1)
	go func() {
		s, err := cc.Open(ctx, "10.0.0.1:80", nil)
		ch <- result{s, err}
	}()
	return func() (*Stream, error) {
		r := <-ch
		return r.s, r.err
	}
}

func TestInterimResponsesAndTrailers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, cc := toClient(t, Config{})
		open := opening(cc, t.Context())
		if f := s.next(http2.FrameHeaders); f.fields[":method"] != "CONNECT" || f.fields[":authority"] != "10.0.0.1:80" ||
			len(f.fields) != 2 {
			t.Errorf("request %+v", f)
		}
		s.headers(1, false, ":status", "103", "link", "x")
		s.headers(1, false, ":status", "200", "baggage", "y")
		st, err := open()
		if err != nil || lookup(st.ResponseHeaders(), "baggage") != "y" {
			t.Fatalf("got %v, %v", st, err)
		}
		s.WriteData(1, false, []byte("body"))
		s.headers(1, true, "grpc-status", "0")
		if b, err := io.ReadAll(st); string(b) != "body" || err != nil {
			t.Errorf("read %q, %v", b, err)
		}
		st.CloseWrite()
		if f := s.next(http2.FrameData); !f.flags.Has(http2.FlagDataEndStream) {
			t.Errorf("got %+v", f)
		}
	})
}

func TestGoAwayFailsOnlyUnseenStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, cc := toClient(t, Config{})
		first := opening(cc, t.Context())
		synctest.Wait()
		s.headers(1, false, ":status", "200")
		st, err := first()
		if err != nil {
			t.Fatal(err)
		}
		second := opening(cc, t.Context())
		synctest.Wait()
		s.WriteGoAway(1, http2.ErrCodeNo, nil)
		if _, err := second(); !errors.Is(err, ErrDraining) {
			t.Errorf("unseen stream ended with %v", err)
		}
		if _, err := cc.Open(t.Context(), "x:1", nil); !errors.Is(err, ErrDraining) {
			t.Errorf("late stream ended with %v", err)
		}
		s.WriteData(1, true, []byte("bye"))
		if b, err := io.ReadAll(st); string(b) != "bye" || err != nil {
			t.Errorf("read %q, %v", b, err)
		}
		st.CloseWrite()
		<-s.done
		if s.end != nil {
			t.Errorf("ended with %v", s.end)
		}
	})
}

func TestRefusedStreamMayBeRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, cc := toClient(t, Config{})
		open := opening(cc, t.Context())
		synctest.Wait()
		s.WriteRSTStream(1, http2.ErrCodeRefusedStream)
		if _, err := open(); !errors.Is(err, ErrDraining) {
			t.Errorf("got %v", err)
		}
	})
}

func TestOpenGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, cc := toClient(t, Config{})
		ctx, cancel := context.WithCancel(t.Context())
		open := opening(cc, ctx)
		synctest.Wait()
		cancel()
		if _, err := open(); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		s.reset(1, http2.ErrCodeCancel)
		// The answer crosses our reset and is ignored.
		s.headers(1, false, ":status", "200")
		s.WriteData(1, true, []byte("late"))
		s.WritePing(false, [8]byte{1})
		s.none(http2.FrameGoAway)
		if n := cc.InUse(); n != 0 {
			t.Errorf("%d streams", n)
		}
	})
}

func TestStreamLimitOfPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, cc := toClient(t, Config{})
		s.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
		synctest.Wait()
		opening(cc, t.Context())
		synctest.Wait()
		if _, err := cc.Open(t.Context(), "x:1", nil); !errors.Is(err, ErrFull) || cc.Available() != 0 {
			t.Errorf("got %v", err)
		}
		_ = s
	})
}

// TestSendWindows drives a writer through small, growing, shrinking and negative windows.
func TestSendWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, cc := toClient(t, Config{})
		s.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
		synctest.Wait()
		open := opening(cc, t.Context())
		synctest.Wait()
		s.headers(1, false, ":status", "200")
		st, err := open()
		if err != nil {
			t.Fatal(err)
		}
		var writing sync.WaitGroup
		writing.Go(func() {
			if _, err := st.Write([]byte("0123456789abcdefghijklmnopqrstuvwxyz")); err != nil {
				t.Error(err)
			}
			st.CloseWrite()
		})
		expect := func(want string) {
			t.Helper()
			if f := s.next(http2.FrameData); f.payload != want {
				t.Errorf("got %q, want %q", f.payload, want)
			}
		}
		expect("0123456789")
		s.none(http2.FrameData)
		s.WriteWindowUpdate(1, 2)
		expect("ab")
		s.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 5}) // window −5
		s.WriteWindowUpdate(1, 5)                                                  // 0
		s.none(http2.FrameData)
		s.WriteWindowUpdate(1, 3)
		expect("cde")
		s.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 9})
		expect("fghi")
		s.WriteWindowUpdate(1, 100)
		expect("jklmnopqrstuvwxyz")
		writing.Wait()
	})
}

// TestConnectionWindowIsShared checks that writers waiting for the connection window all get their turn.
func TestConnectionWindowIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, cc := toClient(t, Config{})
		var writing sync.WaitGroup
		for i := range 5 {
			open := opening(cc, t.Context())
			synctest.Wait()
			s.headers(uint32(2*i+1), false, ":status", "200")
			st, err := open()
			if err != nil {
				t.Fatal(err)
			}
			writing.Go(func() {
				st.Write(make([]byte, 50_000))
				st.CloseWrite()
			})
		}
		synctest.Wait()
		sum := 0
		for ended := 0; ended < 5; {
			f := s.next(http2.FrameData)
			sum += int(f.n)
			if f.flags.Has(http2.FlagDataEndStream) {
				ended++
			}
			if f.n > 0 {
				s.WriteWindowUpdate(0, f.n)
			}
		}
		writing.Wait()
		if sum != 250_000 {
			t.Errorf("got %d bytes", sum)
		}
	})
}

func TestResponseFaults(t *testing.T) {
	for name, send := range map[string]func(s *script){
		"no status":         func(s *script) { s.headers(1, false, "x", "y") },
		"two digits":        func(s *script) { s.headers(1, false, ":status", "20") },
		"request pseudo":    func(s *script) { s.headers(1, false, ":status", "200", ":path", "/") },
		"data before":       func(s *script) { s.WriteData(1, false, []byte("x")) },
		"interim that ends": func(s *script) { s.headers(1, true, ":status", "100") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, cc := toClient(t, Config{})
				open := opening(cc, t.Context())
				synctest.Wait()
				send(s)
				var r *ResetError
				if _, err := open(); !errors.As(err, &r) || r.Code != ProtocolError || r.Remote {
					t.Errorf("got %v", err)
				}
				s.reset(1, http2.ErrCodeProtocol)
			})
		})
	}
}

// TestOrderlyResetKeepsWhatArrived covers servers that end the response and then refuse the rest of the request, as
// x/net/http2 does when a handler returns and Envoy when the server of a tunnel is done first.
func TestOrderlyResetKeepsWhatArrived(t *testing.T) {
	for _, code := range []http2.ErrCode{http2.ErrCodeNo, http2.ErrCodeConnect} {
		synctest.Test(t, func(t *testing.T) {
			s, cc := toClient(t, Config{})
			open := opening(cc, t.Context())
			synctest.Wait()
			s.headers(1, false, ":status", "200")
			st, err := open()
			if err != nil {
				t.Fatal(err)
			}
			s.WriteData(1, true, []byte("all there is"))
			s.WriteRSTStream(1, code)
			synctest.Wait()
			if b, err := io.ReadAll(st); string(b) != "all there is" || err != nil {
				t.Errorf("%v: read %q, %v", code, b, err)
			}
			if err := st.Ready(); err != nil {
				t.Errorf("%v: not ready for an end: %v", code, err)
			}
			if _, err := st.Write([]byte("x")); err == nil {
				t.Errorf("%v: the peer reads no more, but Write succeeded", code)
			}
			if err := st.CloseWrite(); err != nil {
				t.Errorf("%v: an end that nobody waits for: %v", code, err)
			}
		})
	}
}

func TestLostConnectionFailsStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, cc := toClient(t, Config{})
		open := opening(cc, t.Context())
		synctest.Wait()
		s.headers(1, false, ":status", "200")
		st, err := open()
		if err != nil {
			t.Fatal(err)
		}
		pending := opening(cc, t.Context())
		synctest.Wait()
		s.nc.Close()
		if _, err := st.Read(make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("read: %v", err)
		}
		if _, err := pending(); !errors.Is(err, ErrDraining) {
			t.Errorf("unanswered open: %v", err)
		}
		<-s.done
		if !errors.Is(s.end, io.ErrUnexpectedEOF) {
			t.Errorf("ended with %v", s.end)
		}
	})
}
