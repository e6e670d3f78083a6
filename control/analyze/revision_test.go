package analyze

import (
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/control/status"
)

// TestRevisions: a Gateway of ours that is labelled for a control plane of another revision is told of, with both mends.
func TestRevisions(t *testing.T) {
	const (
		namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {istio.io/rev: REV}}\n---\n"
		gateway   = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: wp, namespace: shop, labels: {istio.io/rev: REV}}\nspec: {gatewayClassName: CLASS, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\n"
		class     = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: CLASS}\nspec: {controllerName: CONTROLLER}\n"
	)
	doc := func(ns, gw, class string) string {
		return strings.ReplaceAll(namespace, "REV", ns) + strings.NewReplacer("REV", gw, "CLASS", class).Replace(gateway)
	}
	named := func(controller string) string {
		return doc("", "canary", "our-own") + strings.NewReplacer("CLASS", "our-own", "CONTROLLER", controller).Replace(class)
	}
	const label, ns = "kubectl label gateway wp -n shop istio.io/rev- ", "kubectl label namespace shop istio.io/rev- "
	for name, tt := range map[string]struct {
		doc       string
		revisions []string
		fix       string // empty: nothing is found
	}{
		"its label":            {doc("''", "canary", "istio-waypoint"), nil, label},
		"an ingress gateway":   {doc("''", "canary", "istio"), nil, label},
		"the namespace's":      {doc("canary", "''", "istio-waypoint"), nil, ns},
		"over the namespace's": {doc("canary", "default", "istio-waypoint"), nil, ""},
		"default":              {doc("''", "default", "istio-waypoint"), nil, ""},
		"a tag":                {doc("''", "canary", "istio-waypoint"), []string{"default", "canary"}, ""},
		"default is not ours":  {doc("''", "default", "istio-waypoint"), []string{"blue"}, label},
		"of others":            {doc("''", "canary", "nginx"), nil, ""},
		"a class of ours":      {named("istio.io/mesh-controller"), nil, label},
		"a class of others":    {named("example.com/controller"), nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var found []Finding
			for _, f := range Run(Config{Revisions: tt.revisions}, []Document{{Name: "in.yaml", Data: []byte(tt.doc)}}).Findings {
				if f.Code == status.OtherRevision {
					found = append(found, f)
				}
			}
			switch {
			case tt.fix == "" && len(found) == 0:
			case tt.fix == "" || len(found) != 1 || found[0].Level != Warning || !strings.HasPrefix(found[0].Fix, tt.fix) || !strings.Contains(found[0].Fix, "control.revisions={"):
				t.Errorf("found %+v, want %q", found, tt.fix)
			}
		})
	}
}
