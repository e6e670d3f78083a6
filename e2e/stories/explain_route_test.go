package stories

import (
	"fmt"
	"net/http"
	"strings"
)

// routeCases are routes by what they look at and what they do, and backends that are not there.
func routeCases() []explainCase {
	found := func(q inquiry, pod, by string) inquiry { q.status, q.pod, q.by = http.StatusOK, pod, by; return q }
	at := func(path string, headers ...string) inquiry { return inquiry{path: path, headers: headers} }
	httpRoute := func(name, rules string) string {
		return fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %[1]s, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: %[1]s, port: 80}]
  rules: [%[2]s]
---
`, name, rules)
	}
	virtual := func(name, http string) string {
		return fmt.Sprintf(`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: %[1]s, namespace: shop}
spec:
  hosts: [%[1]s]
  http: [%[2]s]
---
`, name, http)
	}
	// toAlt is a rule: what matches goes to the other pod, the rest to the service itself.
	toAlt := func(matches string) string {
		return "{matches: [" + matches + "], backendRefs: [{name: to-alt, port: 80}]}"
	}
	rest := func(name string) string { return ", {backendRefs: [{name: " + name + ", port: 80}]}" }
	by := "HTTPRoute shop/"
	c := func(name, objects string, asked ...inquiry) explainCase {
		for i := range asked {
			asked[i].to = "shop/" + name
		}
		return explainCase{name, explainService(name, "web") + objects, asked}
	}
	plain := func(name, matches string, yes, no inquiry) explainCase {
		return c(name, httpRoute(name, toAlt(matches)+rest(name)), found(yes, "alt", by+name+" rule 0"), found(no, "web", by+name+" rule 1"))
	}
	answered := func(q inquiry, status int, by string) inquiry { q.status, q.by = status, by; return q }
	return []explainCase{
		{name: "to-alt", objects: explainService("to-alt", "alt") + explainService("to-nobody", "nobody"), asked: []inquiry{{to: "shop/to-alt", status: 200, pod: "alt"}, {to: "shop/to-nobody", status: 503}}},
		plain("route-path", "{path: {type: PathPrefix, value: /a}}", at("/a/b?x=y"), at("/ab")),
		plain("route-exact", "{path: {type: Exact, value: /a}}", at("/a"), at("/a/")),
		plain("route-regex", `{path: {type: RegularExpression, value: "/a[0-9]+"}}`, at("/a12"), at("/a12b")),
		plain("route-header", "{headers: [{name: X-Team, value: blue}]}", at("/", "x-team: blue"), at("/", "x-team: bluer")),
		plain("route-query", "{queryParams: [{name: v, value: '2'}]}", at("/?v=2"), at("/?v=20")),
		plain("route-method", "{method: PUT}", inquiry{method: "PUT"}, at("/")),
		plain("route-several", "{path: {type: PathPrefix, value: /a}, headers: [{name: x-team, value: blue}]}, {method: PUT}", inquiry{method: "PUT"}, at("/a")),
		c("route-consumer", httpRoute("route-consumer", toAlt("{path: {type: PathPrefix, value: /a}}")+rest("route-consumer"))+`
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: theirs, namespace: far}
spec:
  parentRefs: [{group: "", kind: Service, name: route-consumer, namespace: shop}]
  rules: [{matches: [{path: {type: PathPrefix, value: /far}}], backendRefs: [{name: to-alt, namespace: shop, port: 80}]}]
---
`, found(inquiry{from: "far/stranger", path: "/far"}, "alt", "HTTPRoute far/theirs"), answered(inquiry{from: "far/stranger", path: "/a"}, 404, "HTTPRoute far/theirs"),
			found(at("/far"), "web", by+"route-consumer rule 1"), found(at("/a"), "alt", by+"route-consumer rule 0")),
		c("route-none", httpRoute("route-none", toAlt("{path: {type: PathPrefix, value: /a}}")), answered(at("/b"), 404, ""), found(at("/a"), "alt", by)),
		c("route-other-port", httpRoute("route-other-port", toAlt("{}")), found(inquiry{port: 81}, "web", "no route speaks of this port"), found(at("/"), "alt", by)),
		c("route-missing", httpRoute("route-missing", "{backendRefs: [{name: absent, port: 80}]}"), answered(at("/"), 500, by+"route-missing rule 0")),
		c("route-no-port", httpRoute("route-no-port", "{backendRefs: [{name: to-alt, port: 99}]}"), answered(at("/"), 500, by)),
		c("route-forbidden", httpRoute("route-forbidden", "{backendRefs: [{name: plain, namespace: out, port: 80}]}"), found(at("/"), "plain", by)),
		c("route-nobody", httpRoute("route-nobody", "{backendRefs: [{name: to-nobody, port: 80}]}"), answered(at("/"), 503, by+"route-nobody")),
		c("route-weightless", httpRoute("route-weightless", "{backendRefs: [{name: to-alt, port: 80, weight: 0}]}"), answered(at("/"), 500, "")),
		c("route-no-backend", httpRoute("route-no-backend", "{matches: [{path: {value: /}}]}"), answered(at("/"), 500, "")),
		c("route-redirect", httpRoute("route-redirect", "{filters: [{type: RequestRedirect, requestRedirect: {hostname: other.example, statusCode: 302}}]}"), answered(at("/"), 302, by)),
		c("route-one-of-two", httpRoute("route-one-of-two", "{backendRefs: [{name: to-alt, port: 80, weight: 1}, {name: to-nobody, port: 80, weight: 0}]}"), found(at("/"), "alt", by)),
		c("vs-regex", virtual("vs-regex", `{match: [{uri: {regex: "/v[0-9]"}}], route: [{destination: {host: to-alt}}]}, {route: [{destination: {host: vs-regex}}]}`),
			found(at("/v1"), "alt", "VirtualService shop/vs-regex rule 0"), found(at("/v10"), "web", "VirtualService shop/vs-regex rule 1")),
		c("vs-ignore-case", virtual("vs-ignore-case", `{match: [{uri: {prefix: /a}, ignoreUriCase: true}], route: [{destination: {host: to-alt}}]}`), found(at("/A/b"), "alt", "VirtualService"), answered(at("/b"), 404, "")),
		c("vs-without", virtual("vs-without", `{match: [{withoutHeaders: {x-team: {exact: blue}}}], route: [{destination: {host: to-alt}}]}, {route: [{destination: {host: vs-without}}]}`),
			found(at("/"), "alt", "rule 0"), found(at("/", "x-team: blue"), "web", "rule 1")),
		c("vs-namespace", virtual("vs-namespace", `{match: [{sourceNamespace: far}], route: [{destination: {host: to-alt}}]}, {route: [{destination: {host: vs-namespace}}]}`),
			found(inquiry{from: "far/stranger"}, "alt", "rule 0"), found(at("/"), "web", "rule 1")),
		c("vs-direct", virtual("vs-direct", `{directResponse: {status: 418}}`), answered(at("/"), 418, "VirtualService shop/vs-direct rule 0")),
		c("vs-abort", virtual("vs-abort", `{match: [{uri: {prefix: /a}}], fault: {abort: {httpStatus: 555, percentage: {value: 100}}}, route: [{destination: {host: vs-abort}}]}, {route: [{destination: {host: vs-abort}}]}`),
			answered(at("/a"), 555, "VirtualService shop/vs-abort rule 0"), found(at("/"), "web", "rule 1")),
		c("vs-delay", virtual("vs-delay", `{fault: {delay: {fixedDelay: 10ms, percentage: {value: 100}}}, route: [{destination: {host: vs-delay}}]}`), found(at("/"), "web", "wait 10ms")),
		c("vs-missing", virtual("vs-missing", `{route: [{destination: {host: absent}}]}`), inquiry{status: 500}),
		c("vs-subset", virtual("vs-subset", `{route: [{destination: {host: vs-subset, subset: absent}}]}`), inquiry{status: 500}),
		c("vs-policy", virtual("vs-policy", `{directResponse: {status: 418}}`)+servicePolicy("vs-policy", "vs-policy", "rules: [{to: [{operation: {methods: [GET]}}]}]"),
			answered(at("/"), 418, ""), answered(inquiry{method: "POST"}, 403, "shop/vs-policy")),
		c("route-rewritten", httpRoute("route-rewritten", "{filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /z}}}], backendRefs: [{name: to-alt, port: 80}]}")+
			servicePolicy("route-rewritten", "route-rewritten", `rules: [{to: [{operation: {paths: [/a]}}]}]`), found(at("/a"), "alt", ""), answered(at("/z"), 403, "shop/route-rewritten")),
	}
}

// l4Fields are fields of policies that node proxies enforce: each has a pod of its own in a namespace without a waypoint.
func l4Fields() []explainCase {
	const client, other, stranger, outsider = "shop/client", "shop/other", "far/stranger", "out/outsider"
	var out []explainCase
	// lets says who gets in: the first two are asked, yes and no.
	one := func(name, spec, yes, no string, annotations ...string) {
		name = "l4-" + name
		objects := explainPod("low", name, "node2") + httpService("low", name, name, 80, 8080) + fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: %[1]s, namespace: low, annotations: {%[3]s}}
spec:
  selector: {matchLabels: {app: %[1]s}}
  %[2]s
---
`, name, spec, strings.Join(annotations, ", "))
		c := explainCase{name: name, objects: objects}
		if yes != "" {
			c.asked = append(c.asked, inquiry{from: yes, to: "low/" + name, status: http.StatusOK, pod: name}, inquiry{from: yes, to: "pod:low/" + name, status: http.StatusOK})
		}
		if no != "" {
			c.asked = append(c.asked, inquiry{from: no, to: "low/" + name, by: "AuthorizationPolicy low/" + name}, inquiry{from: no, to: "pod:low/" + name, by: "low/" + name})
		}
		out = append(out, c)
	}
	source := func(s string) string { return "rules: [{from: [{source: {" + s + "}}]}]" }
	one("principals", source(`principals: ["cluster.local/ns/shop/sa/client"]`), client, other)
	one("notprincipals", source(`notPrincipals: ["*/client"]`), other, client)
	one("namespaces", source(`namespaces: [shop]`), client, stranger)
	one("notnamespaces", source(`notNamespaces: [far]`), outsider, stranger)
	one("accounts", source(`serviceAccounts: [shop/client]`), client, outsider)
	one("ipblocks", source(`ipBlocks: [10.244.1.0/24]`), outsider, other)
	one("notipblocks", source(`notIpBlocks: [10.244.1.0/24]`), other, outsider)
	one("ports", `rules: [{to: [{operation: {ports: ["8080"]}}]}]`, outsider, "")
	one("notports", `rules: [{to: [{operation: {notPorts: ["8080"]}}]}]`, "", client)
	one("when-ip", `rules: [{when: [{key: source.ip, values: [10.244.1.0/24]}]}]`, client, other)
	one("when-principal", `rules: [{when: [{key: source.principal, notValues: ["*/other"]}]}]`, client, other)
	one("when-port", `rules: [{when: [{key: destination.port, values: ["8080"]}]}]`, client, "")
	one("deny", "action: DENY\n  "+source(`namespaces: [far]`), client, stranger)
	one("deny-nobody", "action: DENY\n  "+source(`notPrincipals: ["*"]`), client, outsider)
	one("dry-deny", "action: DENY\n  rules: [{}]", client, "", `istio.io/dry-run: "true"`)
	one("nothing", "rules: []", "", client)
	one("needs-http", `rules: [{to: [{operation: {methods: [GET]}}]}]`, "", client)
	one("deny-needs-http", "action: DENY\n  "+`rules: [{to: [{operation: {methods: [PUT]}}]}]`, client, "")
	out = append(out, explainCase{name: "strict", objects: explainPod("low", "strict", "node1") + httpService("low", "strict", "strict", 80, 8080) + `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: low}
spec: {selector: {matchLabels: {app: strict}}, mtls: {mode: STRICT}}
---
`, asked: []inquiry{{from: client, to: "low/strict", status: http.StatusOK, pod: "strict"}, {from: outsider, to: "low/strict", by: "strict"}}})
	return out
}

// waysAround are callers outside the mesh, guards, waypoints that are not there, and what lies between a waypoint and a pod.
func waysAround() []explainCase {
	const outsider = "out/outsider"
	selected := func(name, spec string) string {
		return fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: %[1]s, namespace: shop}
spec:
  selector: {matchLabels: {app: %[1]s}}
  %[2]s
---
`, name, spec)
	}
	get := "rules: [{to: [{operation: {methods: [GET]}}]}]"
	own := func(name string) string { return explainPod("shop", name, "node2") + explainService(name, name) }
	gone := func(name string) string {
		return explainPod("shop", name, "node2") + strings.Replace(explainService(name, name), "use-waypoint: waypoint", "use-waypoint: absent", 1)
	}
	podPolicy := strings.Replace(servicePolicy("by-address", "", get), `{group: "", kind: Service, name: }`, "{group: gateway.networking.k8s.io, kind: Gateway, name: pods}", 1)
	return []explainCase{
		{name: "unmeshed to unmeshed", asked: []inquiry{{from: outsider, to: "out/plain", status: 200, pod: "plain"}, {to: "out/plain", status: 200, pod: "plain", by: "plaintext"}}},
		{name: "unmeshed past routes", objects: own("unguarded") + `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: unguarded, namespace: shop}
spec: {hosts: [unguarded], http: [{directResponse: {status: 418}}]}
---
`, asked: []inquiry{{from: outsider, to: "shop/unguarded", status: 200, pod: "unguarded"}, {to: "shop/unguarded", status: 418}, {to: "pod:shop/unguarded", status: 200}}},
		{name: "guarded", objects: own("guarded") + servicePolicy("guarded", "guarded", get), asked: []inquiry{
			{to: "shop/guarded", status: 200, pod: "guarded", by: "shop/guarded rule 0"}, {to: "shop/guarded", method: "POST", status: 403, by: "shop/guarded"},
			{to: "pod:shop/guarded", by: "AuthorizationPolicy shop/guarded"}, {from: outsider, to: "shop/guarded", by: "AuthorizationPolicy shop/guarded"},
			{from: outsider, to: "pod:shop/guarded", by: "AuthorizationPolicy shop/guarded"}}},
		{name: "waypoint is not there", objects: gone("waypointless"), asked: []inquiry{{to: "shop/waypointless", status: 200, pod: "waypointless"}}},
		{name: "waypoint with a policy is not there", objects: gone("unenforced") + servicePolicy("unenforced", "unenforced", get), asked: []inquiry{
			{to: "shop/unenforced", by: "AuthorizationPolicy shop/unenforced"}, {to: "pod:shop/unenforced", by: "shop/unenforced"}}},
		{name: "real client", objects: own("real") + selected("real", `rules: [{from: [{source: {principals: ["*/sa/client"]}}]}]`), asked: []inquiry{
			{to: "shop/real", status: 200, pod: "real", by: "shop/real"}, {from: "shop/other", to: "shop/real", status: 503, by: "AuthorizationPolicy shop/real"}, {from: "shop/other", to: "pod:shop/real", by: "shop/real"}}},
		{name: "real client denied", objects: own("unwanted") + selected("unwanted", "action: DENY\n  "+`rules: [{from: [{source: {principals: ["*/sa/other"]}}]}]`), asked: []inquiry{
			{to: "shop/unwanted", status: 200, pod: "unwanted"}, {from: "shop/other", to: "shop/unwanted", status: 503, by: "AuthorizationPolicy shop/unwanted"}}},
		{name: "only the waypoint", objects: own("peer") + selected("peer", `rules: [{from: [{source: {principals: ["*/sa/waypoint"]}}]}]`), asked: []inquiry{
			{to: "shop/peer", status: 200, pod: "peer"}, {to: "pod:shop/peer", by: "shop/peer"}}},
		{name: "L7 policy of a selector", objects: own("misplaced") + selected("misplaced", get), asked: []inquiry{{to: "shop/misplaced", status: 503, by: "shop/misplaced"}}},
		{name: "by address", objects: strings.Replace(explainPod("shop", "byaddress", "node2"), "app: byaddress", "app: byaddress, istio.io/use-waypoint: pods", 1) + podPolicy, asked: []inquiry{
			{to: "pod:shop/byaddress", status: 200, by: "shop/by-address rule 0"}, {to: "pod:shop/byaddress", method: "POST", status: 403, by: "shop/by-address"}}},
		{name: "no such port", objects: own("portless"), asked: []inquiry{{to: "shop/portless", port: 99}}},
	}
}
