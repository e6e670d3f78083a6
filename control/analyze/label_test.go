package analyze

import (
	"strings"
	"testing"
)

// TestLabels: labels of the mesh that nobody reads, and those of pods that name waypoints.
func TestLabels(t *testing.T) {
	const shop = `
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: services, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: pods, namespace: shop, labels: {istio.io/waypoint-for: workload}}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
`
	pod := func(labels string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: shop, labels: {" + labels + "}}\nspec: {containers: [{name: c, image: i}]}\n"
	}
	deployment := func(own, template string) string {
		return "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, namespace: shop, labels: {" + own + "}}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {" + template + "}}, spec: {containers: [{name: c, image: i}]}}}\n"
	}
	for _, tt := range []struct{ doc, want string }{
		{pod("istio.io/use-waypoint: pods"), ""},
		{pod("istio.io/use-waypoint: none"), ""},
		{pod("istio.io/use-waypoint: gone"), `AMB301 Pod shop/p: waypoint "shop/gone" is not ready: there is no such Gateway`},
		{pod("istio.io/use-waypoint: pods, istio.io/use-waypoint-namespace: other"), `AMB301 Pod shop/p: waypoint "other/pods" is not ready: there is no such Gateway`},
		{pod("istio.io/use-waypoint: services"), `AMB303 Pod shop/p: waypoint "shop/services" handles traffic of type "service", and the label of a pod is about traffic to its address`},
		{deployment("", "istio.io/use-waypoint: gone"), `AMB301 Pod shop/d-0: waypoint "shop/gone" is not ready: there is no such Gateway (Deployment shop/d)`},
		{deployment("istio.io/dataplane-mode: none", "a: b"), `AMB504 Deployment shop/d: nobody reads the label of a Deployment: its pods are made with those of the template`},
		{deployment("istio.io/dataplane-mode: none, a: b", "istio.io/dataplane-mode: none"), ""},
		{"apiVersion: v1\nkind: Namespace\nmetadata: {name: a, annotations: {istio.io/dataplane-mode: ambient}}\n", `AMB504 Namespace a: it is a label, and nobody reads it among the annotations`},
		{"apiVersion: v1\nkind: Namespace\nmetadata: {name: kube-system, labels: {istio.io/dataplane-mode: ambient}}\n", `AMB504 Namespace kube-system: agents leave the namespace alone: its pods are not taken into the mesh`},
		{"apiVersion: v1\nkind: Namespace\nmetadata: {name: kube-system, labels: {istio.io/dataplane-mode: none}}\n", ""},
	} {
		var got []string
		for _, f := range Run(Config{}, []Document{{Name: "l.yaml", Data: []byte(shop + tt.doc)}}).Findings {
			of := f.Object
			if f.Namespace != "" {
				of = f.Namespace + "/" + of
			}
			got = append(got, string(f.Code)+" "+f.Kind+" "+of+": "+f.Problem)
		}
		if all := strings.Join(got, "\n"); all != tt.want {
			t.Errorf("%s\n%s\nwant\n%s", tt.doc, all, tt.want)
		}
	}
}
