package model

import (
	"net/netip"
	"testing"

	"github.com/ambit-mesh/ambit/control/object"
)

// Addresses that are in a ServiceEntry's status stay what they are; a host that is added to it gets one of its own.
func TestAssignedAddressesStay(t *testing.T) {
	m := New(Config{})
	out := newRecorder(t)
	key := object.Key{Kind: object.KindServiceEntry, Namespace: "shop", Name: "ext"}
	put := func(hosts []string, assigned ...object.HostAddress) []object.HostAddress {
		m.Apply([]object.Event{object.Put(&object.ServiceEntry{
			Meta: object.Meta{Namespace: "shop", Name: "ext"}, Hosts: hosts, Assigned: assigned, Resolution: object.ResolutionDNS,
			Ports: []object.EntryPort{{Name: "http", Number: 80, TargetPort: 80, Protocol: "HTTP"}},
		})})
		m.Flush(out)
		return out.reports[key].Addresses
	}
	first := put([]string{"a.example"})
	if len(first) != 2 || first[0].Host != "a.example" {
		t.Fatal(first) // one of each family
	}
	if again := put([]string{"a.example"}, first...); len(again) != 2 || again[0] != first[0] || again[1] != first[1] {
		t.Errorf("%v became %v", first, again)
	}
	odd := object.HostAddress{Host: "a.example", Address: netip.MustParseAddr("240.240.1.2")}
	both := put([]string{"a.example", "b.example"}, odd)
	if len(both) != 3 || both[0] != odd || both[1].Host != "b.example" || both[1].Address == odd.Address {
		t.Error(both)
	}
}
