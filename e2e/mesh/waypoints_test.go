package mesh

import (
	"encoding/json"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/waypoint/deploy"
)

// TestClassDefaults renders a Gateway with what a lab says about its pods: where Envoy and the control plane are.
func TestClassDefaults(t *testing.T) {
	for _, class := range []string{"istio-waypoint", "istio"} {
		for _, envoy := range []string{"", "/some where/envoy"} {
			var m struct {
				Metadata struct{ Labels map[string]string }
				Data     map[string]string
			}
			if err := yaml.Unmarshal([]byte(classDefaults(class, envoy, "172.30.0.2")), &m); err != nil {
				t.Fatal(err)
			}
			if m.Metadata.Labels["gateway.istio.io/defaults-for-class"] != class {
				t.Errorf("%s: labels %v", class, m.Metadata.Labels)
			}
			var patch deploy.Object
			if err := yaml.Unmarshal([]byte(m.Data["deployment"]), &patch); err != nil {
				t.Fatal(err)
			}
			docs, err := deploy.Render(deploy.Gateway{Namespace: "n", Name: "g", Class: class},
				[]deploy.Overlay{{Documents: map[string]deploy.Object{"deployment": patch}}}, deploy.Config{})
			if err != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(docs)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{`"hostnames":["ambitd.ambit-system.svc","ambit-ca.ambit-system.svc"]`, `{"name":"CA_ADDR","value":"https://ambit-ca.ambit-system.svc:15013"}`, `/etc/istio/proxy/admin.sock`} {
				if !strings.Contains(string(text), want) {
					t.Errorf("%s: no %s in %s", class, want, text)
				}
			}
			if got := strings.Contains(string(text), `"hostPath":{"path":"/some where/envoy"}`); got != (envoy != "") {
				t.Errorf("%s, Envoy %q: mounted %v", class, envoy, got)
			}
		}
	}
}
