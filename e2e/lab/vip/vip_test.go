package vip

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/ambit-mesh/ambit/api/netns/netnstest"
	"github.com/ambit-mesh/ambit/e2e/lab/services"
)

// TestManyServices has rules for far more than one netlink message usually takes, and the last service still works.
func TestManyServices(t *testing.T) {
	ns := netnstest.Make(t)
	var l net.Listener
	if err := ns.Do(func() (err error) { l, err = net.Listen("tcp", "127.0.0.1:0"); return err }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			_, _ = io.WriteString(c, "hi")
			c.Close()
		}
	}()
	var list []services.Service
	for i := range 800 {
		vip := netip.AddrFrom4([4]byte{127, 77, byte(i / 250), byte(1 + i%250)})
		list = append(list, services.Service{Namespace: "many", Name: fmt.Sprintf("s%d", i), VIPs: []netip.Addr{vip}, Ports: []services.Port{
			{Name: "http", Protocol: "TCP", Number: 80, Endpoints: []netip.AddrPort{netip.MustParseAddrPort(l.Addr().String())}},
			{Name: "more", Protocol: "TCP", Number: 81},
		}})
	}
	for range 2 { // the second time replaces them
		if err := Apply(fmt.Sprintf("/proc/self/fd/%d", ns.File().Fd()), list); err != nil {
			t.Fatal(err)
		}
	}
	var text []byte
	err := ns.Do(func() error {
		c, err := net.Dial("tcp", netip.AddrPortFrom(list[len(list)-1].VIPs[0], 80).String())
		if err != nil {
			return err
		}
		defer c.Close()
		text, err = io.ReadAll(c)
		return err
	})
	if err != nil || string(text) != "hi" {
		t.Errorf("%q, %v", text, err)
	}
}
