//go:build kind

package kind

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestDualStack reaches meshed pods and services over IPv4 and IPv6, with the caller's certificate in both, and refuses others
// in both.
func TestDualStack(t *testing.T) {
	c := open(t)
	nodes, err := c.client.CoreV1().Nodes().List(c.ctx, metav1.ListOptions{})
	c.must(err)
	if n := len(nodes.Items[0].Spec.PodCIDRs); n < 2 {
		t.Skipf("pods of this cluster have %d address: IP_FAMILY=dual make kind makes one with two", n)
	}
	const ns = "twofold"
	c.shop(ns)
	c.namespace("twofold-outside")
	c.apply("twofold-outside", onNode("stranger", c.worker(), ""))
	c.ready("twofold-outside", "app=stranger")
	c.apply(ns, `
apiVersion: v1
kind: Service
metadata: {name: both}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: six}
spec:
  ipFamilyPolicy: SingleStack
  ipFamilies: [IPv6]
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  rules: [{from: [{source: {principals: [cluster.local/ns/twofold/sa/client]}}]}]
`)
	urls := c.urls(ns, "both", "six")
	for _, p := range c.pods(ns, "app=web") {
		if len(p.Status.PodIPs) != 2 {
			t.Fatalf("%s has the addresses %v", p.Name, p.Status.PodIPs)
		}
		for _, ip := range p.Status.PodIPs {
			urls = append(urls, "http://"+net.JoinHostPort(ip.IP, "8080"))
		}
	}
	if len(urls) != 5+2*len(c.pods(ns, "app=web")) {
		t.Fatalf("addresses are missing: %v", urls)
	}
	for _, url := range urls {
		t.Run(url, func(t *testing.T) {
			c := c.in(t)
			c.answers(ns, "client", url)
			c.refused("twofold-outside", "stranger", url)
		})
	}
	// The pods themselves see callers by their own addresses, in the family that was called.
	client := c.pods(ns, "role=client")[0]
	for _, ip := range client.Status.PodIPs {
		addr := netip.MustParseAddr(ip.IP)
		t.Run(fmt.Sprintf("source address, IPv4 %t", addr.Is4()), func(t *testing.T) {
			c := c.in(t)
			for _, pod := range c.pods(ns, "app=web")[0].Status.PodIPs {
				if to := netip.MustParseAddr(pod.IP); to.Is4() == addr.Is4() {
					out := c.answers(ns, "client", "http://"+netip.AddrPortFrom(to, 8080).String())
					if !strings.Contains(out, ip.IP) {
						t.Errorf("the server does not see %s: %s", ip.IP, out)
					}
				}
			}
		})
	}
	t.Run("through a waypoint", func(t *testing.T) { c.in(t).behindWaypoint(ns) })
}

// urls are those of services, by each of their addresses and by name.
func (c *cluster) urls(ns string, services ...string) []string {
	c.Helper()
	var out []string
	for _, name := range services {
		svc, err := c.client.CoreV1().Services(ns).Get(c.ctx, name, metav1.GetOptions{})
		c.must(err)
		for _, ip := range svc.Spec.ClusterIPs {
			out = append(out, "http://"+net.JoinHostPort(ip, "80"))
		}
		out = append(out, "http://"+name+"."+ns)
	}
	return out
}

// twofoldBehind is services of both families and of IPv6 alone behind a waypoint, which lets one caller read, and the pods' policy,
// by which the waypoint may come.
const twofoldBehind = `
apiVersion: v1
kind: Service
metadata: {name: both7, labels: {istio.io/use-waypoint: waypoint}}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: six7, labels: {istio.io/use-waypoint: waypoint}}
spec:
  ipFamilyPolicy: SingleStack
  ipFamilies: [IPv6]
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers}
spec:
  targetRefs: [{group: "", kind: Service, name: both7}, {group: "", kind: Service, name: six7}]
  rules:
  - from: [{source: {principals: [cluster.local/ns/twofold/sa/client]}}]
    to: [{operation: {methods: [GET]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  rules: [{from: [{source: {principals: [cluster.local/ns/twofold/sa/waypoint]}}]}]
`

// behindWaypoint reaches services through a waypoint over both families, and is refused by what the waypoint alone can tell.
func (c *cluster) behindWaypoint(ns string) {
	c.Helper()
	c.apply(ns, plain("other"))
	c.ready(ns, "role=client")
	c.says("waypoint apply -n "+ns+" --wait", "is ready!")
	c.apply(ns, twofoldBehind)
	urls := c.urls(ns, "both7", "six7")
	if len(urls) != 5 {
		c.Fatalf("addresses are missing: %v", urls)
	}
	for _, url := range urls {
		c.eventually(url+" answers through the waypoint", func() error { return c.throughEnvoy(ns, "client", url) })
		c.refused(ns, "client", url, "-X", "POST")
		c.refused(ns, "other", url)
	}
}
