package apply

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/install/charts"
	"github.com/ambit-mesh/ambit/install/check"
	"github.com/ambit-mesh/ambit/install/render"
)

func TestPolicies(t *testing.T) {
	pods := []corev1.Pod{
		{ObjectMeta: metav1.ObjectMeta{Name: "web", Labels: map[string]string{"app": "web"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "db", Labels: map[string]string{"app": "db"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "out", Labels: map[string]string{"app": "web", labelMode: "none"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "host", Labels: map[string]string{"app": "web"}}, Spec: corev1.PodSpec{HostNetwork: true}},
	}
	shut := func(name string, pods int, rules ...int) []check.Policy {
		return []check.Policy{{Namespace: "shop", Name: name, Pods: pods, Rules: rules}}
	}
	open := func(name string, pods int, by string, others bool) []check.Policy {
		return []check.Policy{{Namespace: "shop", Name: name, Pods: pods, Rules: []int{0}, By: by, Others: others}}
	}
	const web = "from: [{podSelector: {matchLabels: {app: web}}}]"
	for _, c := range []struct {
		name, policies string
		shut, open     []check.Policy
	}{
		{"none", ``, nil, nil},
		{"deny everything means it", `[{metadata: {name: deny}, spec: {podSelector: {}, policyTypes: [Ingress]}}]`, nil, nil},
		{"a port of the application", `[{metadata: {name: http}, spec: {podSelector: {}, ingress: [{ports: [{port: 8080}]}]}}]`, shut("http", 2, 0), nil},
		{"of one application", `[{metadata: {name: http}, spec: {podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 5432}]}]}}]`, shut("http", 1, 0), nil},
		{"a named port", `[{metadata: {name: http}, spec: {podSelector: {}, ingress: [{ports: [{port: http}]}]}}]`, shut("http", 2, 0), nil},
		{"rules that are not about ports of the application", `[{metadata: {name: http}, spec: {podSelector: {}, ingress: [{ports: [{port: 53, protocol: UDP}]}, {ports: [{port: 8080}]}, {` + web + `, ports: [{port: 9090}]}]}}]`, shut("http", 2, 1, 2), nil},
		{"UDP alone", `[{metadata: {name: dns}, spec: {podSelector: {}, ingress: [{ports: [{port: 53, protocol: UDP}]}]}}]`, nil, nil},
		{"the tunnel's, too", `[{metadata: {name: http}, spec: {podSelector: {}, ingress: [{ports: [{port: 8080}, {port: 15008}]}]}}]`, nil, open("http", 2, "http", false)},
		{"the tunnel's alone", `[{metadata: {name: mesh}, spec: {podSelector: {}, ingress: [{` + web + `, ports: [{port: 15008}]}]}}]`, nil, nil},
		{"UDP is another", `[{metadata: {name: http}, spec: {podSelector: {}, ingress: [{ports: [{port: 8080}, {port: 15008, protocol: UDP}]}]}}]`, shut("http", 2, 0), nil},
		{"a range", `[{metadata: {name: http}, spec: {podSelector: {}, ingress: [{ports: [{port: 15000, endPort: 15010}]}]}}]`, nil, open("http", 2, "http", false)},
		{"the range of all", `[{metadata: {name: http}, spec: {podSelector: {}, ingress: [{ports: [{port: 1, endPort: 65535}]}]}}]`, nil, nil},
		{"all ports of some peers", `[{metadata: {name: http}, spec: {podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}}]`, nil, nil},
		{"another policy lets everybody in", `[{metadata: {name: http}, spec: {podSelector: {}, ingress: [{` + web + `, ports: [{port: 8080}]}]}}, {metadata: {name: mesh}, spec: {podSelector: {}, ingress: [{ports: [{port: 15008}]}]}}]`, nil, open("http", 2, "mesh", true)},
		{"another policy lets the same in", `[{metadata: {name: http}, spec: {podSelector: {}, ingress: [{` + web + `, ports: [{port: 8080}]}]}}, {metadata: {name: mesh}, spec: {podSelector: {}, ingress: [{` + web + `, ports: [{port: 15008}]}]}}]`, nil, open("http", 2, "mesh", false)},
		{"another policy lets all pods in", `[{metadata: {name: http}, spec: {podSelector: {}, ingress: [{` + web + `, ports: [{port: 8080}]}]}}, {metadata: {name: mesh}, spec: {podSelector: {}, ingress: [{from: [{podSelector: {}}], ports: [{port: 15008}]}]}}]`, nil, open("http", 2, "mesh", true)},
		{"another policy lets others in", `[{metadata: {name: http}, spec: {podSelector: {}, ingress: [{` + web + `, ports: [{port: 8080}]}]}}, {metadata: {name: mesh}, spec: {podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: 15008}]}]}}]`, shut("http", 2, 0), nil},
		{"pods of another namespace are others", `[{metadata: {name: http}, spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {a: b}}}], ports: [{port: 8080}]}]}}, {metadata: {name: mesh}, spec: {podSelector: {}, ingress: [{from: [{podSelector: {}}], ports: [{port: 15008}]}]}}]`, shut("http", 2, 0), nil},
		{"addresses", `[{metadata: {name: http}, spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: 8080}]}, {from: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: 15008}]}]}}]`, nil, open("http", 2, "http", false)},
		{"these may have all ports anyway", `[{metadata: {name: http}, spec: {podSelector: {}, ingress: [{` + web + `, ports: [{port: 8080}, {port: 15008}]}, {from: [{podSelector: {}}]}]}}]`, nil, nil},
		{"egress only", `[{metadata: {name: out}, spec: {podSelector: {}, policyTypes: [Egress]}}]`, nil, nil},
	} {
		var policies []networkingv1.NetworkPolicy
		if err := yaml.Unmarshal([]byte(c.policies), &policies); err != nil {
			t.Fatal(err)
		}
		closed, wide := judged("shop", policies, pods)
		if diff := cmp.Diff(c.shut, closed); diff != "" {
			t.Errorf("%s: kept out: %s", c.name, diff)
		}
		if diff := cmp.Diff(c.open, wide); diff != "" {
			t.Errorf("%s: let in: %s", c.name, diff)
		}
	}
}

// TestEnforces: what the chart's value has the control plane do is seen in its Deployment.
func TestEnforces(t *testing.T) {
	for _, on := range []bool{true, false} {
		v, err := render.NewValues("", render.Source{Set: fmt.Sprintf("control.networkPolicies=%v", on)})
		if err != nil {
			t.Fatal(err)
		}
		objects, err := render.Chart(charts.Control, v.Chart(charts.Control), charts.Control, render.Options{Namespace: "mesh-system", Version: "v1.2.3"})
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(objects, func(o map[string]any) bool { return o["kind"] == "Deployment" })
		var d appsv1.Deployment
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(objects[i], &d); err != nil {
			t.Fatal(err)
		}
		if got := enforces(d.Spec.Template.Spec); got != on {
			t.Errorf("control.networkPolicies=%v: %v", on, got)
		}
	}
}
