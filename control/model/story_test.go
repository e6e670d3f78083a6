package model

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/control/object"
)

// world is a model with a recorder, for stories that take several steps.
type world struct {
	*Model
	*recorder
}

func newWorld(t *testing.T, cfg Config) world { return world{New(cfg), newRecorder(t)} }

func (w world) put(os ...object.Object) {
	for _, o := range os {
		w.Apply([]object.Event{object.Put(o)})
	}
	w.Flush(w.recorder)
}

func runningPod(ns, name, ip string, labels ...string) *object.Pod {
	return &object.Pod{
		Meta: object.Meta{Namespace: ns, Name: name, Labels: object.LabelsOf(labels...)},
		IPs:  []netip.Addr{netip.MustParseAddr(ip)}, Phase: object.Running, Ready: true, ServiceAccount: "default",
	}
}

func clusterService(ns, name, ip string) *object.Service {
	return &object.Service{
		Meta: object.Meta{Namespace: ns, Name: name}, ClusterIPs: []netip.Addr{netip.MustParseAddr(ip)},
		Selector: object.Selector{Present: true, Labels: object.LabelsOf("app", name)},
		Ports:    []object.ServicePort{{Port: 80, TargetPort: 80}},
	}
}

func TestPodAskedToGoIsUnhealthyAtOnce(t *testing.T) {
	w := newWorld(t, Config{})
	p := runningPod("shop", "web", "10.1.0.1")
	w.put(p)
	uid := mesh.PodUID("Kubernetes", "shop", "web")
	if s := w.workloads[uid].Status; s != workload.WorkloadStatus_HEALTHY {
		t.Fatal(s)
	}
	leaving := *p
	leaving.Deleting = true // still ready, still running
	w.put(&leaving)
	if s := w.workloads[uid].Status; s != workload.WorkloadStatus_UNHEALTHY {
		t.Error(s)
	}
}

// TestCopyTakesNothingAway is the mistake of pasting a manifest: without creation times the one seen first keeps what it has,
// whatever the names are.
func TestCopyTakesNothingAway(t *testing.T) {
	w := newWorld(t, Config{})
	w.put(clusterService("shop", "web", "10.96.0.1"))
	w.put(clusterService("aaa", "a", "10.96.0.1"))
	if n := len(w.services["shop/web.shop.svc.cluster.local"].Addresses); n != 1 {
		t.Errorf("the first Service has %d addresses left", n)
	}
	if n := len(w.services["aaa/a.aaa.svc.cluster.local"].Addresses); n != 0 {
		t.Errorf("the copy has %d addresses", n)
	}
	if r := w.recorder.reports[object.Key{Kind: object.KindService, Namespace: "aaa", Name: "a"}]; len(r.Warnings) != 1 {
		t.Errorf("nobody is told: %+v", r)
	}
	// The address is free once the first one goes.
	w.Apply([]object.Event{object.Delete(clusterService("shop", "web", "10.96.0.1").Key())})
	w.Flush(w.recorder)
	if n := len(w.services["aaa/a.aaa.svc.cluster.local"].Addresses); n != 1 {
		t.Errorf("the copy has %d addresses after the first one went", n)
	}
}

// TestAutomaticAddresses checks that addresses stay, differ, and keep away from those taken by hand.
func TestAutomaticAddresses(t *testing.T) {
	entry := func(i int) *object.ServiceEntry {
		return &object.ServiceEntry{Meta: object.Meta{Namespace: "ext", Name: fmt.Sprintf("e%d", i)}, Hosts: []string{fmt.Sprintf("h%d.example", i)}, Resolution: object.ResolutionDNS}
	}
	taken := func(w world) map[netip.Addr]string {
		all := map[netip.Addr]string{}
		for name, s := range w.services {
			for _, a := range s.Addresses {
				ip, _ := netip.AddrFromSlice(a.Address)
				if other, ok := all[ip]; ok {
					t.Fatalf("%s and %s both have %s", name, other, ip)
				}
				if !netip.MustParsePrefix("240.240.0.0/16").Contains(ip) && !netip.MustParsePrefix("2001:2::/48").Contains(ip) {
					t.Fatalf("%s has %s", name, ip)
				}
				all[ip] = name
			}
		}
		return all
	}
	w := newWorld(t, Config{})
	for i := range 2000 {
		w.Apply([]object.Event{object.Put(entry(i))})
	}
	w.Flush(w.recorder)
	before := taken(w)
	if len(before) != 4000 {
		t.Fatalf("%d addresses for 2000 hosts", len(before))
	}
	// More hosts later move nobody.
	for i := 2000; i < 3000; i++ {
		w.put(entry(i))
	}
	after := taken(w)
	for ip, name := range before {
		if after[ip] != name {
			t.Errorf("%s had %s, now %s has it", name, ip, after[ip])
		}
	}
	// Somebody writes down an address of the pool.
	victim := "ext/h7.example"
	ip, _ := netip.AddrFromSlice(w.services[victim].Addresses[0].Address)
	w.put(&object.ServiceEntry{Meta: object.Meta{Namespace: "x", Name: "x"}, Hosts: []string{"x.example"}, Addresses: []netip.Prefix{netip.PrefixFrom(ip, 32)}, Resolution: object.ResolutionNone})
	if all := taken(w); all[ip] != "x/x.example" {
		t.Errorf("%s has %s", all[ip], ip)
	}
}

// TestWorkIsProportional changes one thing in a large mesh and counts what the model looks at.
func TestWorkIsProportional(t *testing.T) {
	w := newWorld(t, Config{})
	for ns := range 10 {
		for app := range 20 {
			w.Apply([]object.Event{object.Put(clusterService(fmt.Sprintf("ns%d", ns), fmt.Sprintf("app%d", app), fmt.Sprintf("10.96.%d.%d", ns, app)))})
			for i := range 10 {
				w.Apply([]object.Event{object.Put(runningPod(fmt.Sprintf("ns%d", ns), fmt.Sprintf("app%d-%d", app, i), fmt.Sprintf("10.%d.%d.%d", ns+1, app, i), "app", fmt.Sprintf("app%d", app)))})
			}
		}
	}
	w.Flush(w.recorder)
	count := func(what string, atMost int, os ...object.Object) {
		t.Helper()
		before := w.calls
		w.put(os...)
		if n := w.calls - before; n > atMost {
			t.Errorf("%s: the model computed %d resources, want at most %d", what, n, atMost)
		}
	}
	count("a pod's label", 1, runningPod("ns1", "app1-1", "10.2.1.1", "app", "app1", "version", "2"))
	count("a new Service without pods", 1, clusterService("ns1", "new", "10.97.0.1"))
	ports := clusterService("ns1", "app2", "10.96.1.2")
	ports.Ports = []object.ServicePort{{Port: 81, TargetPort: 80}}
	count("a Service's port", 11, ports)
	count("a selector policy", 11, &object.AuthorizationPolicy{Meta: object.Meta{Namespace: "ns1", Name: "p"}, Selector: object.Selector{Present: true, Labels: object.LabelsOf("app", "app3")}})
	count("a namespace policy", 1, &object.AuthorizationPolicy{Meta: object.Meta{Namespace: "ns1", Name: "q"}})
	count("a namespace's PeerAuthentication", 202, &object.PeerAuthentication{Meta: object.Meta{Namespace: "ns1", Name: "strict"}, Mode: object.Strict})
	count("an exception of one app", 12, &object.PeerAuthentication{Meta: object.Meta{Namespace: "ns1", Name: "open"}, Mode: object.Permissive, Selector: object.Selector{Present: true, Labels: object.LabelsOf("app", "app4")}})
	count("a Gateway nobody asks for", 1, &object.Gateway{Meta: object.Meta{Namespace: "ns1", Name: "w"}, Class: mesh.GatewayClassWaypoint})
}

func TestLocalityFollowsTheNode(t *testing.T) {
	w := newWorld(t, Config{})
	p := runningPod("shop", "web", "10.1.0.1")
	p.Node = "n1"
	w.put(p)
	w.put(&object.Node{Meta: object.Meta{Name: "n1", Labels: object.LabelsOf(mesh.LabelRegion, "r")}})
	if l := w.workloads[mesh.PodUID("Kubernetes", "shop", "web")].Locality; l.GetRegion() != "r" {
		t.Error(l)
	}
}

func TestTrustDomainAndNetwork(t *testing.T) {
	w := newWorld(t, Config{TrustDomain: "td.example", ClusterID: "c2", Network: "flag"})
	w.put(runningPod("shop", "web", "10.1.0.1"))
	uid := "c2//Pod/shop/web"
	if x := w.workloads[uid]; x.TrustDomain != "td.example" || x.Network != "flag" {
		t.Error(x)
	}
	w.put(&object.Namespace{Meta: object.Meta{Name: mesh.SystemNamespace, Labels: object.LabelsOf(mesh.LabelNetwork, "labelled")}})
	if x := w.workloads[uid]; x.Network != "labelled" {
		t.Error(x)
	}
	if x := newWorld(t, Config{}); x.TrustDomain() != "" {
		t.Error("cluster.local must be left out")
	}
}

// TrustDomain is that of a pod in a fresh world.
func (w world) TrustDomain() string {
	w.put(runningPod("a", "b", "10.0.0.1"))
	return w.workloads[mesh.PodUID("Kubernetes", "a", "b")].TrustDomain
}

func TestTunnel(t *testing.T) {
	for _, c := range []struct {
		name         string
		labels, anns object.Labels
		hbone        bool
	}{
		{"captured", object.Labels{}, object.LabelsOf(mesh.AnnotationRedirection, "enabled"), true},
		{"on its way", object.Labels{}, object.LabelsOf(mesh.AnnotationRedirection, "pending"), false},
		{"speaks HBONE", object.LabelsOf(mesh.LabelTunnel, "tcp, http"), object.Labels{}, true},
		{"speaks something else", object.LabelsOf(mesh.LabelTunnel, "httpx"), object.Labels{}, false},
	} {
		x := &workload.Workload{}
		setTunnel(x, c.labels, c.anns)
		if (x.TunnelProtocol == workload.TunnelProtocol_HBONE) != c.hbone {
			t.Errorf("%s: %v", c.name, x.TunnelProtocol)
		}
	}
}

func TestCronJobName(t *testing.T) {
	for in, want := range map[string]string{"a-12345678": "a", "a-1234567": "a-1234567", "a-1234567890": "a", "a-b": "a-b", "-12345678": "-12345678", "a": "a"} {
		if got := cronJobName(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	if !slices.Contains([]string{"x"}, workloadName(&object.Pod{Meta: object.Meta{Name: "x"}, Owner: object.Owner{Kind: "Node", Name: "n1"}})) {
		t.Error("a static pod is called after itself")
	}
}

// TestPoliciesInIstiosRootNamespace is a manifest pasted from an Istio installation: it says nothing about the mesh here,
// and must not say it quietly.
func TestPoliciesInIstiosRootNamespace(t *testing.T) {
	for _, c := range []struct {
		root, ns string
		warned   bool
	}{
		{"", "istio-system", true},
		{"istio-system", "istio-system", false},
		{"", mesh.SystemNamespace, false},
		{"", "shop", false},
	} {
		w := newWorld(t, Config{RootNamespace: c.root})
		w.put(&object.PeerAuthentication{Meta: object.Meta{Namespace: c.ns, Name: "default"}, Mode: object.Strict},
			&object.AuthorizationPolicy{Meta: object.Meta{Namespace: c.ns, Name: "deny"}, Action: object.Deny})
		for _, k := range []object.Kind{object.KindPeerAuthentication, object.KindAuthorizationPolicy} {
			name := map[object.Kind]string{object.KindPeerAuthentication: "default", object.KindAuthorizationPolicy: "deny"}[k]
			warned := slices.ContainsFunc(w.recorder.reports[object.Key{Kind: k, Namespace: c.ns, Name: name}].Warnings, func(w Warning) bool { return w.Field == "metadata.namespace" })
			if warned != c.warned {
				t.Errorf("root %q, %s in %s: warned is %v", c.root, k, c.ns, warned)
			}
		}
	}
}

// TestNamespaceAsksOnce: a label on a namespace that leads nowhere is one warning, not one for everything in it.
func TestNamespaceAsksOnce(t *testing.T) {
	w := newWorld(t, Config{})
	warned := func() (of []string) {
		for k, r := range w.recorder.reports {
			for _, x := range r.Warnings {
				of = append(of, k.String()+" "+string(x.Code)+" "+x.Problem)
			}
		}
		return of
	}
	w.put(&object.Namespace{Meta: object.Meta{Name: "shop", Labels: object.LabelsOf(mesh.LabelUseWaypoint, "gone")}})
	if got := warned(); len(got) != 0 {
		t.Errorf("nothing asks for it, and yet %q", got)
	}
	for i := range 5 {
		w.put(clusterService("shop", fmt.Sprint("web-", i), fmt.Sprint("10.96.0.", i+1)))
	}
	got := warned()
	if len(got) != 1 || !strings.HasPrefix(got[0], `Namespace shop AMB301 waypoint "shop/gone" is not ready: there is no such Gateway`) || !strings.Contains(got[0], "(5 in the namespace)") {
		t.Errorf("got %q", got)
	}
	w.put(&object.Gateway{Meta: object.Meta{Namespace: "shop", Name: "gone"}, Class: mesh.GatewayClassWaypoint, Status: []object.GatewayAddress{{Kind: object.AddressHostname, Value: "gone.shop.svc.cluster.local"}}})
	if got := warned(); len(got) != 0 {
		t.Errorf("the waypoint is there, and yet %q", got)
	}
}
