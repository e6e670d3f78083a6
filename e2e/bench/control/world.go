package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// world is a mesh in a folder: 100 nodes, 10 namespaces, services with endpoint slices over all pods, 20 policies. Half of the
// policies select pods. Pods are one file each, as a lab writes them; so one changed pod is one changed file.
type world struct {
	dir        string
	pods       int
	services   int
	serial     int // of the last change
	written    []string
	namespaces int
}

const (
	nodes             = 100
	defaultNamespaces = 10
	maxServices       = 500
	policies          = 20
	sliceSize         = 100 // endpoints in a slice, as Kubernetes cuts them
	rootNamespace     = "ambit-system"
	clusterID         = "Kubernetes"
)

func newWorld(dir string, pods int) *world {
	return &world{dir: dir, pods: pods, services: min(maxServices, max(1, pods/2)), namespaces: defaultNamespaces}
}

// write puts the whole mesh into the folder.
func (w *world) write() error {
	var b strings.Builder
	for ns := range w.namespaces {
		fmt.Fprintf(&b, "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: ns-%d\n  labels: {istio.io/dataplane-mode: ambient}\n---\n", ns)
	}
	fmt.Fprintf(&b, "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: %s\n", rootNamespace)
	if err := w.put("namespaces.yaml", b.String()); err != nil {
		return err
	}
	b.Reset()
	for n := range nodes {
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: node-%d\n  labels: {topology.kubernetes.io/region: r%d, topology.kubernetes.io/zone: r%d-z%d}\n", n, n%2, n%2, n%6)
	}
	if err := w.put("nodes.yaml", b.String()); err != nil {
		return err
	}
	for s := range w.services {
		if err := w.put(fmt.Sprintf("services/svc-%d.yaml", s), w.service(s)); err != nil {
			return err
		}
	}
	for p := range policies {
		if err := w.policy(fmt.Sprintf("policy-%d", p), p%w.namespaces, p, p%2 == 1); err != nil {
			return err
		}
	}
	for p := range w.pods {
		if err := w.pod(p, "v1"); err != nil {
			return err
		}
	}
	return nil
}

// put replaces a file atomically. It does not use our own writer: other people's tools do not either.
func (w *world) put(rel, text string) error {
	path := filepath.Join(w.dir, rel)
	tmp := filepath.Join(filepath.Dir(path), ".tmp-"+filepath.Base(path))
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return os.Rename(tmp, path)
}

func (w *world) namespaceOf(service int) int { return service % w.namespaces }

func podIP(p int) string {
	return fmt.Sprintf("10.%d.%d.%d", 64+p>>16, p>>8&255, p&255)
}

// podName is the name the control plane gives the pod's workload, ns and name that of the object.
func (w *world) podName(p int) (ns, name, resource string) {
	s := p % w.services
	ns = fmt.Sprintf("ns-%d", w.namespaceOf(s))
	name = fmt.Sprintf("app-%d-7d4b9c5f6-%05d", s, p)
	return ns, name, clusterID + "//Pod/" + ns + "/" + name
}

// pod writes a pod the way kubelet leaves it, trimmed of what no mesh reads.
func (w *world) pod(p int, revision string) error {
	s := p % w.services
	ns, name, _ := w.podName(p)
	node := (p / w.services) % nodes
	return w.put(fmt.Sprintf("pods/%s_%s.yaml", ns, name), fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  name: %[1]s
  namespace: %[2]s
  uid: 00000000-0000-4000-8000-%012[3]d
  creationTimestamp: "2026-11-01T00:00:00Z"
  labels:
    app: app-%[4]d
    version: %[5]s
    pod-template-hash: 7d4b9c5f6
  annotations:
    ambient.istio.io/redirection: enabled
  ownerReferences:
  - {apiVersion: apps/v1, kind: ReplicaSet, name: app-%[4]d-7d4b9c5f6, uid: 00000000-0000-4000-8001-%012[4]d, controller: true}
spec:
  serviceAccountName: sa-%[4]d
  nodeName: node-%[6]d
  containers:
  - name: app
    image: example/app:1
    ports: [{name: http, containerPort: 8080}]
status:
  phase: Running
  podIP: %[7]s
  podIPs: [{ip: %[7]s}]
  conditions: [{type: Ready, status: "True"}]
`, name, ns, p, s, revision, node, podIP(p)))
}

func serviceYAML(ns, name, app, ip string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Service
metadata:
  name: %s
  namespace: %s
spec:
  clusterIP: %s
  clusterIPs: [%s]
  selector: {app: %s}
  ports:
  - {name: http, port: 80, targetPort: http, protocol: TCP}
  - {name: grpc, port: 9090, targetPort: 9090, protocol: TCP}
`, name, ns, ip, ip, app)
}

// service is a Service with the slices Kubernetes would keep for it.
func (w *world) service(s int) string {
	ns := fmt.Sprintf("ns-%d", w.namespaceOf(s))
	var b strings.Builder
	b.WriteString(serviceYAML(ns, fmt.Sprintf("app-%d", s), fmt.Sprintf("app-%d", s), fmt.Sprintf("10.32.%d.%d", s>>8, s&255)))
	n := 0
	for p := s; p < w.pods; p += w.services {
		if n%sliceSize == 0 {
			fmt.Fprintf(&b, "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata:\n  name: app-%d-%d\n  namespace: %s\n  labels: {kubernetes.io/service-name: app-%d}\nports: [{name: http, port: 8080, protocol: TCP}]\nendpoints:\n", s, n/sliceSize, ns, s)
		}
		_, name, _ := w.podName(p)
		fmt.Fprintf(&b, "- {addresses: [%s], conditions: {ready: true}, targetRef: {kind: Pod, name: %s, namespace: %s}}\n", podIP(p), name, ns)
		n++
	}
	return b.String()
}

// policy writes an AuthorizationPolicy; serial makes its content differ from the last.
func (w *world) policy(name string, ns, serial int, selector bool) error {
	selects := ""
	if selector {
		selects = fmt.Sprintf("  selector: {matchLabels: {app: app-%d}}\n", (serial*w.namespaces+ns)%w.services)
	}
	return w.put("policies/"+name+".yaml", fmt.Sprintf(`apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: %s
  namespace: ns-%d
spec:
%s  action: DENY
  rules:
  - from: [{source: {principals: ["cluster.local/ns/ns-%d/sa/intruder-%d"]}}]
    to: [{operation: {ports: ["8080"]}}]
`, name, ns, selects, ns, serial))
}

// A change is one kind of edit. Each call edits the folder once and returns the resource every proxy must see next.
type change struct {
	name string
	make func(w *world) (resource string, write func() error)
}

func changes() []change {
	return []change{
		{"pod label", func(w *world) (string, func() error) {
			w.serial++
			p, rev := w.serial*7919%w.pods, fmt.Sprintf("r%d", w.serial)
			_, _, resource := w.podName(p)
			return resource, func() error { return w.pod(p, rev) }
		}},
		{"service create", func(w *world) (string, func() error) {
			w.serial++
			s, n := w.serial%w.services, w.serial
			ns, name := fmt.Sprintf("ns-%d", w.namespaceOf(s)), fmt.Sprintf("extra-%d", n)
			file := "services/" + name + ".yaml"
			return ns + "/" + name + "." + ns + ".svc.cluster.local", func() error {
				w.written = append(w.written, file)
				return w.put(file, serviceYAML(ns, name, fmt.Sprintf("app-%d", s), fmt.Sprintf("10.33.%d.%d", n>>8&255, n&255)))
			}
		}},
		{"namespace policy", func(w *world) (string, func() error) {
			w.serial++
			n := w.serial
			return "ns-0/policy-0", func() error { return w.policy("policy-0", 0, n, false) }
		}},
		{"selector policy", func(w *world) (string, func() error) {
			w.serial++
			n, name := w.serial, fmt.Sprintf("selector-%d", w.serial)
			return "ns-1/" + name, func() error {
				w.written = append(w.written, "policies/"+name+".yaml")
				return w.policy(name, 1, n, true)
			}
		}},
	}
}

// tidy removes what changes added, so that every cell starts from the same mesh.
func (w *world) tidy() error {
	for _, rel := range w.written {
		if err := os.Remove(filepath.Join(w.dir, rel)); err != nil {
			return err
		}
	}
	w.written = nil
	return nil
}
