package intake

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/control/status"
)

// An address that every machine has for itself is that of whoever dials it: of a waypoint's own admin port, when its owner
// shares it. Nobody may name one for an endpoint, nor for a service that is dialed at its own address.
func TestOwnAddresses(t *testing.T) {
	const endpoint = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: e, namespace: shop}
spec:
  hosts: [e.example]
  resolution: STATIC
  ports: [{name: http, number: 80, protocol: HTTP}]
  endpoints: [{address: %q}]
`
	const workload = `
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: e, namespace: shop}
spec: {address: %q}
`
	const dialed = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: e, namespace: shop}
spec:
  hosts: [e.example]
  resolution: NONE
  ports: [{name: http, number: 80, protocol: HTTP}]
  addresses: [%q]
`
	refused := func(text string) bool {
		for _, doc := range NewDecoder(Limits{}).File("x.yaml", []byte(text), nil) {
			for _, it := range doc.Items {
				for _, e := range it.Entries {
					if e.Severity == status.Refused && strings.Contains(e.Field, "address") {
						return true
					}
				}
			}
		}
		return false
	}
	for _, own := range []string{"127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "169.254.169.254", "fe80::1"} {
		for _, text := range []string{endpoint, workload, dialed} {
			if text := fmt.Sprintf(text, own); !refused(text) {
				t.Errorf("not refused: %s", text)
			}
		}
	}
	for _, ranges := range []string{"127.0.0.0/8", "169.254.0.0/16", "::1/128"} {
		if !refused(fmt.Sprintf(dialed, ranges)) {
			t.Errorf("%s is not refused", ranges)
		}
	}
	for _, other := range []string{"0.0.0.0/0", "::/0", "240.0.0.1", "10.0.0.0/8"} {
		if refused(fmt.Sprintf(dialed, other)) {
			t.Errorf("%s is refused", other)
		}
	}
}
