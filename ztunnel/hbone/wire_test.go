package hbone

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/ztunnel/hbone/buffer"
)

// TestWireDoesNotHoldBackData sends bytes and, in the same packet, a record that carries none: a session ticket. What was
// read must not wait for the bytes after it.
func TestWireDoesNotHoldBackData(t *testing.T) {
	c, s := connect(t, false)
	cfg := tlsConfig(t)
	wire := NewWire(c.(*net.TCPConn))
	client := tls.Client(wire, cfg)
	packed := NewWire(s.(*net.TCPConn))
	server := tls.Server(packed, cfg)
	var shaking sync.WaitGroup
	shaking.Go(func() {
		if err := server.Handshake(); err != nil {
			t.Error(err)
		}
	})
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	shaking.Wait()

	conn := newConn(client, Config{}, true)
	if conn.wire != wire {
		t.Fatal("the engine did not find the wire")
	}
	packed.cork()
	server.Write(appendSettings(nil))
	server.CloseWrite() // an alert: a record without application data, as a ticket or a key update is
	packed.SetWriteDeadline(time.Time{})
	if err := packed.uncork(); err != nil {
		t.Fatal(err)
	}
	got := make(chan int, 1)
	go func() {
		b := buffer.Get(buffer.Large)
		defer b.Free()
		conn.fill(b)
		got <- b.Len()
	}()
	select {
	case n := <-got:
		if n != frameHeaderLen {
			t.Errorf("read %d bytes", n)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was read")
	}
}

// TestWireReadsWhatIsThere checks readMore at every boundary: with a record here, with half of one, with none.
func TestWireReadsWhatIsThere(t *testing.T) {
	c, s := connect(t, true)
	client := c.(*tls.Conn)
	wire := client.NetConn().(*Wire)
	packed := s.(*tls.Conn).NetConn().(*Wire)
	packed.cork()
	for range 3 {
		s.Write([]byte("record"))
	}
	if err := packed.uncork(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	if _, err := io.ReadFull(client, b[:6]); err != nil {
		t.Fatal(err)
	}
	more := 0
	for wire.ready() {
		n, err := wire.readMore(client, b)
		if n != 6 || err != nil {
			t.Fatalf("got %d bytes, %v", n, err)
		}
		more++
	}
	if more != 2 {
		t.Errorf("found %d records waiting, want 2", more)
	}
	if n, err := wire.readMore(client, b); n != 0 || err != nil {
		t.Errorf("with nothing there: %d bytes, %v", n, err)
	}
	s.Write([]byte("after"))
	if _, err := io.ReadFull(client, b[:5]); err != nil || string(b[:5]) != "after" {
		t.Errorf("afterwards: %q, %v", b[:5], err)
	}
}
