package daemon

import (
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ambit-mesh/ambit/api/mesh"
)

const guardedTown = waypointTown + `---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers, namespace: shop}
spec: {targetRefs: [{kind: Service, name: web, group: ""}], rules: [{to: [{operation: {methods: [GET]}}]}]}
`

// TestForeignProxy has node proxies of both makes, on the node of a pod with a guard and on another one.
func TestForeignProxy(t *testing.T) {
	p := newPlane(t)
	p.write("town.yaml", guardedTown)
	p.start()
	defer p.stop()
	node := func(of string, features ...string) *corev3.Node {
		return &corev3.Node{
			Id: "ztunnel~10.0.0.1~zt-" + of + ".istio-system~istio-system.svc.cluster.local", ClientFeatures: features,
			Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{"NODE_NAME": structpb.NewStringValue(of), "ISTIO_VERSION": structpb.NewStringValue("1.30.1")}},
		}
	}
	said := func() bool {
		_, b := p.get("/debug/refusals")
		return strings.Contains(b, "AMB408")
	}
	p.connectAs(node("n2"))                       // has no such pod
	p.connectAs(node("n3", mesh.ExtensionGuards)) // is ours
	if said() {
		t.Error("proxies that serve no guarded pod, or know guards, are complained about")
	}
	p.connectAs(node("n1"))
	p.await("the finding", said)
	_, b := p.get("/debug/refusals")
	for _, want := range []string{"node n1", "1.30.1", "pod shop/web", "AuthorizationPolicy shop/readers", "waypoint shop/wp", `"zt-n1"`, "run Ambit's ztunnel"} {
		if !strings.Contains(b, want) {
			t.Errorf("it does not say %q: %.2000s", want, b)
		}
	}
	if _, b := p.get("/debug/clients"); !strings.Contains(b, mesh.ExtensionGuards) || !strings.Contains(b, `"nodeName": "n3"`) {
		t.Errorf("clients are not told apart: %s", b)
	}
}
