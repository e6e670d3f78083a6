package admission

import (
	"fmt"
	"strings"
)

func istio(group, plural, kind string, versions ...string) Resource {
	return Resource{Group: group + ".istio.io", Plural: plural, Kind: kind, Versions: versions}
}

var (
	authorization = istio("security", "authorizationpolicies", "AuthorizationPolicy", "v1", "v1beta1")
	entry         = istio("networking", "serviceentries", "ServiceEntry", "v1", "v1beta1", "v1alpha3")
	destination   = istio("networking", "destinationrules", "DestinationRule", "v1", "v1beta1", "v1alpha3")
	virtual       = istio("networking", "virtualservices", "VirtualService", "v1", "v1beta1", "v1alpha3")
	filter        = istio("networking", "envoyfilters", "EnvoyFilter", "v1alpha3")
	sidecar       = istio("networking", "sidecars", "Sidecar", "v1", "v1beta1", "v1alpha3")
	gateway       = Resource{"gateway.networking.k8s.io", "gateways", "Gateway", []string{"v1", "v1beta1"}}
	namespace     = Resource{"", "namespaces", "Namespace", []string{"v1"}}
)

// Rules are all there are, by resource.
func Rules() []Rule {
	var all []Rule
	add := func(res Resource, rules ...Rule) {
		for _, r := range rules {
			r.Resource = res
			all = append(all, r)
		}
	}
	add(authorization, authorizationRules()...)
	add(entry, entryRules()...)
	add(destination, destinationRules()...)
	add(virtual, virtualRules()...)
	add(filter, Rule{
		Name: "no-effect", Field: "spec", Expression: "false", Warn: true,
		Problem: "an EnvoyFilter has no effect in this mesh", Fix: "use an ExtensionPolicy (policy.ambit.io) with lua or extProc",
	})
	add(sidecar, Rule{
		Name: "no-effect", Field: "spec", Expression: "false", Warn: true,
		Problem: "there are no sidecars in this mesh, and a Sidecar has no effect", Fix: "delete it; node proxies learn of services when they are asked for",
	})
	add(gateway, gatewayRules()...)
	add(namespace, Rule{
		Name: "dataplane-mode", Field: "metadata.labels[istio.io/dataplane-mode]", Warn: true,
		Expression: label("istio.io/dataplane-mode", "ambient", "none"),
		Problem:    "the value means nothing", Fix: "write ambient to enrol the namespace, or none",
	})
	return all
}

// label is true for objects without a label, or with one of these values.
func label(key string, values ...string) string {
	return fmt.Sprintf("!has(object.metadata.labels) || !(%[1]q in object.metadata.labels) || object.metadata.labels[%[1]q] in [%[2]s]", key, quoted(values))
}

func quoted(list []string) string { return `"` + strings.Join(list, `", "`) + `"` }

// action is that of an AuthorizationPolicy.
const action = "has(object.spec) && has(object.spec.action) ? object.spec.action : 'ALLOW'"

func authorizationRules() []Rule {
	provider := "has(object.spec.provider) && has(object.spec.provider.name) && object.spec.provider.name != ''"
	port := "p.matches('^[0-9]{1,5}$') && int(p) >= 1 && int(p) <= 65535"
	block := "isIP(b) || isCIDR(b)"
	operations := func(list, v, check string) string {
		return fmt.Sprintf("variables.to.all(l, l.all(t, !has(t.operation) || !has(t.operation.%s) || t.operation.%[1]s.all(%s, %s)))", list, v, check)
	}
	sources := func(list, v, check string) string {
		return fmt.Sprintf("variables.from.all(l, l.all(f, !has(f.source) || !has(f.source.%s) || f.source.%[1]s.all(%s, %s)))", list, v, check)
	}
	both := func(of func(list, v, check string) string, list, v, check string) string {
		return of(list, v, check) + " && " + of("not"+strings.ToUpper(list[:1])+list[1:], v, check)
	}
	return []Rule{{
		Name: "provider", Field: "spec.provider",
		Expression: "(" + action + ") != 'CUSTOM' || " + provider,
		Problem:    "action CUSTOM needs the name of a provider", Fix: "write provider.name",
	}, {
		Name: "no-provider", Field: "spec.provider",
		Expression: "(" + action + ") == 'CUSTOM' || !has(object.spec) || !has(object.spec.provider)",
		Problem:    "only action CUSTOM has a provider", Fix: "remove the field or write action: CUSTOM",
	}, {
		Name: "rules", Field: "spec.rules",
		Expression: "!((" + action + ") in ['DENY', 'CUSTOM']) || variables.rules.size() > 0",
		Problem:    "a policy with action DENY or CUSTOM and without rules never acts", Fix: "add a rule; an empty one, - {}, stands for every request",
	}, {
		Name: "empty", Field: "spec.rules",
		Expression: "variables.rules.all(r, (!has(r.from) || r.from.size() > 0) && (!has(r.to) || r.to.size() > 0) && (!has(r.when) || r.when.size() > 0))",
		Problem:    "an empty list of from, to or when", Fix: "add an entry or remove the field",
	}, {
		Name: "source", Field: "spec.rules[].from[].source",
		Expression: "variables.from.all(l, l.all(f, has(f.source)))",
		Problem:    "the field is missing", Fix: "write source: and what is asked of it",
	}, {
		Name: "operation", Field: "spec.rules[].to[].operation",
		Expression: "variables.to.all(l, l.all(t, has(t.operation)))",
		Problem:    "the field is missing", Fix: "write operation: and what is asked of it",
	}, {
		Name: "ports", Field: "spec.rules[].to[].operation.ports",
		Expression: both(operations, "ports", "p", port),
		Problem:    "a port is a number from 1 to 65535 in quotes", Fix: `write it like "8080"`,
	}, {
		Name: "blocks", Field: "spec.rules[].from[].source.ipBlocks",
		Expression: both(sources, "ipBlocks", "b", block) + " && " + both(sources, "remoteIpBlocks", "b", block),
		Problem:    "an entry is neither an address nor a CIDR", Fix: "write it like 10.1.0.0/16",
	}, {
		Name: "condition", Field: "spec.rules[].when[]",
		Expression: "variables.when.all(l, l.all(w, (has(w.values) && w.values.size() > 0) || (has(w.notValues) && w.notValues.size() > 0)))",
		Problem:    "nothing is asked of the condition", Fix: "write values or notValues",
	}, {
		Name: "key", Field: "spec.rules[].when[].key",
		Expression: "variables.when.all(l, l.all(w, has(w.key) && " + known("w.key") + "))",
		Problem:    "there is no such attribute", Fix: "write one like source.ip, source.namespace, source.principal, destination.port, request.headers[NAME] or request.auth.claims[NAME]",
	}, {
		Name: "principal", Field: "spec.rules[].from[].source.principals", Warn: true,
		Expression: both(sources, "principals", "p", "!p.startsWith('spiffe://')"),
		Problem:    "the identity never matches, because names stand here without spiffe://", Fix: "write it like cluster.local/ns/NAMESPACE/sa/ACCOUNT",
	}}
}

// known is true for attributes of conditions. Istio authorization policy conditions
func known(key string) string {
	plain := []string{
		"connection.sni", "destination.ip", "destination.port", "remote.ip", "request.auth.audiences", "request.auth.presenter", "request.auth.principal",
		"source.ip", "source.namespace", "source.principal", "source.serviceAccount", "source.trustDomain",
	}
	return fmt.Sprintf(`(%[1]s in [%[2]s] || %[1]s.startsWith("experimental.envoy.filters.") || (%[1]s.endsWith("]") && (%[1]s.startsWith("request.headers[") || %[1]s.startsWith("request.auth.claims["))))`, key, quoted(plain))
}

func entryRules() []Rule {
	resolution := "has(object.spec.resolution) ? object.spec.resolution : 'NONE'"
	endpoints := "has(object.spec.endpoints) && object.spec.endpoints.size() > 0"
	return []Rule{{
		Name: "static", Field: "spec.endpoints[].address",
		Expression: "!has(object.spec) || (" + resolution + ") != 'STATIC' || !(" + endpoints + ") || object.spec.endpoints.all(e, !has(e.address) || e.address == '' || e.address.startsWith('unix://') || isIP(e.address))",
		Problem:    "resolution STATIC needs IP addresses", Fix: "write an address, or resolution: DNS",
	}, {
		Name: "addresses", Field: "spec.addresses",
		Expression: "!has(object.spec) || !has(object.spec.addresses) || object.spec.addresses.all(a, isIP(a) || isCIDR(a))",
		Problem:    "an entry is neither an address nor a CIDR", Fix: "write it like 203.0.113.7",
	}}
}

func destinationRules() []Rule {
	return []Rule{{
		Name: "host", Field: "spec.host",
		Expression: "has(object.spec) && has(object.spec.host) && object.spec.host != ''",
		Problem:    "the field is missing", Fix: "write the name of a service",
	}, {
		Name: "subsets", Field: "spec.subsets[].name",
		Expression: "!has(object.spec) || !has(object.spec.subsets) || object.spec.subsets.all(s, has(s.name) && s.name != '' && object.spec.subsets.filter(o, has(o.name) && o.name == s.name).size() == 1)",
		Problem:    "each subset needs a name of its own", Fix: "write one, like v1",
	}}
}

func virtualRules() []Rule {
	return []Rule{{
		Name: "destination", Field: "spec.http[]",
		Expression: "!has(object.spec) || !has(object.spec.http) || object.spec.http.all(r, !(has(r.redirect) && has(r.route)) && !(has(r.redirect) && has(r.directResponse)) && !(has(r.route) && has(r.directResponse)))",
		Problem:    "route, redirect and directResponse exclude each other", Fix: "keep one of them",
	}}
}

func gatewayRules() []Rule {
	return []Rule{{
		Name: "waypoint-for", Field: "metadata.labels[istio.io/waypoint-for]", Warn: true,
		Expression: label("istio.io/waypoint-for", "service", "workload", "all", "none"),
		Problem:    "the value means nothing", Fix: "write service, workload, all or none",
	}, {
		Name: "mesh-port", Field: "spec.listeners", Warn: true,
		Expression: "object.spec.gatewayClassName != 'istio-waypoint' || object.spec.listeners.all(l, l.protocol == 'HBONE' && l.port == 15008)",
		Problem:    "a waypoint takes traffic of the mesh alone", Fix: "write one listener with protocol: HBONE and port: 15008",
	}}
}
