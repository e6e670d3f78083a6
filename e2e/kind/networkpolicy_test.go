//go:build kind

package kind

import (
	"strings"
	"testing"
)

// networkPolicies is a namespace's default deny, and what is admitted to its web.
const networkPolicies = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nobody}
spec: {podSelector: {}, policyTypes: [Ingress]}
`

const admitClient = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {role: client}}}], ports: [{port: 8080}]}]
`

// TestNetworkPolicy has node proxies enforce NetworkPolicies: in the mesh, for pods outside it, and not against probes.
func TestNetworkPolicy(t *testing.T) {
	c := open(t)
	enforce := func(on string) {
		c.Helper()
		if out, stderr, err := c.try("upgrade", "--force", "--set", "control.networkPolicies="+on); err != nil {
			c.Fatalf("upgrade: %v\n%s%s", err, out, stderr)
		}
		c.rollout("Deployment", system, "ambitd")
	}
	enforce("true")
	t.Cleanup(func() { _, _, _ = c.try("upgrade", "--force", "--set", "control.networkPolicies=false") })
	url := c.shop("fenced")
	c.namespace("strangers")
	c.apply("strangers", `
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {role: client}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: client, image: ambit/echo, imagePullPolicy: IfNotPresent, command: [ambit-echo, idle]}]
`)
	c.ready("strangers", "role=client")
	c.answers("strangers", "client", url)

	c.apply("fenced", networkPolicies)
	c.refused("fenced", "client", url)
	c.refused("strangers", "client", url)
	// Probes get in all the same: new pods become ready.
	c.restart("Deployment", "fenced", "web")
	c.captured("fenced", "app=web")
	c.refused("fenced", "client", url)
	c.says("ztunnel-config policy --policy-namespace fenced", "networkpolicy:nobody")

	c.apply("fenced", admitClient)
	c.answers("fenced", "client", url)
	c.refused("strangers", "client", url)
	if out, _, err := c.try("analyze", "-n", "fenced"); err == nil || !strings.Contains(out, "AMB601") {
		t.Errorf("a policy that a plugin would cut the mesh off with is not found: %v\n%s", err, out)
	}
	c.apply("fenced", strings.Replace(admitClient, "from: [", "from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: strangers}}}, ", 1))
	c.answers("strangers", "client", url)
	c.label("Pod", "fenced", "client", "role=nobody")
	c.refused("fenced", "client", url)
	c.delete("fenced", networkPolicies)
	c.delete("fenced", admitClient)
	c.answers("fenced", "client", url)
}
