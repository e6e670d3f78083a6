package stories

import (
	"fmt"
	"net"
	"net/http"
	"strings"
)

// edgeCases are requests from outside the mesh to an ingress gateway: its listener, its own policies, routes into the mesh, and
// the waypoint on the way.
func edgeCases() []explainCase {
	const (
		listeners = `{name: all, port: 80, protocol: HTTP, hostname: "*.edge.example"}`
		refused   = "AuthorizationPolicy shop/door"
	)
	route := func(name, hostname, rules string) string {
		return fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %s, namespace: shop}
spec:
  parentRefs: [{name: door}]
  hostnames: [%q]
  rules: [%s]
---
`, name, hostname, rules)
	}
	to := func(service string) string { return "backendRefs: [{name: " + service + ", port: 80}]" }
	objects := fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: door, namespace: shop}
spec: {gatewayClassName: istio, listeners: [%s]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: door, namespace: shop}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: door}]
  action: DENY
  rules: [{to: [{operation: {paths: ["/secret*"]}}]}, {to: [{operation: {hosts: [no.edge.example]}}]}, {when: [{key: "request.headers[x-bad]", values: ["*"]}]}]
---
`, listeners) + explainService("plainly", "alt") + explainService("inner", "web") +
		servicePolicy("inner", "inner", `rules: [{from: [{source: {principals: ["*/sa/door-istio"]}}], to: [{operation: {methods: [GET]}}]}]`) +
		route("edge-www", "www.edge.example", "{matches: [{path: {type: PathPrefix, value: /app}}], "+to("plainly")+"}, {matches: [{path: {type: PathPrefix, value: /inner}}], "+to("inner")+"}, "+
			"{matches: [{path: {type: PathPrefix, value: /gone}}], "+to("absent")+"}, {matches: [{path: {type: PathPrefix, value: /secret}}], "+to("plainly")+"}, "+
			"{matches: [{path: {type: PathPrefix, value: /moved}}], filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /app}, statusCode: 301}}]}") +
		route("edge-any", "*.edge.example", "{"+to("plainly")+"}")
	c := explainCase{name: "edge", objects: objects}
	for _, q := range []inquiry{
		{to: "www.edge.example", path: "/app/x", status: http.StatusOK, pod: "alt", by: "HTTPRoute shop/edge-www rule 0"},
		{to: "www.edge.example", path: "/none", status: http.StatusNotFound},
		{to: "www.edge.example", path: "/gone", status: http.StatusInternalServerError, by: "HTTPRoute shop/edge-www rule 2"},
		{to: "www.edge.example", path: "/moved", status: http.StatusMovedPermanently, by: "HTTPRoute shop/edge-www"},
		{to: "www.edge.example", path: "/secret/x", status: http.StatusForbidden, by: refused + " rule 0"},
		{to: "no.edge.example", status: http.StatusForbidden, by: refused + " rule 1"},
		{to: "www.edge.example", path: "/app", headers: []string{"x-bad: 1"}, status: http.StatusForbidden, by: refused + " rule 2"},
		{to: "any.edge.example", status: http.StatusOK, pod: "alt", by: "HTTPRoute shop/edge-any"},
		{to: "www.other.example", status: http.StatusNotFound},
		{to: "www.edge.example", path: "/inner", status: http.StatusOK, pod: "web", by: "AuthorizationPolicy shop/inner rule 0"},
		{to: "www.edge.example", path: "/inner", method: "POST", status: http.StatusForbidden, by: "AuthorizationPolicy shop/inner"},
		{to: "www.edge.example", port: 81},
	} {
		q.from = theDoor
		c.asked = append(c.asked, q)
	}
	return []explainCase{c}
}

// theDoor is where a request from outside comes in.
const theDoor = "deployment/door-istio"

// outside makes a request from the control host to the gateway.
func (a *asker) outside(q inquiry) (answer, error) {
	client := a.clientBy(false, func(string) (net.Conn, error) {
		return a.fromNode("control")(net.JoinHostPort(a.door, fmt.Sprint(q.port)))
	})
	return send(client, q.method+" http://"+net.JoinHostPort(q.to, fmt.Sprint(q.port))+q.path, append([]string{"Host: " + q.to}, q.headers...)...)
}

// tcpCases are services that speak what the mesh does not look into. Requests of HTTP are bytes to them.
func tcpCases() []explainCase {
	service := func(name, port string) string {
		return strings.Replace(explainService(name, "web"), "{name: http, port: 80,", "{name: "+port+", port: 80,", 1)
	}
	c := func(name, port, policy string, asked ...inquiry) explainCase {
		objects := service(name, port)
		if policy != "" {
			objects += servicePolicy(name, name, policy)
		}
		for i := range asked {
			asked[i].to = "shop/" + name
			if asked[i].status == 0 && asked[i].by == "" {
				asked[i].by = "AuthorizationPolicy shop/" + name
			}
		}
		return explainCase{name, objects, asked}
	}
	client, other := inquiry{from: "shop/client"}, inquiry{from: "shop/other"}
	passes := func(q inquiry) inquiry { q.status, q.pod = http.StatusOK, "web"; return q }
	return []explainCase{
		c("tcp-open", "tcp", "", passes(client)),
		c("tcp-allow", "tcp", `rules: [{from: [{source: {principals: ["*/client"]}}]}]`, passes(client), other),
		c("tcp-deny", "tcp", "action: DENY\n  "+`rules: [{from: [{source: {principals: ["*/other"]}}]}]`, passes(client), other),
		c("tcp-addresses", "tcp", `rules: [{from: [{source: {ipBlocks: [10.244.1.0/24]}}]}]`, passes(client), other),
		c("tcp-port", "tcp", `rules: [{to: [{operation: {ports: ["80"]}}]}]`, passes(client)),
		c("tcp-allow-method", "tcp", `rules: [{to: [{operation: {methods: [GET]}}]}]`, client),
		c("tcp-deny-method", "tcp", "action: DENY\n  "+`rules: [{to: [{operation: {methods: [PUT]}}]}]`, client),
		c("tcp-dry", "tcp", "action: DENY\n  rules: []", passes(client)),
		c("auto-method", "x", `rules: [{to: [{operation: {methods: [GET]}}]}]`, passes(client), inquiry{method: "POST", status: http.StatusForbidden, by: "shop/auto-method"}),
		c("h2-method", "http2", `rules: [{to: [{operation: {methods: [GET]}}]}]`, passes(client), inquiry{method: "POST", status: http.StatusForbidden, by: "shop/h2-method"}),
	}
}
