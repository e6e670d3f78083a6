package waypoint

import (
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/control/object"
)

// TestBackendTLSReport: a BackendTLSPolicy says towards each Gateway that talks to its Service whether it is in force.
func TestBackendTLSReport(t *testing.T) {
	w := newWorld(t)
	w.yaml(`
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.0.0.1, ports: [{name: https, port: 443}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: ca, namespace: shop}
data: {ca.crt: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  gatewayClassName: istio
  listeners: [{name: http, port: 80, protocol: HTTP}]
  tls: {frontend: {default: {validation: {mode: AllowInsecureFallback, caCertificateRefs: [{group: "", kind: ConfigMap, name: ca}]}}}}
`)
	policy := func(name, created, ca, kind string) string {
		return `
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: ` + name + `, namespace: shop, creationTimestamp: "` + created + `"}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  validation: {hostname: web.example.com, caCertificateRefs: [{group: "", kind: ` + kind + `, name: ` + ca + `}]}
`
	}
	const route = `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{name: edge}]
  rules: [{backendRefs: [{name: web, port: 443}]}]
`
	report := func(name string) string {
		return reportText(w.reports[object.Key{Kind: object.KindBackendTLSPolicy, Namespace: "shop", Name: name}])
	}
	has := func(name string, parts ...string) {
		t.Helper()
		for _, p := range parts {
			if text := report(name); !strings.Contains(text, p) {
				t.Errorf("%s: %q is not in\n%s", name, p, text)
			}
		}
	}
	w.yaml(policy("old", "2026-01-01T00:00:00Z", "ca", "ConfigMap") + "---" + policy("new", "2026-02-01T00:00:00Z", "ca", "ConfigMap"))
	if text := report("old"); strings.Contains(text, "Gateway") {
		t.Errorf("no Gateway talks to the Service, and still:\n%s", text)
	}
	w.yaml(route)
	has("old", "Gateway shop/edge", "Accepted=true", "ResolvedRefs=true")
	has("new", "Gateway shop/edge", "Accepted=false Conflicted")
	w.yaml(policy("old", "2026-01-01T00:00:00Z", "gone", "ConfigMap"))
	has("old", "Accepted=false NoValidCACertificate", "ResolvedRefs=false InvalidCACertificateRef")
	w.yaml(policy("old", "2026-01-01T00:00:00Z", "ca", "Service"))
	has("old", "Accepted=false NoValidCACertificate", "ResolvedRefs=false InvalidKind")
	w.delete(policy("old", "2026-01-01T00:00:00Z", "ca", "Service"))
	has("new", "Accepted=true")
	w.delete(route)
	if text := report("new"); strings.Contains(text, "Gateway") {
		t.Errorf("the Gateway is still named:\n%s", text)
	}
	gw := reportText(w.reports[object.Key{Kind: object.KindGateway, Namespace: "shop", Name: "edge"}])
	if !strings.Contains(gw, condInsecure+"=true ConfigurationChanged") {
		t.Errorf("clients without certificates are let in in silence:\n%s", gw)
	}
}
