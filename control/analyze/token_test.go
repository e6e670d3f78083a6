package analyze

import (
	"slices"
	"testing"

	"github.com/ambit-mesh/ambit/control/status"
)

const tokenShop = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {istio.io/use-waypoint: wp}}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: t, namespace: shop}
spec:
  jwtRules: [{issuer: i, jwksUri: "https://i/keys"}]
`

func TestTokens(t *testing.T) {
	const service, gateway = "  targetRefs: [{kind: Service, group: '', name: web}]\n", "  targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: wp}]\n"
	const anyToken = "  rules: [{from: [{source: {requestPrincipals: ['*']}}]}]\n"
	for _, tt := range []struct {
		name, of, policy string
		found            bool
	}{
		{"alone", service, "", true},
		{"methods", service, service + "  rules: [{to: [{operation: {methods: [GET]}}]}]\n", true},
		{"demanded", service, service + anyToken, false},
		{"at the waypoint", service, gateway + anyToken, false},
		{"of pods", service, anyToken, true},
		{"denied without", service, service + "  action: DENY\n  rules: [{from: [{source: {notRequestPrincipals: ['*']}}]}]\n", false},
		{"a claim", service, service + "  rules: [{when: [{key: 'request.auth.claims[group]', values: [a]}]}]\n", false},
		{"only written down", service, service + "  action: AUDIT\n" + anyToken, true},
		{"closed", service, service + "  action: ALLOW\n", false},
		{"gateway alone", gateway, "", true},
		{"behind the gateway", gateway, service + anyToken, false},
	} {
		text := tokenShop + tt.of
		if tt.policy != "" {
			text += "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec:\n" + tt.policy
		}
		r := Run(Config{}, []Document{{Name: "t.yaml", Data: []byte(text)}})
		if found := slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Code == status.TokenOptional }); found != tt.found {
			t.Errorf("%s: found is %v: %v", tt.name, found, r.Findings)
		}
	}
}
