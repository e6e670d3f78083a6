package model

import (
	"net/netip"
	"testing"
	"time"

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

// TestAssignedAddressesAreTheirs: whoever writes an address down that the mesh has given to a host of another namespace does
// not get that host's traffic, and is told; a namespace's own entries may share one.
func TestAssignedAddressesAreTheirs(t *testing.T) {
	m := New(Config{})
	out := newRecorder(t)
	at := netip.MustParseAddr("240.240.1.2")
	begin := time.Unix(1e9, 0)
	entry := func(ns, name, host string, age time.Duration) *object.ServiceEntry {
		return &object.ServiceEntry{
			Meta: object.Meta{Namespace: ns, Name: name, Created: begin.Add(-age)}, Hosts: []string{host}, Resolution: object.ResolutionDNS,
			Ports: []object.EntryPort{{Name: "http", Number: 80, TargetPort: 80, Protocol: "HTTP"}},
		}
	}
	theirs := entry("shop", "ext", "pay.example", time.Hour)
	theirs.Assigned = []object.HostAddress{{Host: "pay.example", Address: at}}
	thief, status, own := entry("aaa", "thief", "other.example", 0), entry("aaa", "status", "third.example", 0), entry("shop", "alias", "alias.example", 0)
	thief.Addresses, own.Addresses = []netip.Prefix{netip.PrefixFrom(at, 32)}, []netip.Prefix{netip.PrefixFrom(at, 32)}
	status.Assigned = []object.HostAddress{{Host: "third.example", Address: at}}
	m.Apply([]object.Event{object.Put(thief), object.Put(status), object.Put(own), object.Put(theirs)})
	m.Flush(out)
	for name, want := range map[string]bool{"shop/pay.example": true, "shop/alias.example": true, "aaa/other.example": false, "aaa/third.example": false} {
		has := false
		for _, a := range out.services[name].GetAddresses() {
			got, _ := netip.AddrFromSlice(a.Address)
			has = has || got == at
		}
		if has != want {
			t.Errorf("%s has the address: %t", name, has)
		}
	}
	if rep := out.reports[object.Key{Kind: object.KindServiceEntry, Namespace: "aaa", Name: "thief"}]; len(rep.Warnings) == 0 {
		t.Error("the younger one is not told")
	}
}
