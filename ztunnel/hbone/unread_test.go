package hbone

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// A peer that asks without end and reads no answer must not fill our memory with answers.
func TestAnswersNobodyReads(t *testing.T) {
	mine, its := net.Pipe()
	defer mine.Close()
	server := NewServer(its, Config{})
	ended := make(chan error, 1)
	go func() { ended <- server.Run(t.Context(), func(_ context.Context, in *Incoming) { in.Reject(503) }) }()
	var hb bytes.Buffer
	henc := hpack.NewEncoder(&hb)
	fr := http2.NewFramer(mine, nil)
	if _, err := io.WriteString(mine, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	fr.WriteSettings()
	var err error
	asked := 0
	busy := func() bool {
		server.c.mu.Lock()
		defer server.c.mu.Unlock()
		return server.handlers > 50
	}
	for ; err == nil && asked < 50_000; asked++ {
		// No faster than the handlers, or the limit of streams would end it.
		for busy() {
			runtime.Gosched()
		}
		hb.Reset()
		henc.WriteField(hpack.HeaderField{Name: ":method", Value: "CONNECT"})
		henc.WriteField(hpack.HeaderField{Name: ":authority", Value: "10.0.0.1:80"})
		err = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*asked + 1), EndHeaders: true, EndStream: true, BlockFragment: hb.Bytes()})
	}
	if err == nil {
		server.c.mu.Lock()
		queued := len(server.c.ctl)
		server.c.mu.Unlock()
		t.Fatalf("%d requests went unread, %d bytes of answers are queued", asked, queued)
	}
	var v *ProtocolViolation
	if err := <-ended; !errors.As(err, &v) || v.Code != EnhanceYourCalm {
		t.Fatalf("after %d requests: %v, want ENHANCE_YOUR_CALM", asked, err)
	}
}
