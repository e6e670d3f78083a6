package envoy_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/waypoint/envoy/envoytest"
)

// TestTunnelIsTriedAgain: a tunnel that cannot be opened the first time costs no request, whatever its method: nothing of it
// was sent yet.
func TestTunnelIsTriedAgain(t *testing.T) {
	w, _, _ := echoWorld(t, "127.0.75.1", waypoint.Protocol_HTTP1)
	p := envoytest.Start(t, w)
	const behind = "127.0.75.2"
	p.Node(behind, idEcho)
	door := openDoor(t, fmt.Sprintf("127.0.75.1:%d", p.Options.PeerHBONEPort), fmt.Sprintf("%s:%d", behind, p.Options.PeerHBONEPort))
	for name, first := range map[string]func(net.Conn){
		"silence": func(net.Conn) {},
		"reset":   func(c net.Conn) { c.(*net.TCPConn).SetLinger(0); c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			door.first.Store(&first)
			c := p.Peer(idClient).Client("10.96.0.1:80")
			resp, err := c.Post("http://echo/", "text/plain", http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK || door.first.Load() != nil {
				t.Errorf("status %d", resp.StatusCode)
			}
			door.cut()
		})
	}
}

// door is a TCP relay that treats the first connection in its own way.
type door struct {
	first atomic.Pointer[func(net.Conn)]
	mu    sync.Mutex
	open  []net.Conn
}

func openDoor(t *testing.T, at, to string) *door {
	t.Helper()
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	d := &door{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			d.keep(in)
			if f := d.first.Swap(nil); f != nil {
				(*f)(in)
				continue
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			d.keep(out)
			for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
				wg.Go(func() {
					io.Copy(pair[0], pair[1])
					pair[0].Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		l.Close()
		d.cut()
		wg.Wait()
	})
	return d
}

func (d *door) keep(c net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open = append(d.open, c)
}

// cut closes everything that is open.
func (d *door) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.open {
		c.Close()
	}
	d.open = nil
}
