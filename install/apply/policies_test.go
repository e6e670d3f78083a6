package apply

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/install/check"
)

func TestBlocked(t *testing.T) {
	pods := []corev1.Pod{
		{ObjectMeta: metav1.ObjectMeta{Name: "web", Labels: map[string]string{"app": "web"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "db", Labels: map[string]string{"app": "db"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "out", Labels: map[string]string{"app": "web", labelMode: "none"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "host", Labels: map[string]string{"app": "web"}}, Spec: corev1.PodSpec{HostNetwork: true}},
	}
	for _, c := range []struct {
		name, policies string
		want           []check.Policy
	}{
		{"none", ``, nil},
		{"deny everything means it", `[{metadata: {name: deny}, spec: {podSelector: {}, policyTypes: [Ingress]}}]`, nil},
		{"a port of the application", `[{metadata: {name: http}, spec: {podSelector: {}, ingress: [{ports: [{port: 8080}]}]}}]`, []check.Policy{{Namespace: "shop", Name: "http", Pods: 2}}},
		{"of one application", `[{metadata: {name: http}, spec: {podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 5432}]}]}}]`, []check.Policy{{Namespace: "shop", Name: "http", Pods: 1}}},
		{"a named port", `[{metadata: {name: http}, spec: {podSelector: {}, ingress: [{ports: [{port: http}]}]}}]`, []check.Policy{{Namespace: "shop", Name: "http", Pods: 2}}},
		{"the tunnel's", `[{metadata: {name: http}, spec: {podSelector: {}, ingress: [{ports: [{port: 8080}, {port: 15008}]}]}}]`, nil},
		{"UDP is another", `[{metadata: {name: http}, spec: {podSelector: {}, ingress: [{ports: [{port: 15008, protocol: UDP}]}]}}]`, []check.Policy{{Namespace: "shop", Name: "http", Pods: 2}}},
		{"a range", `[{metadata: {name: http}, spec: {podSelector: {}, ingress: [{ports: [{port: 15000, endPort: 15010}]}]}}]`, nil},
		{"all ports of some peers", `[{metadata: {name: http}, spec: {podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}}]`, nil},
		{"another policy lets it in", `[{metadata: {name: http}, spec: {podSelector: {}, ingress: [{ports: [{port: 8080}]}]}}, {metadata: {name: mesh}, spec: {podSelector: {}, ingress: [{ports: [{port: 15008}]}]}}]`, nil},
		{"egress only", `[{metadata: {name: out}, spec: {podSelector: {}, policyTypes: [Egress]}}]`, nil},
	} {
		var policies []networkingv1.NetworkPolicy
		if err := yaml.Unmarshal([]byte(c.policies), &policies); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, blocked("shop", policies, pods)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}
