package waypoint

import (
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/control/object"
)

// TestReferencesWithoutPort: a destination that names no port is judged like any other.
func TestReferencesWithoutPort(t *testing.T) {
	for destination, want := range map[string]string{
		"{host: nobody}":                "there is no service with the hostname nobody.tenant.svc.cluster.local",
		"{host: door, subset: nowhere}": `a subset "nowhere"`,
		"{host: door}":                  "",
	} {
		w := newWorld(t)
		w.yaml(sharedWaypoint)
		w.yaml(`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v, namespace: tenant}
spec: {hosts: [door.tenant.svc.cluster.local], http: [{route: [{destination: ` + destination + `}]}]}`)
		got := reportText(w.reports[object.Key{Kind: object.KindVirtualService, Namespace: "tenant", Name: "v"}])
		if strings.Contains(got, "status 500") != (want != "") || !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %q", destination, got, want)
		}
	}
}
