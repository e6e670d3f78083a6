package state_test

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/security"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	. "github.com/ambit-mesh/ambit/ztunnel/state/statetest"
)

// naive is the state as plain maps of what was sent; every lookup is a walk over all of it.
type naive struct {
	workloads map[string]*workload.Workload
	services  map[string]*workload.Service
	policies  map[string]*security.Authorization
}

var (
	someAddrs    = []string{"10.0.0.1", "10.0.0.2", "10.0.1.1", "fd00::1", "10.96.0.1", "10.96.0.2"}
	someCIDRs    = []string{"10.0.0.0/8", "10.96.0.0/24", "10.96.0.0/31", "fd00::/16"}
	someNetworks = []string{"", "n2"}
	someNames    = []string{"a", "b", "c"}
	someNodes    = []string{"node1", "node2"}
)

func drawWorkload(t *rapid.T) *workload.Workload {
	ns := rapid.SampledFrom(someNames).Draw(t, "ns")
	w := Pod(ns, rapid.SampledFrom(someNames).Draw(t, "name"), rapid.SampledFrom(someNames).Draw(t, "sa"),
		rapid.SliceOfNDistinct(rapid.SampledFrom(someAddrs), 0, 3, rapid.ID[string]).Draw(t, "addrs")...)
	w.Network = rapid.SampledFrom(someNetworks).Draw(t, "network")
	w.Node = rapid.SampledFrom(someNodes).Draw(t, "node")
	if rapid.IntRange(0, 4).Draw(t, "host") == 0 {
		w.NetworkMode = workload.NetworkMode_HOST_NETWORK
	}
	if rapid.IntRange(0, 4).Draw(t, "plain") == 0 {
		w.TunnelProtocol = workload.TunnelProtocol_NONE
	}
	for _, svc := range rapid.SliceOfNDistinct(rapid.SampledFrom(someNames), 0, 3, rapid.ID[string]).Draw(t, "services") {
		In(w, mesh.ServiceName(ns, mesh.ServiceHostname(ns, svc, "cluster.local")), 80, uint32(rapid.IntRange(1, 9).Draw(t, "port")))
	}
	return w
}

func drawService(t *rapid.T) *workload.Service {
	s := Service(rapid.SampledFrom(someNames).Draw(t, "ns"), rapid.SampledFrom(someNames).Draw(t, "name"), nil, 80, 80)
	network := rapid.SampledFrom(someNetworks).Draw(t, "network")
	for _, a := range rapid.SliceOfNDistinct(rapid.SampledFrom(append(someCIDRs, someAddrs...)), 0, 3, rapid.ID[string]).Draw(t, "vips") {
		s.Addresses = append(s.Addresses, Net(network, a))
	}
	return s
}

func drawPolicy(t *rapid.T) *security.Authorization {
	return &security.Authorization{
		Name:      rapid.SampledFrom(someNames).Draw(t, "name"),
		Namespace: rapid.SampledFrom(someNames).Draw(t, "ns"),
		Scope:     security.Scope(rapid.IntRange(0, 2).Draw(t, "scope")),
		Action:    security.Action(rapid.IntRange(0, 1).Draw(t, "action")),
		DryRun:    rapid.Bool().Draw(t, "dry"),
	}
}

// After any sequence of updates the indexes answer what a walk over everything answers.
func TestIndexesAgreeWithNaiveMaps(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		st := state.New()
		n := naive{map[string]*workload.Workload{}, map[string]*workload.Service{}, map[string]*security.Authorization{}}
		for range rapid.IntRange(1, 12).Draw(rt, "batches") {
			n.step(t, rt, st)
			n.compare(rt, st.Current())
		}
	})
}

func (n *naive) step(t *testing.T, rt *rapid.T, st *state.State) {
	var ups []xds.Raw
	var removed []string
	typeURL := mesh.TypeAddress
	put := func(r proto.Message) string {
		_, raw := Raw(t, r)
		ups = append(ups, raw)
		return raw.Name
	}
	if rapid.IntRange(0, 3).Draw(rt, "policies") == 0 {
		typeURL = mesh.TypeAuthorization
		for range rapid.IntRange(0, 4).Draw(rt, "n") {
			p := drawPolicy(rt)
			n.policies[put(p)] = p
		}
		for _, key := range drawSome(rt, n.policies) {
			delete(n.policies, key)
			removed = append(removed, key)
		}
	} else {
		for range rapid.IntRange(0, 5).Draw(rt, "n") {
			if rapid.Bool().Draw(rt, "workload") {
				w := drawWorkload(rt)
				n.workloads[put(w)] = w
			} else {
				s := drawService(rt)
				n.services[put(s)] = s
			}
		}
		for _, uid := range drawSome(rt, n.workloads) {
			delete(n.workloads, uid)
			removed = append(removed, uid)
		}
		for _, key := range drawSome(rt, n.services) {
			delete(n.services, key)
			removed = append(removed, key)
		}
	}
	if rejected := st.Apply(typeURL, ups, removed); len(rejected) > 0 {
		rt.Fatalf("rejected %v", rejected)
	}
}

func drawSome[V any](t *rapid.T, m map[string]V) []string {
	if len(m) == 0 {
		return nil
	}
	keys := slices.Sorted(maps.Keys(m))
	return rapid.SliceOfNDistinct(rapid.SampledFrom(keys), 0, min(2, len(keys)), rapid.ID[string]).Draw(t, "remove")
}

func (n *naive) compare(t *rapid.T, s *state.Snapshot) {
	if got := count2(s.Workloads()); got != len(n.workloads) {
		t.Fatalf("%d workloads, want %d", got, len(n.workloads))
	}
	for _, network := range someNetworks {
		for _, a := range append([]string{"10.96.0.77", "10.255.0.1"}, someAddrs...) {
			addr := state.NetAddr{Network: network, Addr: netip.MustParseAddr(a)}
			got := ""
			if w := s.WorkloadAt(addr); w != nil {
				got = w.UID
			}
			if want := n.workloadAt(addr); got != want {
				t.Fatalf("WorkloadAt(%s) = %q, want %q", addr, got, want)
			}
			if got, want := keys(s.ServicesAt(addr)), n.servicesAt(addr); got != want {
				t.Fatalf("ServicesAt(%s) = %q, want %q", addr, got, want)
			}
		}
	}
	for _, node := range someNodes {
		var got []string
		for w := range s.OnNode(node) {
			got = append(got, w.UID)
		}
		if want := n.uids(func(w *workload.Workload) bool { return w.Node == node }); !slices.Equal(sorted(got), want) {
			t.Fatalf("OnNode(%s) = %v, want %v", node, got, want)
		}
	}
	n.compareServices(t, s)
	n.comparePolicies(t, s)
}

func (n *naive) compareServices(t *rapid.T, s *state.Snapshot) {
	if got := count2(s.Services()); got != len(n.services) {
		t.Fatalf("%d services, want %d", got, len(n.services))
	}
	for key, svc := range s.Services() {
		want := n.uids(func(w *workload.Workload) bool { return w.Services[key] != nil })
		var got []string
		list, _ := s.Endpoints(svc).List()
		for _, e := range list {
			got = append(got, e.Workload.UID)
			if p := n.workloads[e.Workload.UID].Services[key].Ports[0].TargetPort; uint32(e.TargetPort(80)) != p {
				t.Fatalf("endpoint %s of %s has port %d, want %d", e.Workload.UID, key, e.TargetPort(80), p)
			}
		}
		if !slices.Equal(sorted(got), want) {
			t.Fatalf("endpoints of %s are %v, want %v", key, got, want)
		}
	}
	staged := map[string]bool{}
	for _, w := range n.workloads {
		for key := range w.Services {
			if n.services[key] == nil {
				staged[key] = true
			}
		}
	}
	for key := range s.Staged() {
		if !staged[key] {
			t.Fatalf("%s is staged", key)
		}
		delete(staged, key)
	}
	if len(staged) > 0 {
		t.Fatalf("%v are not staged", staged)
	}
}

func (n *naive) comparePolicies(t *rapid.T, s *state.Snapshot) {
	for _, ns := range append([]string{""}, someNames...) {
		set := s.NamespacePolicies(ns)
		if ns == "" {
			set = s.GlobalPolicies()
		}
		got := fmt.Sprint(names(set.DryDeny), names(set.Deny), names(set.DryAllow), names(set.Allow))
		var lists [4][]string
		for key, p := range n.policies {
			if (p.Scope == security.Scope_GLOBAL) != (ns == "") || p.Scope == security.Scope_WORKLOAD_SELECTOR || ns != "" && p.Namespace != ns {
				continue
			}
			i := 0
			if p.Action == security.Action_ALLOW {
				i = 2
			}
			if !p.DryRun {
				i++
			}
			lists[i] = append(lists[i], key)
		}
		if want := fmt.Sprint(sorted(lists[0]), sorted(lists[1]), sorted(lists[2]), sorted(lists[3])); got != want {
			t.Fatalf("policies of %q are %s, want %s", ns, got, want)
		}
	}
	if got := count2(s.Policies()); got != len(n.policies) {
		t.Fatalf("%d policies, want %d", got, len(n.policies))
	}
}

func names(list []*state.Policy) (out []string) {
	for _, p := range list {
		out = append(out, p.Key())
	}
	return out
}

func (n *naive) uids(f func(*workload.Workload) bool) (out []string) {
	for uid, w := range n.workloads {
		if f(w) {
			out = append(out, uid)
		}
	}
	return sorted(out)
}

func (n *naive) workloadAt(a state.NetAddr) string {
	best, bestHBONE := "", false
	for _, uid := range slices.Sorted(maps.Keys(n.workloads)) {
		w := n.workloads[uid]
		owns := w.Network == a.Network && w.NetworkMode == workload.NetworkMode_STANDARD &&
			slices.ContainsFunc(w.Addresses, func(b []byte) bool { return string(b) == string(a.Addr.AsSlice()) })
		if hbone := w.TunnelProtocol == workload.TunnelProtocol_HBONE; owns && (best == "" || hbone && !bestHBONE) {
			best, bestHBONE = uid, hbone
		}
	}
	return best
}

func (n *naive) servicesAt(a state.NetAddr) string {
	byLength := map[int][]string{}
	for key, svc := range n.services {
		for _, v := range svc.Addresses {
			addr, _ := netip.AddrFromSlice(v.Address)
			bits := 999
			if v.Length != nil {
				bits = int(*v.Length)
			}
			p := netip.PrefixFrom(addr, min(bits, addr.BitLen()))
			if v.Network == a.Network && p.Contains(a.Addr) {
				byLength[bits] = append(byLength[bits], key)
			}
		}
	}
	if len(byLength) == 0 {
		return ""
	}
	longest := slices.Max(slices.Collect(maps.Keys(byLength)))
	return strings.Join(slices.Compact(sorted(byLength[longest])), " ")
}

func sorted(s []string) []string { slices.Sort(s); return s }

func count2[K, V any](seq func(func(K, V) bool)) (n int) {
	for range seq {
		n++
	}
	return n
}
