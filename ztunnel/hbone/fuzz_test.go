package hbone

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// fed is a connection whose peer says what the fuzzer wants and reads everything.
type fed struct {
	in   *bytes.Reader
	once sync.Once
	end  chan struct{}
}

func (f *fed) Read(p []byte) (int, error) {
	// Odd portions, so that frames are cut everywhere.
	n, err := f.in.Read(p[:min(len(p), 1+f.in.Len()%37)])
	if err == io.EOF {
		f.Close()
	}
	return n, err
}
func (f *fed) Write(p []byte) (int, error) {
	select {
	case <-f.end:
		return 0, net.ErrClosed
	default:
		return len(p), nil
	}
}
func (f *fed) Close() error                     { f.once.Do(func() { close(f.end) }); return nil }
func (f *fed) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (f *fed) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (f *fed) SetDeadline(time.Time) error      { return nil }
func (f *fed) SetReadDeadline(time.Time) error  { return nil }
func (f *fed) SetWriteDeadline(time.Time) error { return nil }

// seeds are conversations that reach into most of the parser.
func seeds(client bool) [][]byte {
	var hb bytes.Buffer
	henc := hpack.NewEncoder(&hb)
	fields := func(kv ...string) []byte {
		hb.Reset()
		for i := 0; i < len(kv); i += 2 {
			henc.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1]})
		}
		return bytes.Clone(hb.Bytes())
	}
	conversation := func(talk func(f *http2.Framer)) []byte {
		var b bytes.Buffer
		if client {
			b.WriteString(preface)
		}
		f := http2.NewFramer(&b, nil)
		f.AllowIllegalWrites = true
		f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20}, http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 20})
		talk(f)
		return b.Bytes()
	}
	first := []string{":method", "CONNECT", ":authority", "10.0.0.1:80", "baggage", "a=b"}
	if !client {
		first = []string{":status", "200", "baggage", "a=b"}
	}
	return [][]byte{
		conversation(func(f *http2.Framer) {
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: fields(first...)})
			f.WriteData(1, false, []byte("hello"))
			f.WriteDataPadded(1, true, []byte("hello"), make([]byte, 9))
			f.WritePing(false, [8]byte{1})
			f.WriteWindowUpdate(0, 100)
			f.WriteGoAway(1, http2.ErrCodeNo, []byte("bye"))
		}),
		conversation(func(f *http2.Framer) {
			block := fields(append(first, "forwarded", "for=x")...)
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, PadLength: 3, BlockFragment: block[:4],
				Priority: http2.PriorityParam{StreamDep: 3, Weight: 7}})
			f.WriteContinuation(1, true, block[4:])
			f.WritePriority(1, http2.PriorityParam{StreamDep: 5})
			f.WriteRawFrame(0x42, 1, 7, []byte("unknown"))
			f.WriteWindowUpdate(1, 5)
			f.WriteRSTStream(1, http2.ErrCodeCancel)
			f.WriteData(1, false, []byte("late"))
			f.WriteSettingsAck()
		}),
	}
}

// check runs the connection over the fuzzer's bytes and looks at what must hold whatever they are.
func check(t *testing.T, c *conn, run func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	err := run(ctx)
	if ctx.Err() != nil {
		t.Fatal("the connection did not end with its input")
	}
	var v *ProtocolViolation
	if errors.As(err, &v) && v.Code == InternalError {
		t.Errorf("blamed ourselves: %v", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.streams) != 0 || c.recvWin < 0 || c.credit < 0 {
		t.Errorf("%d streams left, window %d, credit %d", len(c.streams), c.recvWin, c.credit)
	}
	if int64(c.cfg.ConnWindow) < c.recvWin+c.credit {
		t.Errorf("window %d and credit %d are more than we granted", c.recvWin, c.credit)
	}
}

func FuzzServer(f *testing.F) {
	for _, s := range seeds(true) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := NewServer(&fed{in: bytes.NewReader(b), end: make(chan struct{})}, Config{})
		check(t, s.c, func(ctx context.Context) error { return s.Run(ctx, echo) })
	})
}

func FuzzClient(f *testing.F) {
	for _, s := range seeds(false) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		cc := Client(&fed{in: bytes.NewReader(b), end: make(chan struct{})}, Config{})
		var opened sync.WaitGroup
		for range 3 {
			// Queue the request before the peer's bytes are read.
			if s, err := cc.c.request("10.0.0.1:80", nil); err == nil {
				opened.Go(func() {
					io.Copy(io.Discard, s)
					s.Close()
				})
			}
		}
		check(t, cc.c, func(ctx context.Context) error {
			err := cc.Run(ctx)
			opened.Wait()
			return err
		})
	})
}
