//go:build kind

package kind

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	authv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// TestAgentRights asks as the agent of a node what somebody who has taken that node might ask.
func TestAgentRights(t *testing.T) {
	c := open(t)
	version, err := c.client.Discovery().ServerVersion()
	c.must(err)
	minor, err := strconv.Atoi(strings.TrimSuffix(version.Minor, "+"))
	c.must(err)
	if minor < 30 {
		t.Skipf("Kubernetes %s has no ValidatingAdmissionPolicy", version)
	}
	node := c.worker()
	c.namespace("taken")
	c.apply("taken", onNode("victim", node, ""))
	c.ready("taken", "app=victim")
	config := rest.CopyConfig(c.config)
	config.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:" + system + ":ambit-cni",
		Groups:   []string{"system:serviceaccounts", "system:authenticated"},
		Extra:    map[string][]string{"authentication.kubernetes.io/node-name": {node}},
	}
	agent, err := kubernetes.NewForConfig(config)
	c.must(err)
	refused := func(what string, err error, want bool) {
		t.Helper()
		if want && !apierrors.IsForbidden(err) || !want && err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for patch, want := range map[string]bool{
		`{"annotations": {"ambient.istio.io/redirection": "enabled"}}`: false,
		`{"annotations": {"ambient.istio.io/redirection": null}}`:      false,
		`{"labels": {"app": "payments"}}`:                              true,
		`{"labels": {"app": null}}`:                                    true,
		`{"finalizers": ["example.org/stays"]}`:                        true,
		`{"annotations": {"ambient.istio.io/redirection": "enabled", "cluster-autoscaler.kubernetes.io/x": "y"}}`: true,
	} {
		_, err := agent.CoreV1().Pods("taken").Patch(c.ctx, "victim", types.MergePatchType, fmt.Appendf(nil, `{"metadata": %s}`, patch),
			metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}}, "status")
		refused(patch, err, want)
	}
	for seconds, want := range map[int64]bool{24 * 3600: false, 24*3600 + 1: true} {
		ask := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{ExpirationSeconds: &seconds}}
		if minor >= 31 {
			ask.Spec.BoundObjectRef = &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Node", Name: node}
		}
		_, err := agent.CoreV1().ServiceAccounts(system).CreateToken(c.ctx, "ambit-cni-plugin", ask, metav1.CreateOptions{})
		refused(fmt.Sprintf("a token for %d s", seconds), err, want)
	}
	_, err = agent.CoreV1().ServiceAccounts(system).CreateToken(c.ctx, "ambitd", &authv1.TokenRequest{}, metav1.CreateOptions{})
	refused("a token of ambitd", err, true)
}
