package vip

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/nftables"

	"github.com/ambit-mesh/ambit/api/netns/netnstest"
	"github.com/ambit-mesh/ambit/e2e/lab/services"
)

// TestManyServices has rules for far more than one netlink message usually takes, and wants those of the last service.
func TestManyServices(t *testing.T) {
	ns := netnstest.Make(t)
	var list []services.Service
	for i := range 800 {
		list = append(list, services.Service{
			Namespace: "many", Name: fmt.Sprintf("s%d", i), VIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(i / 250), byte(1 + i%250)})},
			Ports: []services.Port{
				{Name: "http", Protocol: "TCP", Number: 80, Endpoints: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:8080")}},
				{Name: "more", Protocol: "TCP", Number: 81},
			},
		})
	}
	for range 2 { // the second time replaces them
		if err := Apply(fmt.Sprintf("/proc/self/fd/%d", ns.File().Fd()), list); err != nil {
			t.Fatal(err)
		}
	}
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.File().Fd())))
	if err != nil {
		t.Fatal(err)
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(chains, func(c *nftables.Chain) bool { return c.Name == "svc-799-0-0" }) {
		t.Errorf("of %d chains none is the last service's", len(chains))
	}
}
