package intake

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ambit-mesh/ambit/control/object"
)

const networkPolicy = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from:
    - podSelector: {matchLabels: {app: cart}}
    - namespaceSelector: {matchExpressions: [{key: team, operator: In, values: [red]}]}
      podSelector: {}
    - ipBlock: {cidr: 10.0.0.7/8, except: [10.1.0.0/16]}
    ports: [{port: 80, endPort: 90}, {port: http}, {protocol: UDP, port: 53}]
  - {}
`

func TestNetworkPolicy(t *testing.T) {
	d := NewDecoder(Limits{})
	docs := d.File("f.yaml", []byte(networkPolicy), nil)
	if len(docs) != 1 || len(docs[0].Items) != 1 || docs[0].Items[0].Object == nil {
		t.Fatalf("read %+v", docs)
	}
	want := &object.NetworkPolicy{
		Meta: object.Meta{Namespace: "shop", Name: "web"}, Pods: object.LabelSelector{MatchLabels: object.LabelsOf("app", "web")}, Ingress: true,
		Rules: []object.NetworkRule{{
			From: []object.NetworkPeer{
				{Pods: &object.LabelSelector{MatchLabels: object.LabelsOf("app", "cart")}},
				{Namespaces: &object.LabelSelector{Expressions: []object.Requirement{{Key: "team", Operator: object.In, Values: []string{"red"}}}}, Pods: &object.LabelSelector{}},
				{Block: netip.MustParsePrefix("10.0.0.0/8"), Except: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}},
			},
			Ports: []object.NetworkPort{{Port: 80, End: 90}, {Name: "http"}, {Protocol: object.UDP, Port: 53}},
		}, {}},
	}
	if diff := cmp.Diff(want, docs[0].Items[0].Object, cmp.Comparer(func(a, b object.Labels) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
	for _, tt := range []struct{ from, to, field, problem string }{
		{"cidr: 10.0.0.7/8", "cidr: ten", "spec.ingress[0].from[2].ipBlock.cidr", "ten"},
		{"[10.1.0.0/16]", "[11.1.0.0/16]", "spec.ingress[0].from[2].ipBlock.except[0]", "is not within"},
		{"endPort: 90", "endPort: 70", "spec.ingress[0].ports[0].endPort", "is empty"},
		{"port: http", "port: http, endPort: 9", "spec.ingress[0].ports[1].endPort", "begins with a port"},
		{"port: 80,", "port: 80000,", "spec.ingress[0].ports[0].port", "is not a port"},
		{"protocol: UDP", "protocol: QUIC", "spec.ingress[0].ports[2].protocol", "QUIC"},
		{"operator: In", "operator: Is", "spec.ingress[0].from[1].namespaceSelector.matchExpressions[0].operator", "Is"},
		{"    - podSelector: {matchLabels: {app: cart}}", "    - {}", "spec.ingress[0].from[0]", "chooses nothing"},
		{"  ingress:", "  policyTypes: [Inward]\n  ingress:", "spec.policyTypes[0]", "Inward"},
		{"podSelector: {matchLabels: {app: web}}", "podselector: {}", "spec.podselector", "no field"},
	} {
		text := strings.Replace(networkPolicy, tt.from, tt.to, 1)
		it := d.File("f.yaml", []byte(text), nil)[0].Items[0]
		if it.Object != nil || len(it.Entries) == 0 || it.Entries[0].Field != tt.field || !strings.Contains(it.Entries[0].Problem, tt.problem) {
			t.Errorf("%s: %v", tt.to, it.Entries)
		}
	}
}
