package mesh

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/e2e/lab"
	"github.com/ambit-mesh/ambit/waypoint/fetch"
)

// Where a waypoint's pod has Envoy, and the socket that tools ask it by.
const (
	envoyInPod  = "/usr/local/bin/envoy"
	proxyFolder = "/etc/istio/proxy"
	// proxyVolume is the volume at proxyFolder.
	proxyVolume = "istio-envoy"
	adminSocket = "admin.sock"
	// fetching is how long a lab waits for Envoy, which is downloaded once for all labs of a machine.
	fetching = 3 * time.Minute
)

// waypoints tells the control plane what is different about a Gateway's pods in a lab: Envoy comes from the machine, and
// the control plane and the CA are reached on the control host. A lab without Envoy works but for waypoints.
func waypoints(ctx context.Context, l *lab.Lab, o Options, progress func(string)) error {
	envoy := o.Envoy
	if envoy == "" {
		fetched, cancel := context.WithTimeout(ctx, fetching)
		defer cancel()
		var err error
		if envoy, err = fetch.Envoy(fetched, fetch.Options{}); err != nil {
			envoy = ""
			if progress != nil {
				progress("waypoints cannot run: " + err.Error())
			}
		}
	}
	docs := make([]string, 0, 2)
	for _, class := range []string{mesh.GatewayClassWaypoint, mesh.GatewayClassIngress} {
		docs = append(docs, classDefaults(class, envoy, l.Control.Addresses[0]))
	}
	_, err := l.Apply(ctx, []byte(strings.Join(docs, "---\n")), mesh.SystemNamespace)
	return err
}

// classDefaults is an overlay for all Gateways of a class.
func classDefaults(class, envoy, control string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: v1
kind: ConfigMap
metadata:
  name: lab-defaults-%[1]s
  namespace: %[2]s
  labels: {gateway.istio.io/defaults-for-class: %[1]s}
data:
  deployment: |
    spec:
      template:
        spec:
          hostAliases: [{ip: %[3]q, hostnames: [%[4]s, %[5]s]}]
`, class, mesh.SystemNamespace, control, controlName, caName)
	if envoy != "" {
		fmt.Fprintf(&b, "          volumes: [{name: envoy, hostPath: {path: %q}}]\n", envoy)
	}
	fmt.Fprintf(&b, `          containers:
          - name: istio-proxy
            env:
            - {name: CA_ADDR, value: "https://%s:%s"}
            - {name: AMBIT_ADMIN_SOCKET, value: %s/%s}
`, caName, caPort, proxyFolder, adminSocket)
	if envoy != "" {
		fmt.Fprintf(&b, "            - {name: AMBIT_ENVOY, value: %[1]s}\n            volumeMounts: [{name: envoy, mountPath: %[1]s, readOnly: true}]\n", envoyInPod)
	}
	return b.String()
}
