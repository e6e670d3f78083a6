package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ambit-mesh/ambit/api/mesh"
)

// town is a namespace of services behind one waypoint, as YAML in a folder: a file for each service with its pods, its
// slice and its route, and one for each policy. Every service has a route, every second one a policy.
type town struct {
	dir            string
	services, pods int
	next           int // number of the next service to add
}

const (
	namespace   = "bench"
	gatewayName = "waypoint"
	clientID    = "spiffe://cluster.local/ns/bench/sa/client"
	// mover is a service with one pod, which keeps moving.
	mover = 0
)

func host(s int) string { return fmt.Sprintf("app-%d.%s.svc.cluster.local", s, namespace) }

// vip is a service's virtual address, podIP that of a pod; from podIP one can tell the service.
func vip(s int) string { return fmt.Sprintf("10.96.%d.%d", s>>8, s&255) }

func podIP(s, pod int) string {
	n := s<<6 | pod
	return fmt.Sprintf("10.%d.%d.%d", 128+n>>16, n>>8&255, n&255)
}

// serviceOf is the service of a pod's address.
func serviceOf(ip []byte) int {
	return (int(ip[1]-128)<<16 | int(ip[2])<<8 | int(ip[3])) >> 6
}

func podUID(s, pod int) string {
	return fmt.Sprintf("%s//Pod/%s/%s", mesh.DefaultClusterID, namespace, podName(s, pod))
}

func podName(s, pod int) string { return fmt.Sprintf("app-%d-7d4b9c5f6-%05d", s, pod) }

// fact is the name of a service's resource for the waypoint.
func fact(s int) string {
	return namespace + "/" + gatewayName + "/" + mesh.ServiceName(namespace, host(s))
}

// put replaces a file at once, as ambit-lab, kubectl plugins and editors do.
func (w *town) put(rel, text string) error {
	path := filepath.Join(w.dir, rel)
	tmp := filepath.Join(w.dir, ".tmp-"+filepath.Base(rel))
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// write puts the whole town into the folder.
func (w *town) write() error {
	for _, d := range []string{"services", "routes", "policies"} {
		if err := os.MkdirAll(filepath.Join(w.dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := w.put("town.yaml", gatewayYAML); err != nil {
		return err
	}
	for s := range w.services {
		if err := w.service(s, w.pods, 0); err != nil {
			return err
		}
		if err := w.route(s, 0); err != nil {
			return err
		}
		if s%2 == 1 {
			if err := w.policy(s, "intruder"); err != nil {
				return err
			}
		}
	}
	w.next = w.services
	// One pod, so that the first request after a move says whether the waypoint knows.
	return w.service(mover, 1, 0)
}

const gatewayYAML = `apiVersion: v1
kind: Namespace
metadata: {name: bench, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: waypoint}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: bench, labels: {istio.io/waypoint-for: service}}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
status: {addresses: [{type: IPAddress, value: 10.96.255.1}]}
---
apiVersion: v1
kind: Service
metadata: {name: waypoint, namespace: bench, labels: {gateway.networking.k8s.io/gateway-name: waypoint}}
spec:
  clusterIP: 10.96.255.1
  clusterIPs: [10.96.255.1]
  selector: {gateway.networking.k8s.io/gateway-name: waypoint}
  ports: [{name: mesh, port: 15008, protocol: TCP}]
---
apiVersion: v1
kind: Pod
metadata: {name: waypoint-0, namespace: bench, uid: 00000000-0000-4000-8000-000000000001, labels: {gateway.networking.k8s.io/gateway-name: waypoint}}
spec: {serviceAccountName: waypoint, nodeName: node-0, containers: [{name: istio-proxy, image: x}]}
status: {phase: Running, podIP: 10.1.0.1, podIPs: [{ip: 10.1.0.1}], conditions: [{type: Ready, status: "True"}]}
`

// service writes a Service, its pods and its slice. Moved tells where its pods are: each move is to other addresses.
func (w *town) service(s, pods, moved int) error {
	return w.put(fmt.Sprintf("services/app-%d.yaml", s), w.serviceYAML(s, pods, moved))
}

func (w *town) serviceYAML(s, pods, moved int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: v1
kind: Service
metadata: {name: app-%[1]d, namespace: bench}
spec:
  clusterIP: %[2]s
  clusterIPs: [%[2]s]
  selector: {app: app-%[1]d}
  ports: [{name: http, port: 80, targetPort: 8080, protocol: TCP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
addressType: IPv4
metadata: {name: app-%[1]d-0, namespace: bench, labels: {kubernetes.io/service-name: app-%[1]d}}
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints:
`, s, vip(s))
	for p := range pods {
		fmt.Fprintf(&b, "- {addresses: [%s], conditions: {ready: true}, nodeName: node-%d, targetRef: {kind: Pod, name: %s, namespace: bench}}\n", podIP(s, p+moved), p, podName(s, p))
	}
	for p := range pods {
		fmt.Fprintf(&b, `---
apiVersion: v1
kind: Pod
metadata:
  name: %[1]s
  namespace: bench
  uid: 00000000-0000-4000-8001-%012[2]d
  creationTimestamp: "2026-11-01T00:00:00Z"
  labels: {app: app-%[3]d, version: v1, pod-template-hash: 7d4b9c5f6}
  annotations: {ambient.istio.io/redirection: enabled}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: app-%[3]d-7d4b9c5f6, uid: 00000000-0000-4000-8002-%012[3]d, controller: true}]
spec:
  serviceAccountName: app-%[3]d
  nodeName: node-%[4]d
  containers: [{name: app, image: example/app:1, ports: [{name: http, containerPort: 8080}]}]
status:
  phase: Running
  podIP: %[5]s
  podIPs: [{ip: %[5]s}]
  conditions: [{type: Ready, status: "True"}]
`, podName(s, p), s<<6|p, s, p, podIP(s, p+moved))
	}
	return b.String()
}

// route writes the route of a service; answers carry its revision.
func (w *town) route(s, revision int) error {
	return w.put(fmt.Sprintf("routes/app-%d.yaml", s), routeYAML(s, revision))
}

func routeYAML(s, revision int) string {
	return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: app-%[1]d, namespace: bench}
spec:
  parentRefs: [{group: "", kind: Service, name: app-%[1]d, port: 80}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /}}]
    filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-revision, value: "%[2]d"}]}}]
    backendRefs: [{name: app-%[1]d, port: 80}]
`, s, revision)
}

// policy writes a policy that denies a service to one account.
func (w *town) policy(s int, account string) error {
	return w.put(fmt.Sprintf("policies/app-%d.yaml", s), fmt.Sprintf(`apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: app-%[1]d, namespace: bench}
spec:
  targetRefs: [{group: "", kind: Service, name: app-%[1]d}]
  action: DENY
  rules:
  - from: [{source: {principals: [cluster.local/ns/bench/sa/%[2]s]}}]
    to: [{operation: {methods: [GET, POST]}}]
`, s, account))
}

// add writes a service that was not there, with pods and a route, and returns its number.
func (w *town) add() (s int, write func() error) {
	s = w.next
	w.next++
	return s, func() error {
		return w.put(fmt.Sprintf("services/app-%d.yaml", s), w.serviceYAML(s, w.pods, 0)+"---\n"+routeYAML(s, 0))
	}
}

func (w *town) remove(s int) error {
	return os.Remove(filepath.Join(w.dir, fmt.Sprintf("services/app-%d.yaml", s)))
}
