package render

import (
	"slices"
	"testing"

	"github.com/ambit-mesh/ambit/install/charts"
)

// flagsOf are the control plane's with some values.
func flagsOf(t *testing.T, sets ...string) []any {
	t.Helper()
	components, err := Render(values(t, DefaultProfile, sets...), Options{Namespace: "mesh-system", Version: "v1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range components {
		for _, o := range c.Objects {
			if c.Name != charts.Control || o["kind"] != "Deployment" {
				continue
			}
			spec := o["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)
			return spec["containers"].([]any)[0].(map[string]any)["args"].([]any)
		}
	}
	t.Fatal("there is no control plane")
	return nil
}

// TestWaypointFlags: what is said of the whole mesh is told to the control plane, which tells it to what runs for Gateways.
func TestWaypointFlags(t *testing.T) {
	for flag, sets := range map[string][]string{
		"--gateway-pull-policy=Always":                        {"global.imagePullPolicy=Always"},
		"--gateway-pull-secrets=one,two":                      {"global.imagePullSecrets=[one, two]"},
		"--gateway-xds-address=https://control.example:15012": {"global.xdsAddress=https://control.example:15012"},
		"--gateway-ca-address=https://ca.example:443":         {"global.caAddress=https://ca.example:443"},
		"--gateway-log-level=debug":                           {"global.logging.level=debug"},
		"--gateway-log-json=true":                             {"global.logAsJson=true"},
		"--waypoint-min-replicas=2":                           {"control.waypoints.autoscaling.minReplicas=2", "control.waypoints.autoscaling.maxReplicas=6"},
		"--waypoint-max-replicas=6":                           {"control.waypoints.autoscaling.maxReplicas=6"},
		"--waypoint-cpu=60":                                   {"control.waypoints.autoscaling.maxReplicas=6", "control.waypoints.autoscaling.cpu=60"},
		"--waypoint-budget=false":                             {"control.waypoints.podDisruptionBudget.enabled=false"},
		"--revisions=blue,stable":                             {"control.revisions=[blue, stable]"},
		"--service-entry-visibility=namespace":                {"control.serviceEntryVisibility=namespace"},
	} {
		if slices.Contains(flagsOf(t), any(flag)) {
			t.Errorf("%s is told unasked", flag)
		}
		if args := flagsOf(t, sets...); !slices.Contains(args, any(flag)) {
			t.Errorf("%v: no %s among %v", sets, flag, args)
		}
	}
}
