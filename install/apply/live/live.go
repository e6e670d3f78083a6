// Package live is a mesh on a Kubernetes cluster as ambitctl looks at it: objects by the API server, admin interfaces by
// port-forward, logs by the kubelets.
//
// It knows what the installed parts are called and which loopback port of their pods answers questions. It does not know
// what the answers mean, and installs nothing: that is package apply's. Nothing it does needs a port on this machine:
// each question is a stream of a forwarded connection. Connections are kept until Close. Start reading at Open.
package live

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/ambit-mesh/ambit/install/admin"
	"github.com/ambit-mesh/ambit/install/apply"
	"github.com/ambit-mesh/ambit/install/cluster"
)

// Loopback ports of the pods that answer questions.
const (
	portNodeProxy = 15000
	portGateway   = 15004
	portAgent     = 15005
	portControl   = 8080
)

// installed says how the parts of each kind are found: pods with a label in the mesh's namespace.
var installed = map[cluster.Kind]struct {
	selector, container, prefix string
	port                        int
}{
	cluster.Control: {selector: "app=ambitd", container: "ambitd", port: portControl},
	// The control plane is the authority, too.
	cluster.Authority: {selector: "app=ambitd", container: "ambitd", port: portControl, prefix: "/ca"},
	cluster.NodeProxy: {selector: "app=ztunnel", container: "ztunnel", port: portNodeProxy},
	cluster.Agent:     {selector: "k8s-app=ambit-cni-node", port: portAgent},
}

// Mesh implements cluster.Mesh.
type Mesh struct {
	client *apply.Client
	// namespace is where the mesh's own parts run.
	namespace string

	mu      sync.Mutex
	tunnels map[string]*tunnel // guarded by mu; by namespace/pod:port
}

var _ cluster.Mesh = (*Mesh)(nil)

// Open looks at the mesh whose parts run in a namespace. It asks nobody yet.
func Open(c *apply.Client, namespace string) *Mesh {
	return &Mesh{client: c, namespace: namespace, tunnels: map[string]*tunnel{}}
}

// Close ends the forwarded connections.
func (m *Mesh) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range m.tunnels {
		t.close()
	}
	clear(m.tunnels)
}

// String names the mesh by how it is reached.
func (m *Mesh) String() string {
	if m.client.Context == "" {
		return "cluster at " + m.client.Config.Host
	}
	return "context " + m.client.Context
}

// DefaultNamespace is the context's.
func (m *Mesh) DefaultNamespace() string { return cmp.Or(m.client.Namespace, metav1.NamespaceDefault) }

// Words are kubectl's.
func (m *Mesh) Words() cluster.Words {
	return cluster.Words{
		Logs:   func(namespace, pod string) string { return fmt.Sprintf("kubectl logs -n %s %s", namespace, pod) },
		Pods:   "kubectl get pods -A",
		Health: "kubectl get pods -n " + m.namespace,
		Start:  "ambitctl install",
	}
}

// Parts lists the pods of a kind.
func (m *Mesh) Parts(ctx context.Context, kind cluster.Kind) ([]cluster.Part, error) {
	how, ok := installed[kind]
	if !ok {
		return nil, fmt.Errorf("%s: not one of the mesh's own parts", kind)
	}
	pods, err := m.list(ctx, "Pod", m.namespace, metav1.ListOptions{LabelSelector: how.selector})
	if err != nil {
		return nil, err
	}
	var out []cluster.Part
	for _, p := range pods {
		if phase := p.Text("status", "phase"); phase == "Succeeded" || phase == "Failed" {
			continue // it runs no more, and another was made in its place
		}
		part := m.part(kind, p, how.port)
		part.Container = cmp.Or(how.container, part.Container)
		part.Endpoint.Prefix = how.prefix
		out = append(out, part)
	}
	slices.SortStableFunc(out, func(a, b cluster.Part) int {
		if a.Ready != b.Ready {
			if a.Ready {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Pod, b.Pod))
	})
	return out, nil
}

// Proxy is the waypoint or gateway in a pod.
func (m *Mesh) Proxy(pod cluster.Object) cluster.Part {
	return m.part(cluster.Gateway, pod, portGateway)
}

func (m *Mesh) part(kind cluster.Kind, pod cluster.Object, port int) cluster.Part {
	namespace, name := pod.Namespace(), pod.Name()
	p := cluster.Part{
		Kind: kind, Namespace: namespace, Pod: name, Node: pod.Text("spec", "nodeName"),
		Endpoint: admin.Endpoint{
			What: fmt.Sprintf("%s pod %s/%s", kind, namespace, name), Address: fmt.Sprintf("port %d of the pod", port),
			Hint: fmt.Sprintf("see \"kubectl logs -n %s %s\"", namespace, name),
			Dial: m.dialer(namespace, name, port),
		},
	}
	if kind == cluster.NodeProxy || kind == cluster.Agent {
		p.Endpoint.What = fmt.Sprintf("%s of %s", kind, cmp.Or(p.Node, name))
	}
	if list := pod.Items("spec", "containers"); len(list) > 0 {
		p.Container = list[0].Text("name")
	}
	p.Ready, p.Restarts, p.Trouble = health(pod)
	return p
}

// health sums up what the kubelet says of a pod.
func health(pod cluster.Object) (ready bool, restarts int64, trouble string) {
	for _, c := range pod.Items("status", "conditions") {
		switch kind, ok := c.Text("type"), c.Text("status") == "True"; {
		case kind == "Ready":
			ready = ok && pod.Text("metadata", "deletionTimestamp") == ""
		case kind == "PodScheduled" && !ok:
			trouble = c.Text("reason") + ": " + c.Text("message")
		}
	}
	for _, c := range slices.Concat(pod.Items("status", "initContainerStatuses"), pod.Items("status", "containerStatuses")) {
		restarts += c.Number("restartCount")
		for _, state := range []string{"waiting", "terminated"} {
			reason := c.Text("state", state, "reason")
			if reason == "" || reason == "Completed" || reason == "PodInitializing" {
				continue
			}
			trouble = strings.TrimSuffix(fmt.Sprintf("%s: %s", reason, c.Text("state", state, "message")), ": ")
		}
		if last := c.Text("lastState", "terminated", "reason"); last != "" && trouble == "" && !ready {
			trouble = "the last run ended with " + last
		}
	}
	return ready, restarts, trouble
}

// object turns what the API server says into ours.
func object(u unstructured.Unstructured) cluster.Object { return cluster.Object(u.Object) }
