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
