package analyze

import (
	"fmt"
	"strings"
	"testing"
)

// reported are codes, objects and fields of findings.
func reported(all []Finding) string {
	var out []string
	for _, f := range all {
		out = append(out, fmt.Sprintf("%s %s/%s %s", f.Code, f.Namespace, f.Object, f.Field))
	}
	return strings.Join(out, "\n")
}

// TestWaypointListeners: a listener of a waypoint that takes no traffic of the mesh takes none at all.
func TestWaypointListeners(t *testing.T) {
	const gateway = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: wp, namespace: shop}\nspec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: %s}]}\n"
	for port, want := range map[string]string{
		"15008, protocol: HBONE": "",
		"15008, protocol: HTTP":  "AMB211 shop/wp spec.listeners[mesh]",
		"15009, protocol: HTTP":  "AMB211 shop/wp spec.listeners[mesh]",
	} {
		if got := reported(Run(Config{}, []Document{{Name: "g.yaml", Data: fmt.Appendf(nil, gateway, port)}}).Findings); got != want {
			t.Errorf("%s: %s, want %s", port, got, want)
		}
	}
}

// TestRivals: only routes that are in force at a parent are rivals there.
func TestRivals(t *testing.T) {
	const shop = `
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: other}
spec: {clusterIP: 10.96.0.2, ports: [{name: http, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec: {gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: %s}}}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: a, namespace: shop}
spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: cart, port: 80}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: b, namespace: other}
spec: {parentRefs: [{name: edge, namespace: shop}], rules: [{backendRefs: [{name: cart, port: 80}]}]}
`
	for from, want := range map[string]string{
		"All":  "AMB205 shop/a spec.rules",
		"Same": "AMB203 other/b spec.parentRefs[0]",
	} {
		if got := reported(Run(Config{}, []Document{{Name: "r.yaml", Data: fmt.Appendf(nil, shop, from)}}).Findings); got != want {
			t.Errorf("%s: %s, want %s", from, got, want)
		}
		// Of a mesh the control plane says what is attached, and rivals are for analyze to find.
		got := Run(Config{Told: true}, []Document{{Name: "r.yaml", Data: fmt.Appendf(nil, shop, from)}}).Findings
		if rivals := strings.Contains(reported(got), "AMB205"); rivals != (from == "All") || strings.Contains(reported(got), "AMB203") {
			t.Errorf("%s, told: %v", from, got)
		}
	}
}
