package stories

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// ask sends a query from a pod to the name server of its resolv.conf.
func (w *world) ask(network, ns, pod, name string, qtype uint16) (*dns.Msg, error) {
	var c net.Conn
	err := w.inside(ns, pod, func() (err error) { c, err = net.DialTimeout(network, "10.96.0.10:53", patience); return err })
	if err != nil {
		return nil, err
	}
	defer c.Close()
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), qtype)
	answer, _, err := (&dns.Client{Net: network, Timeout: 5 * time.Second}).ExchangeWithConn(q, &dns.Conn{Conn: c})
	return answer, err
}

// addresses are those of an answer, sorted, and the lowest TTL.
func addresses(m *dns.Msg) (out []string, ttl uint32) {
	ttl = 1 << 31
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			out = append(out, rr.A.String())
		case *dns.AAAA:
			out = append(out, rr.AAAA.String())
		default:
			continue
		}
		ttl = min(ttl, rr.Header().Ttl)
	}
	slices.Sort(out)
	return out, ttl
}

// own is the TTL of the mesh's answers; the lab's name server has another.
const own = 30

// TestNames asks for names from inside a pod of the mesh: the pod's proxy answers what the mesh knows and forwards the rest.
func TestNames(t *testing.T) {
	w := start(t, options{nodes: 2})
	w.namespace("shop", "istio.io/dataplane-mode: ambient")
	w.namespace("bank", "istio.io/dataplane-mode: ambient")
	w.pod("shop", "client", "client", "node1")
	w.pod("shop", "web1", "web1", "node1")
	w.pod("bank", "safe", "safe", "node2")
	host := func(addr string) string { h, _, _ := net.SplitHostPort(addr); return h }
	vip := host(w.service("bank", "safe", 80, 8080))
	near := host(w.service("shop", "web1", 80, 8080))
	w.apply(`
apiVersion: v1
kind: Service
metadata: {name: all, namespace: shop}
spec: {clusterIP: None, selector: {app: web1}, ports: [{name: tcp, port: 8080}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api, namespace: shop}
spec: {hosts: [api.example.com, "*.wild.example.com"], addresses: [10.97.0.1], resolution: STATIC, location: MESH_EXTERNAL, ports: [{number: 80, name: tcp, protocol: TCP}], endpoints: [{address: 172.30.0.12}]}
`)
	w.protocol("shop", "HBONE")
	w.protocol("bank", "HBONE")
	w.eventually("the proxy to know the services", func() error {
		m, err := w.ask("udp", "shop", "client", "api.example.com", dns.TypeA)
		if err == nil && len(m.Answer) == 0 {
			err = errNotYet
		}
		return err
	})

	for _, q := range []struct {
		name string
		want string
	}{
		{"safe.bank.svc.cluster.local", vip},
		{"safe.bank.svc", vip},
		{"safe.bank", vip},
		{"SAFE.Bank.svc.cluster.LOCAL", vip},
		{"web1", near},
		{"web1.shop", near},
		{"web1.shop.svc.cluster.local", near},
		// As a resolver asks that goes through its search list first.
		{"safe.bank.shop.svc.cluster.local", vip},
		{"all.shop.svc.cluster.local", w.podIP("shop", "web1")},
		{"api.example.com", "10.97.0.1"},
		{"any.wild.example.com", "10.97.0.1"},
	} {
		for _, network := range []string{"udp", "tcp"} {
			m, err := w.ask(network, "shop", "client", q.name, dns.TypeA)
			if err != nil {
				t.Errorf("%s by %s: %v", q.name, network, err)
				continue
			}
			got, ttl := addresses(m)
			if m.Rcode != dns.RcodeSuccess || strings.Join(got, " ") != q.want || ttl != own || !m.Authoritative {
				t.Errorf("%s by %s: want %s, got\n%v", q.name, network, q.want, m)
			}
		}
	}
	// Known, but not by that kind of address.
	if m, err := w.ask("udp", "shop", "client", "safe.bank.svc.cluster.local", dns.TypeAAAA); err != nil || m.Rcode != dns.RcodeSuccess || len(m.Answer) > 0 {
		t.Errorf("AAAA of a service with IPv4: %v, %v", m, err)
	}
	// Forwarded: what the mesh does not know, and kinds of records it has none of.
	if m, err := w.ask("udp", "shop", "client", "nowhere.example.org", dns.TypeA); err != nil || m.Rcode != dns.RcodeNameError {
		t.Errorf("an unknown name: %v, %v", m, err)
	}
	m, err := w.ask("udp", "shop", "client", "_tcp._tcp.safe.bank.svc.cluster.local", dns.TypeSRV)
	if err != nil || len(m.Answer) != 1 || m.Answer[0].Header().Ttl == own {
		t.Errorf("SRV: %v, %v", m, err)
	}
	// And through the pod's own resolver library.
	if got, err := w.Output(w.soon(), "shop", "client", "getent", "ahostsv4", "safe.bank"); err != nil || !strings.Contains(got, vip) {
		t.Errorf("getent: %q, %v", got, err)
	}
	metrics, err := w.admin("node1", "/metrics")
	w.must(err)
	for _, name := range []string{"istio_dns_requests_total", "istio_dns_upstream_requests_total"} {
		if !strings.Contains(string(metrics), "\n"+name+`{`) {
			t.Errorf("no metric %s", name)
		}
	}
}

// TestDistribution calls services that want their traffic near: the pod on the client's node as long as there is one.
func TestDistribution(t *testing.T) {
	w := start(t, options{nodes: 2})
	w.namespace("shop", "istio.io/dataplane-mode: ambient")
	w.pod("shop", "client", "client", "node1")
	w.pod("shop", "web", "near", "node1")
	w.pod("shop", "web", "far", "node2")
	w.serve("shop", "near", 8080)
	w.serve("shop", "far", 8080)
	const doc = `
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: shop}
spec: {%s, selector: {app: web}, ports: [{name: tcp, port: 80, targetPort: 8080}]}
`
	addr := map[string]string{}
	for name, spec := range map[string]string{
		"any": "type: ClusterIP", "same-node": "trafficDistribution: PreferSameNode", "local": "internalTrafficPolicy: Local", "headless": "clusterIP: None",
	} {
		w.apply(fmt.Sprintf(doc, name, spec))
		svc, err := w.Get(w.soon(), "Service", "shop", name)
		w.must(err)
		addr[name] = net.JoinHostPort(svc[0].Text("spec", "clusterIP"), "80")
	}
	w.protocol("shop", "HBONE")
	hear := func(name string) map[string]int {
		t.Helper()
		heard := map[string]int{}
		for range 30 {
			got, err := w.call("shop", "client", addr[name], "hi")
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			who, _, _ := strings.Cut(got, " ")
			heard[who]++
		}
		return heard
	}
	if got := hear("any"); got["near"] == 0 || got["far"] == 0 {
		t.Errorf("a service without wishes: %v", got)
	}
	for _, name := range []string{"same-node", "local"} {
		if got := hear(name); got["near"] != 30 {
			t.Errorf("%s: %v", name, got)
		}
	}
	// Behind a headless service each pod is called by its own address.
	m, err := w.ask("udp", "shop", "client", "headless.shop.svc.cluster.local", dns.TypeA)
	w.must(err)
	if got, _ := addresses(m); len(got) != 2 {
		t.Errorf("the headless service has addresses %v", got)
	} else {
		for _, ip := range got {
			if _, err := w.call("shop", "client", ip+":8080", "hi"); err != nil {
				t.Errorf("pod %s of the headless service: %v", ip, err)
			}
		}
	}

	w.must(w.DeleteObject(w.soon(), "Pod", "shop", "near", 0))
	w.gone("shop", "near")
	w.eventually("the far pod to take over", func() error {
		got, err := w.call("shop", "client", addr["same-node"], "hi")
		if err == nil && !strings.HasPrefix(got, "far") {
			err = fmt.Errorf("%s answered", got)
		}
		return err
	})
	w.eventually("the strict service to have nobody", func() error {
		if _, err := w.call("shop", "client", addr["local"], "hi"); err == nil {
			return errNotYet
		}
		return nil
	})
	w.logged("node1", "no healthy upstream", "local.shop.svc.cluster.local")
}

// TestEntries reaches what is not a pod: addresses nobody knows, hosts a ServiceEntry names, and a machine a WorkloadEntry
// stands for.
func TestEntries(t *testing.T) {
	w := start(t, options{nodes: 3})
	w.namespace("shop", "istio.io/dataplane-mode: ambient")
	w.pod("shop", "client", "client", "node1")
	w.pod("shop", "web", "web", "node2")
	w.serve("shop", "web", 8080)
	w.apply(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: fixed, namespace: shop}
spec: {hosts: [fixed.example.com], addresses: [10.97.0.1], resolution: STATIC, location: MESH_EXTERNAL, ports: [{number: 80, name: tcp, protocol: TCP, targetPort: 7000}], endpoints: [{address: 172.30.0.12}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: direct, namespace: shop}
spec: {hosts: [direct.example.com], addresses: [172.30.0.12], resolution: NONE, location: MESH_EXTERNAL, ports: [{number: 7000, name: tcp, protocol: TCP}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: machines, namespace: shop}
spec: {hosts: [machines.example.com], addresses: [10.97.0.2], resolution: STATIC, location: MESH_INTERNAL, ports: [{number: 80, name: tcp, protocol: TCP, targetPort: 7000}], workloadSelector: {labels: {app: machine}}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: machine, namespace: shop, labels: {app: machine}}
spec: {address: 172.30.0.13, labels: {app: machine}, serviceAccount: machine}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: auto, namespace: shop}
spec: {hosts: [auto.example.com], resolution: STATIC, location: MESH_EXTERNAL, ports: [{number: 7000, name: tcp, protocol: TCP}], endpoints: [{address: 172.30.0.12}]}
---
apiVersion: v1
kind: Service
metadata: {name: lost, namespace: shop, labels: {istio.io/use-waypoint: nowhere}}
spec: {selector: {app: web}, ports: [{name: tcp, port: 80, targetPort: 8080}]}
`)
	for _, node := range []string{"node2", "node3"} {
		w.must(w.In(w.ctx, node, func() error {
			l, err := net.Listen("tcp", ":7000")
			if err == nil {
				s := &server{who: node, l: l, conns: map[net.Conn]bool{}}
				s.wg.Go(s.accept)
				w.Cleanup(s.close)
			}
			return err
		}))
	}
	w.eventually("the proxy to know the pods and entries", func() error {
		d, err := w.dump("node1")
		seen := 0
		for _, s := range d.Services {
			if s.Namespace == "shop" {
				seen++
			}
		}
		for _, wl := range d.Workloads {
			if wl.Namespace == "shop" && wl.Protocol == "HBONE" {
				seen++
			}
		}
		if err == nil && seen != 5+2 {
			err = fmt.Errorf("%d of 7", seen)
		}
		return err
	})
	me := w.podIP("shop", "client")
	// Servers outside see the pod itself.
	for _, c := range []struct{ addr, who string }{
		{"172.30.0.13:7000", "node3"}, // a WorkloadEntry's address without mesh
		{"172.30.0.12:7000", "node2"}, // resolution NONE: where the client wants to go
		{"10.97.0.1:80", "node2"},
		{"10.97.0.2:80", "node3"},
	} {
		w.want("shop", "client", c.addr, c.who+" "+me)
	}
	m, err := w.ask("udp", "shop", "client", "auto.example.com", dns.TypeA)
	w.must(err)
	got, _ := addresses(m)
	if len(got) != 1 || !strings.HasPrefix(got[0], "240.240.") {
		t.Fatalf("a host without address resolves to %v", got)
	}
	w.want("shop", "client", got[0]+":7000", "node2 "+me)
	w.logged("node1", "connection complete", `dst.service="fixed.example.com"`, `direction="outbound"`)
	w.logged("node1", "connection complete", `dst.service="machines.example.com"`, `dst.workload="machine"`)
	w.logged("node1", "connection complete", `dst.service="auto.example.com"`)
	// Nobody is there: the client is told, and so is the log.
	w.refused("shop", "client", "172.30.0.12:7001")

	// A waypoint that does not exist: traffic goes straight to the pods, by mutual TLS, and the service says why.
	lost, err := w.Get(w.soon(), "Service", "shop", "lost")
	w.must(err)
	w.want("shop", "client", net.JoinHostPort(lost[0].Text("spec", "clusterIP"), "80"), "web "+me)
	w.logged("node2", "connection complete", `dst.service="lost.shop.svc.cluster.local"`, `src.identity="spiffe://cluster.local/ns/shop/sa/client"`)
	if told := w.ambitctl("config", "refused"); !strings.Contains(told, `waypoint "shop/nowhere" is not ready`) {
		t.Errorf("ambitctl says\n%s", told)
	}
	report, err := getUnix(w.ctx, w.Control.AdminSocket, "/debug/refusals")
	w.must(err)
	for _, word := range []string{"WaypointBound", "WaypointIsNotReady"} {
		if !strings.Contains(string(report), word) {
			t.Errorf("no condition says %s", word)
		}
	}
}
