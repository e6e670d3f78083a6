package model

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/security"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// connection is what a destination's node proxy sees of one. The account is zero for plaintext.
type connection struct {
	account accountName
	ip      netip.Addr
	port    uint16
}

// denies evaluates a policy as node proxies do, with only the fields that are made here.
func denies(t testing.TB, p *security.Authorization, c connection) bool {
	known := c.account != accountName{}
	match := func(m *security.Match) bool {
		filled := 0
		say := func(n int, holds bool) bool {
			filled += n
			return n == 0 || holds
		}
		name := func(s *security.StringMatch, v string) bool {
			return known && (s.GetPresence() != nil || s.GetExact() == v)
		}
		within := func(all []*security.Address) bool {
			return slices.ContainsFunc(all, func(a *security.Address) bool {
				ip, _ := netip.AddrFromSlice(a.Address)
				return netip.PrefixFrom(ip, int(a.Length)).Contains(c.ip)
			})
		}
		principal := "cluster.local/ns/" + c.account.ns + "/sa/" + c.account.name
		ok := say(len(m.Principals), slices.ContainsFunc(m.Principals, func(s *security.StringMatch) bool { return name(s, principal) }))
		ok = say(len(m.NotPrincipals), !slices.ContainsFunc(m.NotPrincipals, func(s *security.StringMatch) bool { return name(s, principal) })) && ok
		ok = say(len(m.NotNamespaces), !slices.ContainsFunc(m.NotNamespaces, func(s *security.StringMatch) bool { return name(s, c.account.ns) })) && ok
		ok = say(len(m.NotServiceAccounts), !slices.ContainsFunc(m.NotServiceAccounts, func(a *security.ServiceAccountMatch) bool {
			return known && a.Namespace == c.account.ns && a.ServiceAccount == c.account.name
		})) && ok
		ok = say(len(m.SourceIps), within(m.SourceIps)) && ok
		ok = say(len(m.NotSourceIps), !within(m.NotSourceIps)) && ok
		ok = say(len(m.DestinationPorts), slices.Contains(m.DestinationPorts, uint32(c.port))) && ok
		ok = say(len(m.NotDestinationPorts), !slices.Contains(m.NotDestinationPorts, uint32(c.port))) && ok
		return ok && filled > 0
	}
	if p.Action != security.Action_DENY || len(p.Rules) != 1 {
		t.Fatalf("not what was expected: %v", p)
	}
	for _, clause := range p.Rules[0].Clauses {
		if !slices.ContainsFunc(clause.Matches, match) {
			return false
		}
	}
	return true
}

// admitted is what Kubernetes says about a connection, read off its documentation.
func admitted(policies map[object.Key]object.Object, labels func(ns string) object.Labels, from, to *object.Pod, port uint16) bool {
	chosen := false
	for _, o := range policies {
		np, ok := o.(*object.NetworkPolicy)
		if !ok || np.Namespace != to.Namespace || !np.Ingress || !np.Pods.Matches(to.Labels) {
			continue
		}
		chosen = true
		for _, rule := range np.Rules {
			ports := len(rule.Ports) == 0
			for _, p := range rule.Ports {
				switch {
				case p.Protocol != object.TCP:
				case p.Name != "":
					n, ok := to.NamedPort(p.Name, object.TCP)
					ports = ports || ok && n == port
				default:
					ports = ports || p.Port == 0 || p.Port <= port && port <= max(p.Port, p.End)
				}
			}
			peers := len(rule.From) == 0
			for _, p := range rule.From {
				switch {
				case p.Block.IsValid():
					out := slices.ContainsFunc(p.Except, func(e netip.Prefix) bool { return e.Contains(from.IPs[0]) })
					peers = peers || p.Block.Contains(from.IPs[0]) && !out
				default:
					here := p.Namespaces == nil && from.Namespace == np.Namespace || p.Namespaces != nil && p.Namespaces.Matches(labels(from.Namespace))
					peers = peers || here && !from.HostNetwork && (p.Pods == nil || p.Pods.Matches(from.Labels))
				}
			}
			if ports && peers {
				return true
			}
		}
	}
	return !chosen
}

func selectorOf(kv ...string) *object.LabelSelector {
	return &object.LabelSelector{MatchLabels: object.LabelsOf(kv...)}
}

func drawNetworkPolicy(t *rapid.T) *object.NetworkPolicy {
	sel := rapid.SampledFrom([]*object.LabelSelector{selectorOf(), selectorOf("app", "a"), selectorOf("app", "b"), selectorOf("tier", "x")})
	spaces := rapid.SampledFrom([]*object.LabelSelector{selectorOf(), selectorOf("team", "red"), selectorOf(labelNamespaceName, "two"),
		{Expressions: []object.Requirement{{Key: "team", Operator: object.DoesNotExist}}}})
	peer := rapid.Custom(func(t *rapid.T) object.NetworkPeer {
		switch rapid.IntRange(0, 3).Draw(t, "peer") {
		case 0:
			return object.NetworkPeer{Pods: sel.Draw(t, "pods")}
		case 1:
			return object.NetworkPeer{Namespaces: spaces.Draw(t, "namespaces")}
		case 2:
			return object.NetworkPeer{Namespaces: spaces.Draw(t, "namespaces"), Pods: sel.Draw(t, "pods")}
		}
		return object.NetworkPeer{Block: netip.MustParsePrefix("10.1.0.0/24"), Except: []netip.Prefix{netip.MustParsePrefix("10.1.0.4/30")}}
	})
	port := rapid.SampledFrom([]object.NetworkPort{{Port: 80}, {Port: 80, End: 81}, {Name: "web"}, {Name: "none"}, {Protocol: object.UDP, Port: 80}, {}, {Port: 81, End: 65000}})
	return &object.NetworkPolicy{
		Meta: object.Meta{Namespace: rapid.SampledFrom([]string{"one", "two"}).Draw(t, "ns"), Name: rapid.SampledFrom([]string{"p", "q", "r"}).Draw(t, "name")},
		Pods: *sel.Draw(t, "selected"), Ingress: rapid.IntRange(0, 9).Draw(t, "ingress") > 0,
		Rules: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) object.NetworkRule {
			return object.NetworkRule{From: rapid.SliceOfN(peer, 0, 2).Draw(t, "from"), Ports: rapid.SliceOfN(port, 0, 2).Draw(t, "ports")}
		}), 0, 2).Draw(t, "rules"),
	}
}

func drawNetworkPod(t *rapid.T) *object.Pod {
	i := rapid.IntRange(1, 8).Draw(t, "pod")
	p := &object.Pod{
		Meta: object.Meta{
			Namespace: []string{"one", "two"}[i%2], Name: fmt.Sprintf("pod-%d", i),
			Labels: object.LabelsOf("app", rapid.SampledFrom([]string{"a", "b"}).Draw(t, "app"), "tier", rapid.SampledFrom([]string{"x", "y"}).Draw(t, "tier")),
		},
		IPs: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.1.0.%d", i))}, Phase: object.Running, Ready: true,
		ServiceAccount: rapid.SampledFrom([]string{"default", "own"}).Draw(t, "account"),
		Ports:          []object.ContainerPort{{Name: "web", Port: rapid.SampledFrom([]uint16{80, 81}).Draw(t, "web")}},
	}
	if rapid.Bool().Draw(t, "captured") {
		p.Annotations = object.LabelsOf(mesh.AnnotationRedirection, mesh.RedirectionEnabled)
	}
	return p
}

// TestNetworkPolicies compares what node proxies are told with what Kubernetes documents, while pods, namespaces and policies
// come, change and go; and what came out step by step with a model that sees the end alone.
func TestNetworkPolicies(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		cfg := Config{NetworkPolicies: true}
		w := world{New(cfg), newRecorder(t)}
		now := map[object.Key]object.Object{}
		rt.Repeat(map[string]func(*rapid.T){
			"policy": func(rt *rapid.T) {
				o := drawNetworkPolicy(rt)
				now[o.Key()] = o
				w.Apply([]object.Event{object.Put(o)})
			},
			"pod":   func(rt *rapid.T) { o := drawNetworkPod(rt); now[o.Key()] = o; w.Apply([]object.Event{object.Put(o)}) },
			"flush": func(*rapid.T) { w.Flush(w.recorder) },
			"namespace": func(rt *rapid.T) {
				o := &object.Namespace{Meta: object.Meta{Name: rapid.SampledFrom([]string{"one", "two"}).Draw(rt, "name"), Labels: rapid.SampledFrom([]object.Labels{{}, object.LabelsOf("team", "red")}).Draw(rt, "labels")}}
				now[o.Key()] = o
				w.Apply([]object.Event{object.Put(o)})
			},
			"delete": func(rt *rapid.T) {
				if len(now) == 0 {
					return
				}
				keys := slices.SortedFunc(maps.Keys(now), func(a, b object.Key) int { return strings.Compare(a.String(), b.String()) })
				k := rapid.SampledFrom(keys).Draw(rt, "key")
				delete(now, k)
				w.Apply([]object.Event{object.Delete(k)})
			},
			"": func(*rapid.T) {},
		})
		w.Flush(w.recorder)
		labels := func(ns string) object.Labels {
			all := map[string]string{labelNamespaceName: ns}
			if o, ok := now[object.Key{Kind: object.KindNamespace, Name: ns}]; ok {
				maps.Copy(all, o.Metadata().Labels.Map())
			}
			return object.MakeLabels(all)
		}
		for _, o := range now {
			to, ok := o.(*object.Pod)
			if !ok {
				continue
			}
			for _, o := range now {
				from, ok := o.(*object.Pod)
				if !ok || from == to {
					continue
				}
				for _, port := range []uint16{80, 81, 443} {
					c := connection{ip: from.IPs[0], port: port}
					if tunnelled(from) {
						c.account = accountName{from.Namespace, from.ServiceAccount}
					}
					got := true
					for _, name := range w.workloads[mesh.PodUID("Kubernetes", to.Namespace, to.Name)].AuthorizationPolicies {
						got = got && !denies(t, w.policies[name], c)
					}
					if want := admitted(now, labels, from, to, port); got != want {
						rt.Fatalf("%s/%s (captured: %v) → %s/%s:%d: admitted %v, want %v\n%v", from.Namespace, from.Name, tunnelled(from), to.Namespace, to.Name, port, got, want, w.policies)
					}
				}
			}
		}
		fresh := world{New(cfg), newRecorder(t)}
		for _, o := range now {
			fresh.Apply([]object.Event{object.Put(o)})
		}
		fresh.Flush(fresh.recorder)
		if diff := cmp.Diff(fresh.text(), w.text()); diff != "" {
			rt.Fatalf("step by step it is another mesh (-at once +by steps):\n%s", diff)
		}
		if len(w.Model.networks.variants) > len(w.policies) {
			rt.Fatal("variants that nobody names are kept")
		}
	})
}

// TestNetworkPolicyIdentity is about who proves another identity than the pod whose address it has.
func TestNetworkPolicyIdentity(t *testing.T) {
	w := newWorld(t, Config{NetworkPolicies: true})
	captured := func(p *object.Pod, account string) *object.Pod {
		p.ServiceAccount, p.Annotations = account, object.LabelsOf(mesh.AnnotationRedirection, mesh.RedirectionEnabled)
		return p
	}
	web := captured(runningPod("shop", "web", "10.1.0.1", "app", "web"), "web")
	w.put(web, captured(runningPod("shop", "cart", "10.1.0.2", "app", "cart"), "default"), captured(runningPod("shop", "other", "10.1.0.3"), "default"),
		captured(runningPod("shop", "own", "10.1.0.4", "app", "own"), "own"),
		&object.NetworkPolicy{Meta: object.Meta{Namespace: "shop", Name: "cart"}, Pods: *selectorOf("app", "web"), Ingress: true,
			Rules: []object.NetworkRule{{From: []object.NetworkPeer{{Pods: selectorOf("app", "cart")}, {Pods: selectorOf("app", "own")}}}}})
	p := w.policies["shop/networkpolicy:cart"]
	if p == nil || !slices.Equal(w.workloads[mesh.PodUID("Kubernetes", "shop", "web")].AuthorizationPolicies, []string{"shop/networkpolicy:cart"}) {
		t.Fatalf("policies are %v", w.policies)
	}
	for _, tt := range []struct {
		name, account, ip string
		denied            bool
	}{
		{"the pod", "default", "10.1.0.2", false},
		{"another pod of the account", "default", "10.1.0.3", true},
		{"another account at the pod's address", "web", "10.1.0.2", true},
		{"the pod, not captured yet", "", "10.1.0.2", false},
		{"the only pod of an account", "own", "10.1.0.4", false},
		{"the account where it was not before", "own", "10.1.0.99", false},
		{"nobody at the address of a captured pod", "", "10.1.0.4", true},
	} {
		c := connection{ip: netip.MustParseAddr(tt.ip), port: 80}
		if tt.account != "" {
			c.account = accountName{"shop", tt.account}
		}
		if got := denies(t, p, c); got != tt.denied {
			t.Errorf("%s: denied %v", tt.name, got)
		}
	}
	if w.puts == 0 || len(w.Model.networks.fresh) > 0 {
		t.Error("variants are left over")
	}
}

// TestNetworkPolicyBehindWaypoint: the waypoint is let through, for its clients are asked about again.
func TestNetworkPolicyBehindWaypoint(t *testing.T) {
	s := &guardStory{t: t, m: New(Config{NetworkPolicies: true}), rec: newRecorder(t)}
	s.put(`
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/use-waypoint: wp}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.1.0.1, selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: web}}
spec: {containers: [{name: c, image: i}]}
status: {phase: Running, podIP: 10.2.0.1, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nobody, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
`, waypointReady)
	if len(s.rec.policies) != 1 {
		t.Fatalf("policies are %v", s.rec.policies)
	}
	for name, p := range s.rec.policies {
		if !strings.HasPrefix(name, "shop/networkpolicy:nobody:") {
			t.Errorf("it is called %s", name)
		}
		if denies(t, p, connection{account: accountName{"shop", "wp"}}) || !denies(t, p, connection{account: accountName{"shop", "web"}}) || !denies(t, p, connection{}) {
			t.Errorf("who is let through? %v", p)
		}
	}
	rep := s.rec.reports[object.Key{Kind: object.KindNetworkPolicy, Namespace: "shop", Name: "nobody"}]
	if len(rep.Warnings) != 2 || rep.Warnings[0].Code != status.NetworkPolicyInPart || !strings.Contains(rep.Warnings[1].Problem, "pod shop/web-1 is not in the mesh") {
		t.Errorf("the report is %+v", rep)
	}
}

func TestPortsOf(t *testing.T) {
	for _, tt := range []struct {
		in   []object.NetworkPort
		want string
	}{
		{nil, "all"},
		{[]object.NetworkPort{{}}, "all"},
		{[]object.NetworkPort{{Port: 1, End: 65535}}, "all"},
		{[]object.NetworkPort{{Protocol: object.UDP}}, "none"},
		{[]object.NetworkPort{{Name: "x"}}, "none"},
		{[]object.NetworkPort{{Name: "web"}, {Port: 80, End: 82}, {Port: 81}}, "80,81,82,8080"},
		{[]object.NetworkPort{{Port: 4, End: 65535}}, "but 1,2,3"},
		{[]object.NetworkPort{{Port: 10000, End: 30000}}, "too many"},
	} {
		p, ok := portsOf(tt.in, map[string]uint16{"web": 8080})
		var b bytes.Buffer
		for i, n := range p.list {
			fmt.Fprintf(&b, "%s%d", strings.Repeat(",", min(i, 1)), n)
		}
		got := b.String()
		switch {
		case !ok:
			got = "too many"
		case p.all:
			got = "all"
		case p.none():
			got = "none"
		case p.complement:
			got = "but " + got
		}
		if got != tt.want {
			t.Errorf("%v: %s, want %s", tt.in, got, tt.want)
		}
	}
}
