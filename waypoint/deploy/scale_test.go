package deploy

import (
	"fmt"
	"testing"
)

// TestScale: which Gateways get an autoscaler and a budget, and that a budget is one that Kubernetes takes and that lets the
// only pod go.
func TestScale(t *testing.T) {
	edge := waypoint()
	edge.Class = "istio"
	scaled := &Autoscaling{Min: 2, Max: 9, CPUPercent: 60}
	overlay := func(key, spec string) Overlay {
		return Overlay{Source: "ConfigMap x/y", Documents: map[string]Object{key: object(t, `{"spec": `+spec+`}`)}, Confined: true}
	}
	for name, c := range map[string]struct {
		g        Gateway
		c        Config
		overlays []Overlay
		// as MIN-MAX at PERCENT, and min or max and how many
		autoscaler, budget string
	}{
		"nothing is asked for":     {waypoint(), Config{}, nil, "", ""},
		"a budget for one":         {waypoint(), Config{Budget: true}, nil, "", ""},
		"an autoscaler":            {waypoint(), Config{Autoscaling: scaled}, nil, "2-9 at 60", ""},
		"one that begins with one": {waypoint(), Config{Autoscaling: &Autoscaling{Max: 3}, Budget: true}, nil, "1-3 at 80", "max 1"},
		"one that cannot grow":     {waypoint(), Config{Autoscaling: &Autoscaling{Max: 1}, Budget: true}, nil, "1-1 at 80", ""},
		"at the edge":              {edge, Config{Autoscaling: scaled, Budget: true}, []Overlay{overlay(keyDeployment, `{"replicas": 2}`)}, "", ""},
		"a number of its own":      {waypoint(), Config{Autoscaling: scaled, Budget: true}, []Overlay{overlay(keyDeployment, `{"replicas": 2}`)}, "", "max 1"},
		"one, as it says itself":   {waypoint(), Config{Autoscaling: scaled, Budget: true}, []Overlay{overlay(keyDeployment, `{"replicas": 1}`)}, "", ""},
		"bounds of its own":        {waypoint(), Config{Autoscaling: scaled, Budget: true}, []Overlay{overlay(keyAutoscaler, `{"maxReplicas": 20}`)}, "2-20 at 60", "max 1"},
		"an autoscaler of its own": {waypoint(), Config{Budget: true}, []Overlay{overlay(keyAutoscaler, `{"minReplicas": 3}`)}, "3-5 at 80", "max 1"},
		"a budget of its own":      {waypoint(), Config{}, []Overlay{overlay(keyBudget, `{"minAvailable": 1}`)}, "", "min 1"},
		"another budget":           {waypoint(), Config{Autoscaling: scaled, Budget: true}, []Overlay{overlay(keyBudget, `{"minAvailable": "50%"}`)}, "2-9 at 60", "min 50%"},
		"back again": {waypoint(), Config{}, []Overlay{overlay(keyBudget, `{"minAvailable": 2}`), overlay(keyBudget, `{"maxUnavailable": 2}`)},
			"", "max 2"},
		"a budget in passing": {waypoint(), Config{}, []Overlay{overlay(keyBudget, `{"unhealthyPodEvictionPolicy": "AlwaysAllow"}`)}, "", "max 1"},
	} {
		t.Run(name, func(t *testing.T) {
			docs, err := Render(c.g, c.overlays, c.c)
			if err != nil {
				t.Fatal(err)
			}
			var autoscaler, budget string
			for _, d := range docs {
				spec := at(d, []string{"spec"})
				switch d["kind"] {
				case "HorizontalPodAutoscaler":
					target := at(spec["metrics"].([]any)[0].(map[string]any), []string{"resource", "target"})
					autoscaler = fmt.Sprintf("%v-%v at %v", spec["minReplicas"], spec["maxReplicas"], target["averageUtilization"])
					if s := at(spec, []string{"behavior", "scaleDown"})["stabilizationWindowSeconds"]; s != int64(300) {
						t.Errorf("pods go after %v quiet seconds", s)
					}
				case "PodDisruptionBudget":
					for short, field := range map[string]string{"min ": "minAvailable", "max ": "maxUnavailable"} {
						if v := spec[field]; v != nil {
							budget += short + fmt.Sprint(v)
						}
					}
				}
			}
			if autoscaler != c.autoscaler || budget != c.budget {
				t.Errorf("autoscaler %q, want %q; budget %q, want %q", autoscaler, c.autoscaler, budget, c.budget)
			}
		})
	}
}
