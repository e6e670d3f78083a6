package hbone

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

func TestMalformedRequests(t *testing.T) {
	for _, tt := range []struct {
		name   string
		fields []string
	}{
		{"scheme", []string{":method", "CONNECT", ":scheme", "https", ":authority", "a:1"}},
		{"path", []string{":method", "CONNECT", ":path", "/", ":authority", "a:1"}},
		{"no authority", []string{":method", "CONNECT"}},
		{"no method", []string{":authority", "a:1"}},
		{"extended", []string{":method", "CONNECT", ":protocol", "websocket", ":authority", "a:1"}},
		{"status", []string{":method", "CONNECT", ":status", "200", ":authority", "a:1"}},
		{"upper case", []string{":method", "CONNECT", ":authority", "a:1", "Baggage", "x"}},
		{"connection", []string{":method", "CONNECT", ":authority", "a:1", "connection", "close"}},
		{"line feed", []string{":method", "CONNECT", ":authority", "a:1", "baggage", "a\nb"}},
		{"authority twice", []string{":method", "CONNECT", ":authority", "a:1", ":authority", "b:1"}},
		{"pseudo last", []string{":method", "CONNECT", "baggage", "x", ":authority", "a:1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := toServer(t, Config{}, func(_ context.Context, in *Incoming) { t.Error("reached the handler") })
				s.headers(1, false, tt.fields...)
				s.reset(1, http2.ErrCodeProtocol)
			})
		})
	}
}

func TestOtherMethodsAreAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := toServer(t, Config{}, func(_ context.Context, in *Incoming) {
			if in.Method() == "CONNECT" {
				t.Error("not a CONNECT")
			}
			in.Reject(400)
		})
		s.headers(1, true, ":method", "GET", ":scheme", "https", ":authority", "a:1", ":path", "/")
		if f := s.next(http2.FrameHeaders); f.fields[":status"] != "400" {
			t.Errorf("got %+v", f)
		}
		if f := s.next(http2.FrameData); !strings.Contains(f.payload, "CONNECT") {
			t.Errorf("got %+v", f)
		}
	})
}

func TestPaddedDataIsDeliveredAndCredited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := make(chan string, 1)
		s, server := toServer(t, Config{StreamWindow: 70_000, ConnWindow: 70_000}, func(_ context.Context, in *Incoming) {
			st, _ := in.Accept(200)
			b, _ := io.ReadAll(st)
			got <- string(b)
		})
		s.connect(1)
		var want strings.Builder
		for range 500 { // several windows' worth, most of it padding
			s.WriteDataPadded(1, false, []byte("abc"), make([]byte, 250))
			want.WriteString("abc")
			synctest.Wait()
		}
		s.WriteData(1, true, nil)
		if b := <-got; b != want.String() {
			t.Errorf("got %d bytes", len(b))
		}
		_ = server
	})
}

func TestWindowOverruns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{StreamWindow: 100_000, ConnWindow: 150_000, MaxFrame: 1 << 20}
		s, _ := toServer(t, cfg, hold)
		s.connect(1)
		s.WriteData(1, false, make([]byte, 100_001))
		s.reset(1, http2.ErrCodeFlowControl)
		s.connect(3)
		s.WriteData(3, false, make([]byte, 100_000)) // the first one's bytes were credited back
		s.connect(5)
		s.WriteData(5, false, make([]byte, 60_000))
		s.fatal(http2.ErrCodeFlowControl)
	})
}

func TestStreamLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, server := toServer(t, Config{MaxStreams: 2}, hold)
		s.connect(1)
		s.connect(3)
		s.connect(5)
		s.reset(5, http2.ErrCodeRefusedStream)
		if n := server.InUse(); n != 2 {
			t.Errorf("%d streams", n)
		}
		s.WriteRSTStream(1, http2.ErrCodeCancel)
		synctest.Wait()
		s.connect(7)
		for s.next(http2.FrameHeaders).id != 7 { // after the answers to 1 and 3
		}
	})
}

// TestRapidReset opens and abandons streams faster than handlers can end.
func TestRapidReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		running, most := make(chan int, 1), 0
		running <- 0
		release := make(chan struct{})
		s, _ := toServer(t, Config{MaxStreams: 10}, func(_ context.Context, in *Incoming) {
			n := <-running + 1
			most = max(most, n)
			running <- n
			<-release
		})
		for id := uint32(1); id < 40_000; id += 2 {
			s.connect(id)
			if s.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
				break
			}
		}
		close(release)
		<-s.done
		var v *ProtocolViolation
		if !errors.As(s.end, &v) || v.Code != EnhanceYourCalm {
			t.Errorf("ended with %v", s.end)
		}
		if most > 20 {
			t.Errorf("%d handlers at once", most)
		}
	})
}

func TestFloods(t *testing.T) {
	for name, send := range map[string]func(s *script) error{
		"ping":       func(s *script) error { return s.WritePing(false, [8]byte{}) },
		"settings":   func(s *script) error { return s.WriteSettings(http2.Setting{ID: 3, Val: 1}) },
		"empty data": func(s *script) error { return s.WriteData(1, false, nil) },
		"continuation": func(s *script) error {
			s.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: nil})
			for range 100 {
				if err := s.WriteContinuation(3, false, nil); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := toServer(t, Config{}, hold)
				s.connect(1)
				for range 20_000 {
					if send(s) != nil {
						break
					}
				}
				s.fatal(http2.ErrCodeEnhanceYourCalm)
			})
		})
	}
}

func TestHeaderListLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := toServer(t, Config{HeaderList: 4 << 10}, func(context.Context, *Incoming) { t.Error("reached the handler") })
		kv := []string{":method", "CONNECT", ":authority", "a:1"}
		for range 5 {
			kv = append(kv, "x", strings.Repeat("y", 1000))
		}
		s.headers(1, false, kv...)
		if f := s.next(http2.FrameHeaders); f.fields[":status"] != "431" {
			t.Errorf("got %+v", f)
		}
		s.reset(1, http2.ErrCodeNo)
		// The compression state has survived.
		s.headers(3, false, ":method", "CONNECT", ":authority", "", "x", strings.Repeat("y", 1000))
		s.reset(3, http2.ErrCodeProtocol)
	})
}

func TestForgetfulHandlerResets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := toServer(t, Config{}, func(context.Context, *Incoming) {})
		s.connect(1)
		s.reset(1, http2.ErrCodeInternal)
	})
}

func TestResetEndsHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		s, _ := toServer(t, Config{}, func(ctx context.Context, in *Incoming) {
			<-ctx.Done()
			_, err := in.Accept(200)
			ended <- errors.Join(context.Cause(ctx), err)
		})
		s.connect(1)
		s.WriteRSTStream(1, http2.ErrCodeCancel)
		var r *ResetError
		if err := <-ended; !errors.As(err, &r) || !r.Remote || r.Code != Cancel {
			t.Errorf("got %v", err)
		}
	})
}

func TestDrainInTwoSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, server := toServer(t, Config{}, echo)
		s.connect(1)
		s.next(http2.FrameHeaders)
		server.Drain()
		server.Drain()
		if f := s.next(http2.FrameGoAway); f.last != maxStreamID || f.code != http2.ErrCodeNo {
			t.Errorf("first GOAWAY %+v", f)
		}
		ping := s.next(http2.FramePing)
		// A request that crossed the first GOAWAY is still served.
		s.connect(3)
		if f := s.next(http2.FrameHeaders); f.id != 3 {
			t.Errorf("request between the GOAWAYs got %+v", f)
		}
		s.WritePing(true, [8]byte([]byte(ping.payload)))
		if f := s.next(http2.FrameGoAway); f.last != 3 || f.code != http2.ErrCodeNo {
			t.Errorf("second GOAWAY %+v", f)
		}
		s.connect(5)
		s.none(http2.FrameHeaders)
		for _, id := range []uint32{1, 3} {
			s.WriteData(id, false, []byte("still served"))
			if f := s.next(http2.FrameData); f.id != id || f.payload != "still served" {
				t.Errorf("got %+v", f)
			}
			s.WriteData(id, true, nil)
			s.next(http2.FrameData)
		}
		<-s.done
		if s.end != nil {
			t.Errorf("ended with %v", s.end)
		}
	})
}

func TestDrainWithoutPingAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		drain := make(chan struct{})
		start := time.Now()
		s, _ := toServer(t, Config{Drain: drain}, echo)
		close(drain)
		<-s.done
		if d := time.Since(start); s.end != nil || d != time.Second {
			t.Errorf("ended with %v after %s", s.end, d)
		}
	})
}

func TestSilentPeerIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cn, sn := pipe(t)
		start := time.Now()
		err := Serve(t.Context(), sn, Config{}, echo)
		if d := time.Since(start); err == nil || d < 10*time.Second || d > 12*time.Second {
			t.Errorf("ended with %v after %s", err, d)
		}
		_ = cn
	})
}
