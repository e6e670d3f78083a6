package stories

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
)

// TestWaypointCanary moves a service's traffic to another waypoint by weight, has a service call itself through its
// waypoint, and gives the pods of one account a waypoint of their own.
func TestWaypointCanary(t *testing.T) {
	w := startWaypoints(t, options{nodes: 2})
	w.guardedShop()
	w.now(waypointYAML("shop", "next", "service"))
	service := "http://" + w.vip("shop", "web") + "/"
	weigh := func(weight string) {
		t.Helper()
		yaml := strings.Replace(httpService("shop", "web", "web", 80, 8080), "namespace: shop}",
			"namespace: shop, labels: {istio.io/use-waypoint: wp, istio.io/use-waypoint-canary: next}, annotations: {istio.io/use-waypoint-canary-weight: \""+weight+"\"}}", 1)
		w.now(yaml)
	}
	tally := func() map[string]int {
		t.Helper()
		by := map[string]int{}
		for range 60 {
			a, err := w.fetch("shop", "client", service)
			if err != nil || a.Status != http.StatusOK {
				t.Fatalf("%d, %v", a.Status, err)
			}
			by[a.by()]++
		}
		return by
	}
	weigh("0")
	if by := tally(); by["shop/wp"] != 60 {
		t.Errorf("weight 0: %v", by)
	}
	weigh("30")
	if by := tally(); by["shop/next"] < 5 || by["shop/next"] > 36 || by["shop/wp"]+by["shop/next"] != 60 {
		t.Errorf("weight 30: %v", by)
	}
	// A policy holds on both ways.
	w.now(getOnly("shop", "web"))
	for range 20 {
		w.status("shop", "client", "POST "+service, http.StatusForbidden)
	}
	w.status("shop", "client", "http://"+w.podIP("shop", "web")+":8080/", 0)
	weigh("100")
	if by := tally(); by["shop/next"] != 60 {
		t.Errorf("weight 100: %v", by)
	}

	// A hairpin: the only pod of the service calls the service, through the waypoint and back to itself.
	w.through("shop", "web", service, "shop/next")
	w.status("shop", "web", "POST "+service, http.StatusForbidden)
	w.remove(getOnly("shop", "web"))

	// A waypoint for the pods of an account.
	mine := strings.Replace(waypointYAML("shop", "mine", "workload"), "namespace: shop,", "namespace: shop, annotations: {istio.io/for-service-account: free},", 1)
	w.now(mine)
	w.through("shop", "client", "http://"+w.podIP("shop", "free")+":8080/", "shop/mine")
	w.through("shop", "client", "http://"+w.podIP("shop", "web")+":8080/", "")
}

// TestWaypointOutside reaches hosts outside of the mesh through an egress waypoint, which routes and refuses: hosts with
// endpoints, hosts by name, hosts that clients address themselves, and machines that stand for pods.
func TestWaypointOutside(t *testing.T) {
	w := startWaypoints(t, options{nodes: 3})
	w.guardedShop()
	w.namespace("egress", "istio.io/dataplane-mode: ambient")
	outside := w.podIP("outside", "stranger")
	w.web("outside", "stranger", 8080)
	w.serve("outside", "stranger", 7000)
	host := "172.30.0.13" // node3, which is no pod
	var l net.Listener
	w.must(w.In(w.ctx, "node3", func() (err error) { l, err = net.Listen("tcp", host+":8080"); return err }))
	w.handleOn(l, echoRequest("host"))
	w.apply(`
apiVersion: v1
kind: Service
metadata: {name: named, namespace: outside}
spec: {clusterIP: None, selector: {app: stranger}, ports: [{name: http, port: 8080}]}
`)
	entry := func(name, spec string, labels ...string) string {
		return fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: %[1]s, namespace: egress, labels: {%[2]s}}
spec: {hosts: [%[1]s.example.com], location: MESH_EXTERNAL, %[3]s}
---
`, name, strings.Join(append(labels, "istio.io/use-waypoint: out"), ", "), spec)
	}
	const ports = "ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}, {number: 7000, name: tcp, protocol: TCP}]"
	w.now(waypointYAML("egress", "out", "service") +
		entry("static", "resolution: STATIC, addresses: [10.97.1.1], endpoints: [{address: "+outside+"}], "+ports) +
		entry("named", "resolution: DNS, addresses: [10.97.1.2], endpoints: [{address: named.outside.svc.cluster.local}], "+ports) +
		entry("direct", "resolution: NONE, addresses: ["+host+"], ports: [{number: 8080, name: http, protocol: HTTP}]") +
		entry("machines", "resolution: STATIC, addresses: [10.97.1.4], workloadSelector: {labels: {app: machine}}, "+ports) + `
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: machine, namespace: egress, labels: {app: machine}}
spec: {address: ` + outside + `}
---
`)
	for name, url := range map[string]string{
		"static": "http://10.97.1.1/", "named": "http://10.97.1.2/", "direct": "http://" + host + ":8080/", "machines": "http://10.97.1.4/",
	} {
		a, err := w.fetch("shop", "client", url, "Host: "+name+".example.com")
		if err != nil || a.Status != http.StatusOK || a.by() != "egress/out" || a.Pod == "" || a.Host != name+".example.com" {
			t.Errorf("%s: %d by %q, %v: %s", name, a.Status, a.by(), err, a.Body)
		}
	}
	for _, addr := range []string{"10.97.1.1:7000", "10.97.1.2:7000", "10.97.1.4:7000"} {
		if got, err := w.call("shop", "client", addr, "hi"); err != nil || !strings.HasPrefix(got, "stranger "+w.addresses("egress", w.proxies("egress", "out"))[0]) {
			t.Errorf("%s by TCP: %q, %v", addr, got, err)
		}
	}
	// A machine may ask for a waypoint as a pod does.
	w.now(waypointYAML("egress", "boxes", "workload") + `
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: box, namespace: egress, labels: {istio.io/use-waypoint: boxes}}
spec: {address: ` + w.nodeIP("node2") + `}
`)
	w.must(w.In(w.ctx, "node2", func() (err error) { l, err = net.Listen("tcp", w.nodeIP("node2")+":8080"); return err }))
	w.handleOn(l, echoRequest("box"))
	w.through("shop", "client", "http://"+w.nodeIP("node2")+":8080/", "egress/boxes")
	// Who may go out and what for, decided at the waypoint.
	w.now(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: out, namespace: egress}
spec:
  targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: static}]
  rules: [{from: [{source: {namespaces: [shop]}}], to: [{operation: {methods: [GET]}}]}]
`)
	w.through("shop", "client", "http://10.97.1.1/", "egress/out")
	w.status("shop", "client", "POST http://10.97.1.1/", http.StatusForbidden)
	w.through("shop", "client", "POST http://10.97.1.2/", "egress/out")
	// There is no proxy at the other end to refuse anybody: the client's own does, when the waypoint is gone.
	w.remove(waypointYAML("egress", "out", "service"))
	w.synced()
	w.status("shop", "client", "http://10.97.1.1/", 0)
	w.logged("node1", "waypoint-required", "static.example.com")
	w.through("shop", "client", "http://10.97.1.4/", "")
}

// TestWaypointWildcard goes out to hosts of a domain that are looked up when they are asked for, and to no others.
func TestWaypointWildcard(t *testing.T) {
	const host = "172.30.0.12" // node2
	w := startWaypoints(t, options{nodes: 2, names: map[string][]string{"a.wild.example.com": {host}, "evil.example.org": {host}, "loop.wild.example.com": {"127.0.0.1"}}})
	w.guardedShop()
	var plain, secure net.Listener
	w.must(w.In(w.ctx, "node2", func() (err error) { plain, err = net.Listen("tcp", host+":80"); return err }))
	w.must(w.In(w.ctx, "node2", func() (err error) { secure, err = net.Listen("tcp", host+":443"); return err }))
	w.handleOn(plain, echoRequest("host"))
	cert, key, root := pair(t, "a.wild.example.com")
	own, err := tls.X509KeyPair(cert, key)
	w.must(err)
	w.handleOn(tls.NewListener(secure, &tls.Config{Certificates: []tls.Certificate{own}}), echoRequest("host"))
	w.now(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild, namespace: shop}
spec: {hosts: ["*.wild.example.com"], addresses: [10.97.1.5], location: MESH_EXTERNAL, resolution: DYNAMIC_DNS, ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}, {number: 15000, name: http-admin, protocol: HTTP}, {number: 15004, name: http-tools, protocol: HTTP}, {number: 15020, name: http-agent, protocol: HTTP}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: self, namespace: shop}
spec: {hosts: [self.example.com], addresses: [10.97.1.6], location: MESH_EXTERNAL, resolution: STATIC, endpoints: [{address: 127.0.0.1}], ports: [{number: 15000, name: http-admin, protocol: HTTP}, {number: 15004, name: http-tools, protocol: HTTP}, {number: 15020, name: http-agent, protocol: HTTP}]}
`)
	if a := w.through("shop", "client", "http://10.97.1.5/x", "shop/wp", "Host: a.wild.example.com"); a.Pod != "host" || a.Host != "a.wild.example.com" {
		t.Errorf("%+v", a)
	}
	for url, name := range map[string]string{
		"http://10.97.1.5/a": "evil.example.org", "http://10.97.1.5/b": "10.97.1.5", "http://10.97.1.5/c": "nobody.wild.example.com",
		// The waypoint's own interfaces, by a name or an address that leads to loopback.
		"http://10.97.1.6:15000/stats": "self.example.com", "http://10.97.1.6:15004/facts": "self.example.com", "POST http://10.97.1.6:15020/quitquitquit": "self.example.com",
		"http://10.97.1.5/d": host, "http://10.97.1.5:15000/stats": "loop.wild.example.com:15000", "http://10.97.1.5:15004/facts": "loop.wild.example.com:15004", "POST http://10.97.1.5:15020/quitquitquit": "loop.wild.example.com:15020", "http://10.97.1.5/listeners": "loop.wild.example.com:15000",
	} {
		if a, err := w.fetch("shop", "client", url, "Host: "+name); err == nil && a.Status < 400 {
			t.Errorf("%s for host %s: %d from %q: %.80s", url, name, a.Status, a.Pod, a.Body)
		}
	}
	by := func(name string) error {
		c := w.clientBy(false, func(string) (net.Conn, error) { return w.dial("shop", "client", "10.97.1.5:443") })
		pool := x509.NewCertPool()
		pool.AddCert(root)
		c.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: pool, InsecureSkipVerify: name != "a.wild.example.com", ServerName: name}
		a, err := send(c, "https://"+name+"/")
		if err == nil && a.Pod != "host" {
			err = fmt.Errorf("%d: %s", a.Status, a.Body)
		}
		return err
	}
	if err := by("a.wild.example.com"); err != nil {
		t.Errorf("by TLS: %v", err)
	}
	if by("evil.example.org") == nil {
		t.Error("a name of another domain by TLS was answered")
	}
}

func (w *world) nodeIP(node string) string {
	n, _ := w.Node(node)
	return n.Addresses[0]
}

// TestWaypointDualStack goes through a waypoint by IPv4 and IPv6.
func TestWaypointDualStack(t *testing.T) {
	w := startWaypoints(t, options{nodes: 2, dualStack: true})
	w.guardedShop()
	w.now(`
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ipFamilyPolicy: RequireDualStack, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: six, namespace: shop}
spec: {ipFamilyPolicy: SingleStack, ipFamilies: [IPv6], selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
` + "---\n" + getOnly("shop", "web"))
	list := func(kind, name, field, key string) (string, string) {
		t.Helper()
		objects, err := w.Get(w.soon(), kind, "shop", name)
		w.must(err)
		section := "spec"
		if kind == "Pod" {
			section = "status"
		}
		l, _ := objects[0].At(section, field).([]any)
		return families(t, l, key)
	}
	vip4, vip6 := list("Service", "web", "clusterIPs", "")
	me4, me6 := list("Pod", "client", "podIPs", "ip")
	web4, web6 := list("Pod", "web", "podIPs", "ip")
	for _, c := range []struct{ vip, me string }{{vip4, me4}, {vip6, me6}} {
		url := "http://" + net.JoinHostPort(c.vip, "80") + "/"
		if a := w.through("shop", "client", url, "shop/wp"); a.Header.Get("X-Forwarded-For") != c.me {
			t.Errorf("%s: the application sees %s, want %s", url, a.Header.Get("X-Forwarded-For"), c.me)
		}
		w.status("shop", "client", "POST "+url, http.StatusForbidden)
	}
	w.through("shop", "client", "http://["+w.vip("shop", "six")+"]/", "shop/wp")
	for _, ip := range []string{web4, web6} {
		w.status("shop", "client", "http://"+net.JoinHostPort(ip, "8080")+"/", 0)
		w.status("outside", "stranger", "http://"+net.JoinHostPort(ip, "8080")+"/", 0)
	}
}
