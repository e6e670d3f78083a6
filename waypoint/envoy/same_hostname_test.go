package envoy_test

import (
	"testing"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/waypoint/envoy/envoytest"
)

// TestSameHostname: two namespaces that share a waypoint have a service of one hostname each. Whatever the order of their
// names, neither gets the other's connections, routes, endpoints or policies.
func TestSameHostname(t *testing.T) {
	for _, tenant := range []string{"aaa", "zzz"} {
		t.Run(tenant, func(t *testing.T) {
			w := &envoytest.World{}
			w.Gateway = &waypoint.Gateway{Namespace: "default", Name: "waypoint", Services: true, TrustDomains: []string{"cluster.local"}}
			const host = "api.example.com"
			for i, c := range []struct{ app, ip, vip, ns string }{
				{"theirs", "127.0.61.1", "10.96.0.2", tenant}, {"ours", "127.0.61.2", "10.96.0.1", "default"},
			} {
				port := envoytest.App(t, c.app, c.ip)
				pod := envoytest.Pod(c.app, c.ip, c.app)
				w.Add(host, c.vip, []envoytest.Port{{Number: 80, Target: port, Protocol: waypoint.Protocol_HTTP1}}, pod)
				w.Services[i].Namespace, w.Addresses[i].Namespace, w.Destinations[i].Namespace = c.ns, c.ns, c.ns
				w.Addresses[i].Canonical = c.ns == "default"
				pod.Services = map[string]*workload.PortList{mesh.ServiceName(c.ns, host): {Ports: w.Addresses[i].Ports}}
			}
			w.Services[1].Policies = &waypoint.Policies{Authorization: []*waypoint.Authorization{{
				Namespace: "default", Name: "get-only", Action: waypoint.Authorization_ALLOW,
				Rules: []*waypoint.AuthorizationRule{{To: []*waypoint.Operation{{
					Paths: []*waypoint.StringMatch{{Kind: &waypoint.StringMatch_Exact{Exact: "/open"}}},
				}}}},
			}}}
			p := envoytest.Start(t, w)
			p.Node("127.0.61.1", "spiffe://cluster.local/ns/default/sa/theirs")
			p.Node("127.0.61.2", "spiffe://cluster.local/ns/default/sa/ours")
			client := p.Peer(idClient)
			for _, authority := range []string{"10.96.0.1:80", host + ":80"} {
				want(t, client.Client(authority), "http://x/open", 200, "ours")
				want(t, client.Client(authority), "http://x/closed", 403, "")
			}
			want(t, client.Client("10.96.0.2:80"), "http://x/closed", 200, "theirs")
		})
	}
}
