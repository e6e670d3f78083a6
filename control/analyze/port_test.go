package analyze

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/control/status"
)

// TestPolicyPorts: ports of an AuthorizationPolicy without targets are those of pods.
func TestPolicyPorts(t *testing.T) {
	const shop = `
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {containers: [{name: c, image: i, ports: [{name: http, containerPort: 8080}, {containerPort: 81}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}, {name: b, port: 81, targetPort: 8081}, {name: c, port: 82, targetPort: 8082}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: %s}
spec: {%s}
`
	for _, tt := range []struct{ ns, spec, want string }{
		{"shop", `selector: {matchLabels: {app: web}}, rules: [{to: [{operation: {ports: ["80"]}}]}]`, `spec.rules[0].to[0].operation.ports: 80 is the port of a Service, and ports are those of the workload here: the rule allows nothing; write ["8080"]`},
		{"shop", `action: DENY, rules: [{to: [{operation: {ports: ["80", "82"]}}]}]`, `spec.rules[0].to[0].operation.ports: 80, 82 are ports of a Service, and ports are those of the workload here: the rule never matches; write ["8080", "8082"]`},
		{"ambit-system", `rules: [{when: [{key: destination.port, values: ["80"]}]}]`, `spec.rules[0].when[0].values: 80 is the port of a Service, and ports are those of the workload here: the rule allows nothing; write ["8080"]`},
		{"shop", `rules: [{to: [{operation: {ports: ["80", "8080"]}}]}]`, ""},
		{"shop", `rules: [{to: [{operation: {ports: ["81"]}}]}]`, ""}, // a container says that it has it
		{"shop", `rules: [{to: [{operation: {ports: ["9090"]}}]}]`, ""},
		{"shop", `rules: [{to: [{operation: {notPorts: ["80"]}}]}]`, ""},
		{"shop", `selector: {matchLabels: {app: cart}}, rules: [{to: [{operation: {ports: ["80"]}}]}]`, ""},
		{"shop", `targetRefs: [{kind: Service, group: "", name: web}], rules: [{to: [{operation: {ports: ["80"]}}]}]`, ""},
	} {
		var got []string
		for _, f := range Run(Config{}, []Document{{Name: "p.yaml", Data: fmt.Appendf(nil, shop, tt.ns, tt.spec)}}).Findings {
			if f.Code == status.PortUnknown {
				got = append(got, f.Field+": "+f.Problem+"; "+f.Fix)
			}
		}
		if all := strings.Join(got, "\n"); all != tt.want {
			t.Errorf("%s: %s\n%s\nwant\n%s", tt.ns, tt.spec, all, tt.want)
		}
	}
}
