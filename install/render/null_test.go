package render

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/install/charts"
)

// TestHelmNull: null drops a default where Helm has it do that, in a file and behind --set.
func TestHelmNull(t *testing.T) {
	for name, c := range map[string]struct {
		file string
		sets []string
		want string
	}{
		"resources": {file: "ztunnel: {resources: {limits: null, requests: {cpu: null}}}", want: `{"limits":null,"requests":{"memory":"64Mi"}}`},
		"all":       {file: "ztunnel: {resources: {limits: null, requests: null}}"},
		"env":       {file: "control: {env: {FOO: null, BAR: x}}", want: `{"name":"BAR","value":"x"}`},
		"class":     {file: "control: {gatewayClasses: {x: null}}"},
		"part":      {file: "control: {gatewayClasses: {istio-waypoint: {service: null, deployment: {spec: null}}}}"},
		"label":     {file: "ztunnel: {podLabels: {a: null}, podAnnotations: {a: null}, nodeSelector: {kubernetes.io/os: null}, affinity: {x: null}}"},
		"set":       {sets: []string{"ztunnel.resources.limits=null", "control.resources.requests.cpu=null", "control.env.FOO=null", "control.gatewayClasses.x=null"}},
		"taken back": {file: "ztunnel: {resources: {limits: {cpu: 1}}}\ncontrol: {env: {A: b}}",
			sets: []string{"ztunnel.resources.limits=null", "control.env.A=null"}},
	} {
		t.Run(name, func(t *testing.T) {
			sources := []Source{{Name: "values.yaml", File: []byte(c.file)}}
			for _, s := range c.sets {
				sources = append(sources, Source{Set: s})
			}
			v, err := NewValues("", sources...)
			if err != nil {
				t.Fatal(err)
			}
			v.Disable(charts.Base)
			ours, err := Render(v, Options{Namespace: "mesh-system", Version: "v1.2.3"})
			if err != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(ours)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(text); !strings.Contains(got, c.want) || strings.Contains(got, `"FOO"`) || strings.Contains(got, "ambit-gateway-class-x") {
				t.Errorf("want %s, and nothing of what is null:\n%s", c.want, got)
			}
			// Helm is given what was given to us, beside what the profile says, and does the rest.
			var preset map[string]any
			data, err := profiles.ReadFile("profiles/ambient.yaml")
			if err != nil {
				t.Fatal(err)
			}
			if err := yaml.Unmarshal(data, &preset); err != nil {
				t.Fatal(err)
			}
			if preset == nil {
				preset = map[string]any{}
			}
			merge(preset, v.Given())
			for _, o := range ours {
				given, _ := preset[o.Name].(map[string]any)
				given = clone(given)
				if global, ok := preset["global"].(map[string]any); ok {
					given["global"] = clone(global)
				}
				delete(given, "enabled")
				theirs := helm(t, o.Name, given, "mesh-system", "v1.2.3")
				if diff := cmp.Diff(theirs, o.Objects); diff != "" {
					t.Errorf("%s (-helm +ours)\n%s", o.Name, diff)
				}
			}
		})
	}
}
