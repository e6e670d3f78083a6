package proxy

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/ambit-mesh/ambit/ztunnel/dns"
	"github.com/ambit-mesh/ambit/ztunnel/state"
)

// A proxy that is replaced answers what it was asked, and what is asked from then on is the next one's: a client that gets no
// answer to a datagram asks again after five seconds.
func TestNoQuestionIsLostBetweenProxies(t *testing.T) {
	upstream := startNameServer(t, 20*time.Millisecond)
	server := dns.New(dns.Config{
		State: state.New().Current, Client: func(*state.Snapshot) *state.Workload { return nil },
		Upstream: dns.Upstream{Servers: []netip.AddrPort{upstream}},
		Dial: func(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, server.String())
		},
		Logger: slog.New(slog.DiscardHandler),
	})
	open := func(at string) net.PacketConn {
		pc, err := (&net.ListenConfig{Control: sockopts(reusePort)}).ListenPacket(t.Context(), "udp", at)
		if err != nil {
			t.Fatal(err)
		}
		take(pc)
		return pc
	}
	type proxied struct {
		dnsSockets
		serving sync.WaitGroup
	}
	serve := func(at string) *proxied {
		p := &proxied{dnsSockets: dnsSockets{packets: []net.PacketConn{open(at)}}}
		p.serving.Go(func() {
			if err := server.ServePacket(t.Context(), p.packets[0]); err != nil {
				t.Error(err)
			}
		})
		return p
	}
	current := serve("127.0.0.1:0")
	at := current.packets[0].LocalAddr().String()
	var asking sync.WaitGroup
	var lost, asked atomic.Int64
	done := make(chan struct{})
	for range 20 {
		asking.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := ask(at); err != nil {
					lost.Add(1)
				}
				asked.Add(1)
			}
		})
	}
	for range 10 {
		next := serve(at)
		current.leave(true)
		current.serving.Wait()
		current = next
	}
	close(done)
	asking.Wait()
	current.leave(true)
	current.serving.Wait()
	if n := lost.Load(); n > 0 {
		t.Errorf("%d of %d questions got no answer", n, asked.Load())
	}
}

func ask(at string) error {
	c, err := net.Dial("udp", at)
	if err != nil {
		return err
	}
	defer c.Close()
	question := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("example.com."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	msg, err := question.Pack()
	if err != nil {
		return err
	}
	if _, err := c.Write(msg); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, err = c.Read(make([]byte, 512))
	return err
}

// startNameServer answers every question after a while.
func startNameServer(t *testing.T, after time.Duration) netip.AddrPort {
	t.Helper()
	pc, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			buf := make([]byte, 512)
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			wg.Go(func() {
				time.Sleep(after)
				buf[2] |= 0x80 // it is an answer
				_, _ = pc.WriteTo(buf[:n], from)
			})
		}
	})
	t.Cleanup(func() { pc.Close(); wg.Wait() })
	return pc.LocalAddr().(*net.UDPAddr).AddrPort()
}
