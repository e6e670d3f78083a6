package stories

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// TestDualStack talks by IPv4 and IPv6, to pods and to services, near and far: always by mutual TLS, always with the client's
// own address of the same family, and policies about either family hold.
func TestDualStack(t *testing.T) {
	w := start(t, options{nodes: 2, dualStack: true})
	w.namespace("shop", "istio.io/dataplane-mode: ambient")
	w.namespace("outside")
	w.pod("shop", "client", "client", "node1")
	w.pod("shop", "web", "web", "node2")
	w.pod("shop", "near", "near", "node1")
	w.pod("outside", "stranger", "stranger", "node1")
	w.serve("shop", "web", 8080)
	w.serve("shop", "near", 8080)
	w.apply(`
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ipFamilyPolicy: RequireDualStack, selector: {app: web}, ports: [{name: tcp, port: 80, targetPort: 8080}]}
`)
	w.protocol("shop", "HBONE")
	both := func(ns, pod string) (four, six string) {
		t.Helper()
		pods, err := w.Get(w.soon(), "Pod", ns, pod)
		w.must(err)
		list, _ := pods[0].At("status", "podIPs").([]any)
		return families(t, list, "ip")
	}
	svc, err := w.Get(w.soon(), "Service", "shop", "web")
	w.must(err)
	list, _ := svc[0].At("spec", "clusterIPs").([]any)
	vip4, vip6 := families(t, list, "")
	web4, web6 := both("shop", "web")
	near4, near6 := both("shop", "near")
	me4, me6 := both("shop", "client")
	stranger4, stranger6 := both("outside", "stranger")

	tap := w.watch("node1")
	for _, c := range []struct{ addr, who, me string }{
		{vip4 + ":80", "web", me4}, {"[" + vip6 + "]:80", "web", me6},
		{web4 + ":8080", "web", me4}, {"[" + web6 + "]:8080", "web", me6},
		{near4 + ":8080", "near", me4}, {"[" + near6 + "]:8080", "near", me6},
	} {
		w.want("shop", "client", c.addr, c.who+" "+c.me)
	}
	report := tap()
	if report.Contains(" hi") {
		t.Errorf("plaintext on the wire:\n%s", report)
	}
	seen := map[bool]bool{}
	for _, f := range report.Flows() {
		if f.Server.Port() == 15008 {
			seen[f.Server.Addr().Unmap().Is6()] = true
		}
	}
	if !seen[false] || !seen[true] {
		t.Errorf("tunnels by IPv6 and IPv4: %v\n%s", seen, report)
	}
	w.want("outside", "stranger", web4+":8080", "web "+stranger4)
	w.want("outside", "stranger", "["+web6+"]:8080", "web "+stranger6)

	// Names have both.
	for qtype, want := range map[uint16]string{dns.TypeA: vip4, dns.TypeAAAA: vip6} {
		m, err := w.ask("udp", "shop", "client", "web", qtype)
		w.must(err)
		if got, ttl := addresses(m); strings.Join(got, " ") != want || ttl != own {
			t.Errorf("type %d: %v, want %s", qtype, m, want)
		}
	}

	// A policy about the client's IPv6 address leaves its IPv4 alone.
	w.apply(fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-six, namespace: shop}
spec: {action: DENY, rules: [{from: [{source: {ipBlocks: ["%s"]}}]}]}
`, me6))
	w.denied("shop", "client", "["+vip6+"]:80")
	w.refused("shop", "client", "["+near6+"]:8080")
	w.want("shop", "client", vip4+":80", "web "+me4)

	// STRICT holds for both.
	w.apply(strict)
	w.denied("outside", "stranger", "["+web6+"]:8080")
	w.denied("outside", "stranger", web4+":8080")
	w.refused("outside", "stranger", "["+vip6+"]:80")
	w.want("shop", "client", web4+":8080", "web "+me4)
}

// denied waits until a call fails.
func (w *world) denied(ns, pod, addr string) {
	w.Helper()
	w.eventually(pod+" to be refused at "+addr, func() error {
		if _, err := w.call(ns, pod, addr, "hi"); err == nil {
			return errors.New("still answered")
		}
		return nil
	})
}

// families takes a list of addresses, or of objects with a field that has one, apart.
func families(t *testing.T, list []any, field string) (four, six string) {
	t.Helper()
	for _, v := range list {
		if m, ok := v.(map[string]any); ok {
			v = m[field]
		}
		a, err := netip.ParseAddr(fmt.Sprint(v))
		if err != nil {
			t.Fatal(err)
		}
		if a.Is4() {
			four = a.String()
		} else {
			six = a.String()
		}
	}
	if net.ParseIP(four) == nil || net.ParseIP(six) == nil {
		t.Fatalf("not both families: %v", list)
	}
	return four, six
}
