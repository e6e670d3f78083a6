package daemon

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const harbour = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: shop, uid: u1, labels: {istio.io/rev: stable}}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {namespaces: {from: All}}}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: other, namespace: shop, uid: u2, labels: {istio.io/rev: default}}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: bank, namespace: port}
spec: {hosts: [bank.example], exportTo: ["."], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS}
`

// TestGatewaySettings follows what the control plane is started with to what runs for a Gateway: which are its own, how many
// pods they have, what these are told; and to who sees ServiceEntries.
func TestGatewaySettings(t *testing.T) {
	p := newPlane(t)
	p.cfg.GatewaysFolder = "applied"
	p.cfg.Revisions = []string{"blue", "stable"}
	p.cfg.GatewayPullPolicy, p.cfg.GatewayPullSecrets = "Never", []string{"one", "two"}
	p.cfg.GatewayXDS, p.cfg.GatewayCA = "https://control.example:15012", "https://ca.example:443"
	p.cfg.GatewayLogLevel, p.cfg.GatewayLogJSON = "debug", true
	p.cfg.Waypoints = Waypoints{MinReplicas: 2, MaxReplicas: 6, CPU: 70, Budget: true}
	p.cfg.ServiceEntryVisibility = VisibilityNamespace
	p.write("harbour.yaml", harbour)
	p.start()
	defer p.stop()
	applied := func() (out string) {
		_ = filepath.WalkDir(filepath.Join(p.cfg.ConfigDir, "applied"), func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				data, _ := os.ReadFile(path)
				out += string(data)
			}
			return nil
		})
		return out
	}
	p.await("what runs for the Gateway", func() bool { return strings.Contains(applied(), "PodDisruptionBudget") })
	text := applied()
	for _, want := range []string{
		"imagePullPolicy: Never", "- name: one", "- name: two", "https://control.example:15012", "https://ca.example:443", "value: debug", "value: json",
		"minReplicas: 2", "maxReplicas: 6", "averageUtilization: 70", "stabilizationWindowSeconds: 300", "maxUnavailable: 1", "istio.io/rev: blue", "topologyKey: kubernetes.io/hostname",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "name: other") {
		t.Errorf("something runs for a Gateway of another revision:\n%s", text)
	}
	var r Refusals
	p.await("who sees the ServiceEntry", func() bool {
		_, b := p.get("/debug/refusals")
		return json.Unmarshal([]byte(b), &r) == nil && strings.Contains(b, "istio.io/VisibilityApplied") && strings.Contains(b, `"Namespace"`)
	})
	for _, e := range r.Entries {
		if e.Kind == "ServiceEntry" || e.Name == "other" {
			t.Errorf("told: %+v", e)
		}
	}
	if !slices.Equal(r.Settings.Revisions, p.cfg.Revisions) || r.Settings.ServiceEntryVisibility != VisibilityNamespace {
		t.Errorf("tools are told %+v", r.Settings)
	}
}
