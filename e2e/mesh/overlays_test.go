package mesh

import (
	"testing"

	"github.com/ambit-mesh/ambit/install/render"
	"github.com/ambit-mesh/ambit/waypoint/deploy"
)

// TestOverlayKeys: what the control plane takes for a class of Gateways, values may say.
func TestOverlayKeys(t *testing.T) {
	for _, key := range deploy.OverlayKeys() {
		if _, err := render.NewValues("", render.Source{Set: "control.gatewayClasses.istio-waypoint." + key + "={metadata: {labels: {a: b}}}"}); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
}
