package enroll

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ambit-mesh/ambit/api/mesh"
)

var (
	ambient = map[string]string{mesh.LabelDataplaneMode: "ambient"}
	none    = map[string]string{mesh.LabelDataplaneMode: "none"}
)

func TestDecide(t *testing.T) {
	for _, c := range []struct {
		name      string
		policy    Policy
		pod       Pod
		namespace map[string]string
		want      bool
		reason    string
	}{
		{name: "nobody asked", reason: "neither it nor its namespace"},
		{name: "the namespace asks", namespace: ambient, want: true, reason: "namespace  is labelled"},
		{name: "the pod asks", pod: Pod{Labels: ambient}, want: true, reason: "the pod is labelled"},
		{name: "the pod opts out of its namespace", pod: Pod{Labels: none}, namespace: ambient, reason: "opts out"},
		{name: "the namespace says none, the pod asks", pod: Pod{Labels: ambient}, namespace: none, want: true},
		{name: "an unknown mode on the pod follows the namespace", pod: Pod{Labels: map[string]string{mesh.LabelDataplaneMode: "x"}}, namespace: ambient, want: true},
		{name: "an unknown mode on the namespace", namespace: map[string]string{mesh.LabelDataplaneMode: "true"}},
		{name: "host network", pod: Pod{HostNetwork: true, Labels: ambient}, reason: "node's network"},
		{name: "a sidecar", pod: Pod{Annotations: map[string]string{mesh.AnnotationSidecarStatus: "{}"}}, namespace: ambient, reason: "sidecar"},
		{name: "a node proxy", pod: Pod{Namespace: "ambit-system", Labels: map[string]string{"app": "ztunnel"}}, namespace: ambient, reason: "node proxy"},
		{name: "an app of that name elsewhere", pod: Pod{Namespace: "shop", Labels: map[string]string{"app": "ztunnel"}}, namespace: ambient, want: true},
		{name: "a node proxy in a namespace of another name", policy: Policy{SystemNamespace: "istio-system"}, pod: Pod{Namespace: "istio-system", Labels: map[string]string{"app": "ztunnel"}}, namespace: ambient},
		{name: "an excluded namespace", policy: Policy{ExcludeNamespaces: []string{"kube-system"}}, pod: Pod{Namespace: "kube-system", Labels: ambient}, reason: "excluded"},
		{name: "a job that is done", pod: Pod{Phase: "Succeeded"}, namespace: ambient, reason: "ended"},
		{name: "a job that failed", pod: Pod{Phase: "Failed"}, namespace: ambient, reason: "ended"},
		{name: "a pod that starts", pod: Pod{Phase: "Pending"}, namespace: ambient, want: true},
		{name: "no selectors at all", policy: Policy{Selectors: []Selector{}}, pod: Pod{Labels: ambient}, namespace: ambient},
		{
			name:   "a selector of the operator's",
			policy: Policy{Selectors: []Selector{{Pod: LabelSelector{MatchExpressions: []Requirement{{Key: "tier", Operator: "Exists"}}}, Namespace: LabelSelector{MatchLabels: map[string]string{"env": "prod"}}}}},
			pod:    Pod{Labels: map[string]string{"tier": ""}}, namespace: map[string]string{"env": "prod"}, want: true,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := c.policy.Decide(c.pod, c.namespace)
			if got.Enrolled != c.want || !strings.Contains(got.Reason, c.reason) {
				t.Errorf("got %+v, want %v because %q", got, c.want, c.reason)
			}
		})
	}
}

func TestRequirement(t *testing.T) {
	labels := map[string]string{"a": "1"}
	for _, c := range []struct {
		r    Requirement
		want bool
	}{
		{Requirement{"a", "In", []string{"1", "2"}}, true},
		{Requirement{"a", "In", []string{"2"}}, false},
		{Requirement{"b", "In", []string{""}}, false},
		{Requirement{"a", "NotIn", []string{"1"}}, false},
		{Requirement{"b", "NotIn", []string{"1"}}, true},
		{Requirement{"a", "Exists", nil}, true},
		{Requirement{"b", "Exists", nil}, false},
		{Requirement{"a", "DoesNotExist", nil}, false},
		{Requirement{"b", "DoesNotExist", nil}, true},
	} {
		if got := c.r.matches(labels); got != c.want {
			t.Errorf("%+v: %v", c.r, got)
		}
	}
}

func TestParseSelectors(t *testing.T) {
	yaml := `
- podSelector:
    matchLabels: {istio.io/dataplane-mode: ambient}
- namespaceSelector:
    matchLabels: {istio.io/dataplane-mode: ambient}
  podSelector:
    matchExpressions:
    - {key: istio.io/dataplane-mode, operator: NotIn, values: [none]}`
	json := `[{"podSelector":{"matchLabels":{"istio.io/dataplane-mode":"ambient"}}},
	 {"podSelector":{"matchExpressions":[{"key":"istio.io/dataplane-mode","operator":"NotIn","values":["none"]}]},
	  "namespaceSelector":{"matchLabels":{"istio.io/dataplane-mode":"ambient"}}}]`
	for _, text := range []string{yaml, json, " "} {
		got, err := ParseSelectors(text)
		if diff := cmp.Diff(DefaultSelectors(), got); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", text, err, diff)
		}
	}
	for text, want := range map[string]string{
		"podSelector: {}":   "want a list",
		"- podSelektor: {}": "podSelektor",
		"- podSelector: {matchExpressions: [{key: a, operator: Is}]}":                        `"Is"`,
		"- podSelector: {matchExpressions: [{key: a, operator: In}]}":                        "needs values",
		"- namespaceSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}": "takes no values",
		"- {}\n- namespaceSelector: {matchExpressions: [{operator: Exists}]}":                "selector 2: a matchExpressions",
	} {
		if _, err := ParseSelectors(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestRedirectionOf(t *testing.T) {
	for _, c := range []struct {
		name        string
		annotations map[string]string
		dns         bool
		want        Redirection
	}{
		{"silent", nil, true, Redirection{DNS: true}},
		{"silent, no DNS by default", nil, false, Redirection{}},
		{"DNS off", map[string]string{mesh.AnnotationDNSCapture: "false"}, true, Redirection{}},
		{"DNS on", map[string]string{mesh.AnnotationDNSCapture: "true"}, false, Redirection{DNS: true}},
		{"DNS nonsense", map[string]string{mesh.AnnotationDNSCapture: "yes"}, true, Redirection{DNS: true}},
		{"bypass", map[string]string{mesh.AnnotationBypassInbound: "true"}, false, Redirection{BypassInbound: true}},
		{"bypass nonsense", map[string]string{mesh.AnnotationBypassInbound: "1"}, false, Redirection{}},
		{"interfaces", map[string]string{mesh.AnnotationVirtualInterfaces: " net1, k6t-net1,,net1,toolongforaninterface,a b,x\"y,-j"}, false, Redirection{VirtualInterfaces: []string{"net1", "k6t-net1"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, RedirectionOf(Pod{Annotations: c.annotations}, c.dns)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
