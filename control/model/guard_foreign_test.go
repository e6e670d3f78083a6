package model

import "testing"

// TestGuardsOfOthers: whoever may write Services and EndpointSlices in a namespace of his own can list a pod of another
// one there. His waypoint is not believed for that, it does not get past the guards of the pod's own services, and his
// policies close nothing.
func TestGuardsOfOthers(t *testing.T) {
	const own = `
apiVersion: v1
kind: Namespace
metadata: {name: mallory, labels: {istio.io/use-waypoint: evil}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: evil, namespace: mallory}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
status: {addresses: [{type: Hostname, value: evil.mallory.svc.cluster.local}]}
---
apiVersion: v1
kind: Service
metadata: {name: alias, namespace: mallory}
spec: {clusterIP: 10.1.6.6, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: anything, namespace: mallory}
spec:
  targetRefs: [{kind: Service, group: "", name: alias}]
  rules: [{to: [{operation: {methods: [GET, POST]}}]}]
`
	const byName = `
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: alias-1, namespace: mallory, labels: {kubernetes.io/service-name: alias}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.2.0.1], targetRef: {kind: Pod, namespace: shop, name: web-1}}]
`
	const byAddress = `
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: alias-1, namespace: mallory, labels: {kubernetes.io/service-name: alias}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.2.0.1]}]
`
	for name, slice := range map[string]string{"by name": byName, "by address": byAddress} {
		t.Run(name, func(t *testing.T) {
			s := newGuardStory(t)
			s.put(own)
			s.put(slice)
			if _, ok := s.rec.workloads["Kubernetes//Pod/shop/web-1"].GetServices()["mallory/alias.mallory.svc.cluster.local"]; !ok {
				t.Fatal("the pod is no endpoint of the other service: the test shows nothing")
			}
			before := newGuardStory(t).guards()
			s.expect("without policies of its own", before)
			s.put(getOnly)
			s.expect("with a policy", guarding("AuthorizationPolicy shop/get-only"))
		})
	}
}
