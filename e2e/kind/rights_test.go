//go:build kind

package kind

import (
	"fmt"
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
	minor := c.admits()
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
	config.Impersonate.Extra = map[string][]string{"authentication.kubernetes.io/node-name": {"another-node"}}
	stranger, err := kubernetes.NewForConfig(config)
	c.must(err)
	write := func(as kubernetes.Interface, patch string) error {
		_, err := as.CoreV1().Pods("taken").Patch(c.ctx, "victim", types.MergePatchType, []byte(patch), metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}}, "status")
		return err
	}
	// What is refused is refused in words of the mesh's.
	refused := func(what string, err error, want string) {
		t.Helper()
		if want != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), want)) || want == "" && err != nil {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	const mark, instead = `{"metadata": {"annotations": {"ambient.istio.io/redirection": "enabled"}}}`, "the mesh's agents write an annotation of pods, not their "
	for patch, want := range map[string]string{
		mark: "",
		`{"metadata": {"annotations": {"ambient.istio.io/redirection": null}}}`:                                                 "",
		`{"metadata": {"labels": {"app": "payments"}}}`:                                                                         instead + "labels",
		`{"metadata": {"labels": {"app": null}}}`:                                                                               instead + "labels",
		`{"metadata": {"finalizers": ["example.org/stays"]}}`:                                                                   instead + "finalizers",
		`{"status": {"podIP": "192.0.2.1", "podIPs": [{"ip": "192.0.2.1"}]}}`:                                                   instead + "status",
		`{"metadata": {"annotations": {"ambient.istio.io/redirection": "enabled", "cluster-autoscaler.kubernetes.io/x": "y"}}}`: "write one annotation of pods, ambient.istio.io/redirection",
	} {
		refused(patch, write(agent, patch), want)
	}
	refused("the annotation of another node's pod", write(stranger, mark), "of the pods of their own node")
	for seconds, want := range map[int64]string{24 * 3600: "", 24*3600 + 1: "tokens of a day at most"} {
		ask := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{ExpirationSeconds: &seconds}}
		if minor >= 31 {
			ask.Spec.BoundObjectRef = &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Node", Name: node}
		}
		_, err := agent.CoreV1().ServiceAccounts(system).CreateToken(c.ctx, "ambit-cni-plugin", ask, metav1.CreateOptions{})
		refused(fmt.Sprintf("a token for %d s", seconds), err, want)
	}
	_, err = agent.CoreV1().ServiceAccounts(system).CreateToken(c.ctx, "ambitd", &authv1.TokenRequest{}, metav1.CreateOptions{})
	refused("a token of ambitd", err, `cannot create resource "serviceaccounts/token"`) // by the role, which names the plugin's account alone
}
