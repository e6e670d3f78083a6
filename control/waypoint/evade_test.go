package waypoint

import (
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/control/object"
)

// sharedWaypoint is a waypoint of namespace infra for everybody, a service with a policy behind it, and a tenant.
const sharedWaypoint = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: infra}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {namespaces: {from: All}}}]}
status: {addresses: [{type: Hostname, value: wp.infra.svc.cluster.local}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: infra}}
---
apiVersion: v1
kind: Service
metadata: {name: vault, namespace: shop}
spec: {clusterIP: 10.1.0.1, selector: {app: vault}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: open, namespace: shop}
spec: {clusterIP: 10.1.0.2, selector: {app: open}, ports: [{name: http, port: 80}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: vault, namespace: shop}
spec:
  targetRefs: [{kind: Service, group: "", name: vault}]
  rules: [{to: [{operation: {methods: [GET]}}]}]
---
apiVersion: v1
kind: Namespace
metadata: {name: tenant, labels: {istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: infra}}
---
apiVersion: v1
kind: Service
metadata: {name: door, namespace: tenant}
spec: {clusterIP: 10.1.0.3, selector: {app: door}, ports: [{name: http, port: 80}, {name: tcp, port: 90}]}
`

const doorFact = "Service infra/wp/tenant/door.tenant.svc.cluster.local"

// oneLine undoes the line breaks of YAML.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// TestEvasion: on a shared waypoint nobody gets past the policies of another namespace's service by a route for his own.
func TestEvasion(t *testing.T) {
	const refused = "this way its AuthorizationPolicy shop/vault would not be asked"
	virtual := func(rest string) string {
		return `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: sneak, namespace: tenant}
spec: {hosts: [door.tenant.svc.cluster.local], ` + rest + `}`
	}
	const route = `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: sneak, namespace: tenant}
spec:
  parentRefs: [{kind: Service, group: "", name: door}]
  rules: [{backendRefs: [{name: vault, namespace: shop, port: 80}]}]`
	const delegate = `
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: part, namespace: shop}
spec: {http: [{route: [{destination: {host: vault.shop.svc.cluster.local}}]}]}`
	grant := func(group, kind string) string {
		return `
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: in, namespace: shop}
spec: {from: [{group: ` + group + `, kind: ` + kind + `, namespace: tenant}], to: [{group: "", kind: Service}]}`
	}
	for name, c := range map[string]struct {
		objects string
		refused bool
	}{
		"VirtualService":              {virtual(`http: [{route: [{destination: {host: vault.shop.svc.cluster.local}}]}]`), true},
		"VirtualService for TCP":      {virtual(`tcp: [{match: [{port: 90}], route: [{destination: {host: vault.shop.svc.cluster.local, port: {number: 80}}}]}]`), true},
		"HTTPRoute":                   {route, true},
		"their own delegate":          {virtual(`http: [{delegate: {name: part, namespace: shop}}]`) + delegate, true},
		"granted to VirtualServices":  {virtual(`http: [{route: [{destination: {host: vault.shop.svc.cluster.local}}]}]`) + grant(groupIstio, "VirtualService"), false},
		"granted to HTTPRoutes":       {route + grant(groupGateway, "HTTPRoute"), false},
		"granted to others":           {route + grant(groupGateway, "GRPCRoute"), true},
		"a service without policies":  {virtual(`http: [{route: [{destination: {host: open.shop.svc.cluster.local}}]}]`), false},
		"a route of the waypoint's":   {strings.ReplaceAll(virtual(`http: [{route: [{destination: {host: vault.shop.svc.cluster.local}}]}]`), "namespace: tenant", "namespace: infra"), false},
		"the service itself":          {virtual(`http: [{route: [{destination: {host: door.tenant.svc.cluster.local, port: {number: 80}}}]}]`), false},
		"another share of the weight": {virtual(`http: [{route: [{destination: {host: door.tenant.svc.cluster.local, port: {number: 80}}, weight: 99}, {destination: {host: vault.shop.svc.cluster.local}, weight: 1}]}]`), true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.yaml(sharedWaypoint)
			w.yaml(c.objects)
			if got := strings.Contains(oneLine(w.text()["fact "+doorFact]), refused); got != c.refused {
				t.Errorf("refused: %t\n%s", got, w.text()["fact "+doorFact])
			}
			w = newWorld(t)
			w.yaml(sharedWaypoint + "---" + c.objects)
			if got := strings.Contains(oneLine(w.text()["fact "+doorFact]), refused); got != c.refused {
				t.Errorf("in one go, refused: %t", got)
			}
		})
	}
}

// TestEvasionByMirror: nor by a copy of the request; a mirror that may not be is no mirror.
func TestEvasionByMirror(t *testing.T) {
	w := newWorld(t)
	w.yaml(sharedWaypoint)
	w.yaml(`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: sneak, namespace: tenant}
spec:
  hosts: [door.tenant.svc.cluster.local]
  http: [{route: [{destination: {host: door.tenant.svc.cluster.local, port: {number: 80}}}], mirror: {host: vault.shop.svc.cluster.local}}]`)
	rule := w.service(doorFact).Ports[0].Http[0]
	if len(rule.Mirrors) > 0 || rule.Broken != "" {
		t.Errorf("%v", rule)
	}
}

// TestEvasionComesAndGoes: what a policy closes is open again without it.
func TestEvasionComesAndGoes(t *testing.T) {
	w := newWorld(t)
	w.yaml(sharedWaypoint)
	w.yaml(`
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: sneak, namespace: tenant}
spec:
  parentRefs: [{kind: Service, group: "", name: door}]
  rules: [{backendRefs: [{name: vault, namespace: shop, port: 80}]}]`)
	broken := func() string { return w.service(doorFact).Ports[0].Http[0].GetForward().Backends[0].Broken }
	key := object.Key{Kind: object.KindHTTPRoute, Namespace: "tenant", Name: "sneak"}
	if broken() == "" || !strings.Contains(reportText(w.reports[key]), "would not be asked") {
		t.Fatalf("%q, reported: %s", broken(), reportText(w.reports[key]))
	}
	w.delete(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: vault, namespace: shop}
spec: {targetRefs: [{kind: Service, group: "", name: vault}]}`)
	if broken() != "" || strings.Contains(reportText(w.reports[key]), "would not be asked") {
		t.Errorf("%q, reported: %s", broken(), reportText(w.reports[key]))
	}
}

// TestEvasionAtHome: an owner is told what his routes lead past.
func TestEvasionAtHome(t *testing.T) {
	w := newWorld(t)
	w.yaml(sharedWaypoint)
	w.yaml(`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: home, namespace: shop}
spec: {hosts: [open], http: [{route: [{destination: {host: vault}}]}]}`)
	key := object.Key{Kind: object.KindVirtualService, Namespace: "shop", Name: "home"}
	if got := reportText(w.reports[key]); !strings.Contains(got, "AuthorizationPolicy shop/vault is not asked") {
		t.Errorf("reported: %s", got)
	}
	if b := w.service("Service infra/wp/shop/open.shop.svc.cluster.local").Ports[0].Http[0].GetForward().Backends[0].Broken; b != "" {
		t.Errorf("broken: %s", b)
	}
}

// TestDelegatesOfOthers: rules without hosts are used by those they are exported to, and a mirror that leads nowhere is
// left out of each of them.
func TestDelegatesOfOthers(t *testing.T) {
	const root = `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: root, namespace: tenant}
spec: {hosts: [door.tenant.svc.cluster.local], http: [{delegate: {name: part, namespace: shop}, mirror: {host: nowhere}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: part, namespace: shop}
spec:
  exportTo: [EXPORT]
  http:
  - match: [{uri: {prefix: /a}}]
    route: [{destination: {host: open}}]
  - route: [{destination: {host: open}}]`
	for export, rules := range map[string]int{`"*"`: 2, "tenant": 2, `"."`: 1, "other": 1} {
		w := newWorld(t)
		w.yaml(sharedWaypoint)
		w.yaml(strings.ReplaceAll(root, "EXPORT", export))
		got := w.service(doorFact).Ports[0].Http
		if len(got) != rules || (got[0].Broken != "") != (rules == 1) {
			t.Errorf("exported to %s: %v", export, got)
		}
		for _, r := range got {
			if len(r.Mirrors) > 0 && rules == 2 {
				t.Errorf("exported to %s: %v", export, r)
			}
		}
	}
}

// TestCredentialsOfOthers: a rule of a tenant makes a shared waypoint present no certificate of its own namespace.
func TestCredentialsOfOthers(t *testing.T) {
	const secret = `
apiVersion: v1
kind: Secret
metadata: {name: partner, namespace: infra}
type: kubernetes.io/tls
data: {tls.crt: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1JSUJnekNDQVNtZ0F3SUJBZ0lVRkplVUhmeENMUjdqSnZ5T2ZHZWJTYlhPdHpNd0NnWUlLb1pJemowRUF3SXcKRmpFVU1CSUdBMVVFQXd3TFpYaGhiWEJzWlM1amIyMHdJQmNOTWpZeE1USXhNVFV3TURRNFdoZ1BNakV5TmpFdwpNamd4TlRBd05EaGFNQll4RkRBU0JnTlZCQU1NQzJWNFlXMXdiR1V1WTI5dE1Ga3dFd1lIS29aSXpqMENBUVlJCktvWkl6ajBEQVFjRFFnQUViTHR2Rzh0cWUrQTdNSFg4T2k1U3FBd2E5VFNhall2aTk1V1pwbXpEcVVlTVh0UngKb01PbFE5V0RJM0p0VEQrNDRVSWsrN3ZPcUtWYTl2N1BXdmRrQjZOVE1GRXdIUVlEVlIwT0JCWUVGTlJ1d2xYWApVdGFVMlZ2bmlMRkZGSEw3UWowdU1COEdBMVVkSXdRWU1CYUFGTlJ1d2xYWFV0YVUyVnZuaUxGRkZITDdRajB1Ck1BOEdBMVVkRXdFQi93UUZNQU1CQWY4d0NnWUlLb1pJemowRUF3SURTQUF3UlFJaEFQeTdkSHJHeStVR2dDUkYKS1NOaXJhK1E1Ym56YTFhK3NmdXVVM1JEZjdEQUFpQjVwMFE3UWZlRDQ3NkRHUTZuY1htcHVEWE5VQXlGUEJYQQovUHU2WFdCUVlRPT0KLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=, tls.key: LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0tCk1JR0hBZ0VBTUJNR0J5cUdTTTQ5QWdFR0NDcUdTTTQ5QXdFSEJHMHdhd0lCQVFRZ3Q2ZERpUEloS0tzREZzVkkKWEpWSEtZMVlud0RwMThjUjd2ZXZtbUZueXAyaFJBTkNBQVJzdTI4YnkycDc0RHN3ZGZ3NkxsS29EQnIxTkpxTgppK0wzbFptbWJNT3BSNHhlMUhHZ3c2VkQxWU1qY20xTVA3amhRaVQ3dTg2b3BWcjIvczlhOTJRSAotLS0tLUVORCBQUklWQVRFIEtFWS0tLS0tCg==}
`
	const rule = `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: door, namespace: tenant}
spec: {host: door.tenant.svc.cluster.local, trafficPolicy: {tls: {mode: MUTUAL, credentialName: partner}}}
`
	const grant = `
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: partner, namespace: infra}
spec: {from: [{group: networking.istio.io, kind: DestinationRule, namespace: tenant}], to: [{group: "", kind: Secret, name: partner}]}
`
	w := newWorld(t)
	w.yaml(sharedWaypoint)
	w.yaml(secret)
	w.yaml(rule)
	const name, key = "Destination infra/wp/tenant/door.tenant.svc.cluster.local", "Secret infra/wp/infra/partner"
	text := func() string { return oneLine(w.text()["fact "+name]) }
	if w.facts[key] != nil || !strings.Contains(text(), "no ReferenceGrant there permits DestinationRule tenant/door") {
		t.Errorf("%v\n%s", w.facts[key], text())
	}
	w.yaml(grant)
	if w.facts[key] == nil || strings.Contains(text(), "broken") {
		t.Errorf("granted: %v\n%s", w.facts[key], text())
	}
	w.delete(grant)
	w.yaml(strings.ReplaceAll(rule, "namespace: tenant", "namespace: infra"))
	if w.facts[key] == nil || strings.Contains(text(), "broken") {
		t.Errorf("the waypoint's own rule: %v\n%s", w.facts[key], text())
	}
}
