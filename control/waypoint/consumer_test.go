package waypoint

import (
	"fmt"
	"slices"
	"testing"

	facts "github.com/ambit-mesh/ambit/api/waypoint"
)

// consumerRoute is a tenant's route for somebody else's service.
func consumerRoute(ns, name, backend string) string {
	return fmt.Sprintf(`
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %s, namespace: %s}
spec:
  parentRefs: [{kind: Service, group: "", name: vault, namespace: shop}]
  rules: [{matches: [{path: {value: /a}}], backendRefs: [{name: %s, port: 80}]}]`, name, ns, backend)
}

// asWritten tells a rule by where it is from, for whom it is and what it does.
func asWritten(r *facts.HTTPRule) string {
	from := []string{"all"}
	path := ""
	if len(r.Matches) > 0 {
		from, path = r.Matches[0].SourceNamespaces, r.Matches[0].GetPath().GetSegments()
	}
	to := fmt.Sprint(r.GetDirect().GetStatus())
	for _, b := range r.GetForward().GetBackends() {
		if to = b.Hostname; b.Broken != "" {
			to = "broken"
		}
	}
	return fmt.Sprint(from, path, " ", to)
}

// TestConsumerRoutes: they are for their namespace's requests, and in place of all others for those.
func TestConsumerRoutes(t *testing.T) {
	const vault, door, open = "vault.shop.svc.cluster.local", "door.tenant.svc.cluster.local", "open.shop.svc.cluster.local"
	producer := `
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: own, namespace: shop}
spec:
  parentRefs: [{kind: Service, group: "", name: vault}]
  rules: [{backendRefs: [{name: open, port: 80}]}]`
	guarded := `
---
apiVersion: v1
kind: Service
metadata: {name: safe, namespace: shop}
spec: {clusterIP: 10.1.0.9, selector: {app: safe}, ports: [{name: http, port: 80}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: safe, namespace: shop}
spec: {targetRefs: [{kind: Service, group: "", name: safe}], rules: [{to: [{operation: {methods: [GET]}}]}]}`
	for name, tt := range map[string]struct {
		yaml string
		want []string
	}{
		"alone":          {consumerRoute("tenant", "c", "door"), []string{"[tenant]/a " + door, "[tenant] 404", "[all] " + vault}},
		"over producers": {producer + consumerRoute("tenant", "c", "door"), []string{"[tenant]/a " + door, "[tenant] 404", "[all] " + open}},
		"two of them": {
			consumerRoute("tenant", "c", "door") + consumerRoute("another", "c", "vault, namespace: shop"),
			[]string{"[another]/a " + vault, "[another] 404", "[tenant]/a " + door, "[tenant] 404", "[all] " + vault},
		},
		"past policies":        {guarded + consumerRoute("tenant", "c", "safe, namespace: shop"), []string{"[tenant]/a broken", "[tenant] 404", "[all] " + vault}},
		"to the service as is": {consumerRoute("tenant", "c", "vault, namespace: shop"), []string{"[tenant]/a " + vault, "[tenant] 404", "[all] " + vault}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.yaml(sharedWaypoint + tt.yaml)
			svc, ok := w.facts["Service infra/wp/shop/"+vault].(*facts.Service)
			if !ok {
				t.Fatalf("there is no fact of the service: %v", w.text())
			}
			var got []string
			for _, rule := range svc.Ports[0].Http {
				got = append(got, asWritten(rule))
			}
			if !slices.Equal(got, tt.want) || !svc.Ports[0].Routed {
				t.Errorf("rules %q, want %q", got, tt.want)
			}
		})
	}
}
