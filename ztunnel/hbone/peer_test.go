package hbone

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script is a hand-driven peer: it writes frames as told and remembers what it gets.
type script struct {
	t      *testing.T
	nc     net.Conn
	client bool // the other end is a client
	*http2.Framer
	hb   bytes.Buffer
	henc *hpack.Encoder
	got  chan frame // closed at the end of the connection
	end  error      // how our side ended, valid after ended
	done chan struct{}
}

// frame is what script remembers of a frame.
type frame struct {
	typ     http2.FrameType
	id      uint32
	flags   http2.Flags
	code    http2.ErrCode
	last    uint32
	n       uint32 // increment, or payload length
	fields  map[string]string
	payload string
}

func newScript(t *testing.T, nc net.Conn) *script {
	s := &script{t: t, nc: nc, Framer: http2.NewFramer(nc, nc), got: make(chan frame, 10_000), done: make(chan struct{})}
	s.AllowIllegalWrites = true
	s.henc = hpack.NewEncoder(&s.hb)
	s.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	s.SetMaxReadFrameSize(1 << 20)
	return s
}

// toServer drives our server.
func toServer(t *testing.T, cfg Config, h Handler) (*script, *ServerConn) {
	mine, its := net.Pipe()
	s := newScript(t, mine)
	server := NewServer(its, cfg)
	s.start(func(ctx context.Context) error { return server.Run(ctx, h) })
	io.WriteString(mine, http2.ClientPreface)
	s.WriteSettings()
	return s, server
}

// toClient drives our client.
func toClient(t *testing.T, cfg Config) (*script, *ClientConn) {
	mine, its := net.Pipe()
	s := newScript(t, mine)
	s.client = true
	client := Client(its, cfg)
	s.start(client.Run)
	s.WriteSettings()
	return s, client
}

func (s *script) start(run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		s.end = run(ctx)
		close(s.done)
	})
	running.Go(s.read)
	s.t.Cleanup(func() {
		s.nc.Close()
		cancel()
		running.Wait()
	})
}

func (s *script) read() {
	defer close(s.got)
	if s.client {
		io.ReadFull(s.nc, make([]byte, len(preface)))
	}
	for {
		f, err := s.ReadFrame()
		if err != nil {
			return
		}
		h := f.Header()
		r := frame{typ: h.Type, id: h.StreamID, flags: h.Flags, n: h.Length}
		switch f := f.(type) {
		case *http2.DataFrame:
			r.payload = string(f.Data())
		case *http2.RSTStreamFrame:
			r.code = f.ErrCode
		case *http2.GoAwayFrame:
			r.code, r.last, r.payload = f.ErrCode, f.LastStreamID, string(f.DebugData())
		case *http2.WindowUpdateFrame:
			r.n = f.Increment
		case *http2.PingFrame:
			r.payload = string(f.Data[:])
		case *http2.MetaHeadersFrame:
			r.fields = map[string]string{}
			for _, hf := range f.Fields {
				r.fields[hf.Name] = hf.Value
			}
		}
		s.got <- r
	}
}

func (s *script) headers(id uint32, end bool, kv ...string) {
	s.t.Helper()
	s.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndStream: end, EndHeaders: true, BlockFragment: s.block(kv...)})
}

func (s *script) block(kv ...string) []byte {
	s.hb.Reset()
	for i := 0; i < len(kv); i += 2 {
		s.henc.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1]})
	}
	return bytes.Clone(s.hb.Bytes())
}

func (s *script) connect(id uint32) {
	s.headers(id, false, ":method", "CONNECT", ":authority", "10.0.0.1:80")
}

// next returns the next frame of that type; others, and what comes before it, are dropped.
func (s *script) next(typ http2.FrameType) frame {
	s.t.Helper()
	for f := range s.got {
		if f.typ == typ {
			return f
		}
	}
	s.t.Fatalf("connection ended before a %s frame", typ)
	return frame{}
}

// none checks that no frame of that type has arrived.
func (s *script) none(typ http2.FrameType) {
	s.t.Helper()
	synctest.Wait()
	for {
		select {
		case f := <-s.got:
			if f.typ == typ {
				s.t.Errorf("unexpected %+v", f)
				return
			}
		default:
			return
		}
	}
}

// reset expects RST_STREAM with code for stream id.
func (s *script) reset(id uint32, code http2.ErrCode) {
	s.t.Helper()
	if f := s.next(http2.FrameRSTStream); f.id != id || f.code != code {
		s.t.Errorf("got RST_STREAM %d %s, want %d %s", f.id, f.code, id, code)
	}
}

// fatal expects GOAWAY with code and our side to end with that violation.
func (s *script) fatal(code http2.ErrCode) {
	s.t.Helper()
	if f := s.next(http2.FrameGoAway); f.code != code {
		s.t.Errorf("got GOAWAY %s %q, want %s", f.code, f.payload, code)
	}
	<-s.done
	var v *ProtocolViolation
	if !errors.As(s.end, &v) || v.Code != ErrCode(code) {
		s.t.Errorf("ended with %v", s.end)
	}
}

// hold accepts and keeps the stream open until its context ends.
func hold(ctx context.Context, in *Incoming) {
	if _, err := in.Accept(200); err != nil {
		return
	}
	<-ctx.Done()
}
