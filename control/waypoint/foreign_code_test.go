package waypoint

import (
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/control/object"
)

// TestForeignCode: whoever may write policies in a namespace brings no code of his own into a proxy that others share.
func TestForeignCode(t *testing.T) {
	policy := func(kind, rest string) string {
		group := "extensions.istio.io/v1alpha1"
		if kind == "ExtensionPolicy" {
			group = "policy.ambit.io/v1alpha1"
		}
		return `
apiVersion: ` + group + `
kind: ` + kind + `
metadata: {name: code, namespace: tenant}
spec:
  targetRefs: [{kind: Service, group: "", name: door}]
  ` + rest
	}
	const route = `
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: door, namespace: tenant}
spec:
  parentRefs: [{kind: Service, group: "", name: door}]
  rules:
  - filters: [{type: ExtensionRef, extensionRef: {group: policy.ambit.io, kind: ExtensionPolicy, name: code}}]
    backendRefs: [{name: door, port: 80}]`
	const refused = "its code may not run in the proxies of Gateway infra/wp"
	for name, c := range map[string]struct {
		objects, fact string
		runs, shut    bool
	}{
		"Lua":             {objects: policy("ExtensionPolicy", `lua: {source: "x"}`), shut: true},
		"Wasm":            {objects: policy("WasmPlugin", `url: https://x.example/p.wasm`), shut: true},
		"Wasm, fail open": {objects: policy("WasmPlugin", "url: https://x.example/p.wasm\n  failStrategy: FAIL_OPEN")},
		"Lua of one rule": {objects: policy("ExtensionPolicy", `lua: {source: "x"}`) + route, shut: true},
		"a processor":     {objects: policy("ExtensionPolicy", `extProc: {backendRef: {name: door, port: 80}}`), runs: true},
		"Lua of the waypoint's owner": {runs: true, objects: `
apiVersion: policy.ambit.io/v1alpha1
kind: ExtensionPolicy
metadata: {name: code, namespace: infra}
spec:
  targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: wp}]
  lua: {source: "x"}`, fact: "Gateway infra/wp/gateway"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.yaml(sharedWaypoint)
			w.yaml(c.objects)
			if c.fact == "" {
				c.fact = doorFact
			}
			text := oneLine(w.text()["fact "+c.fact])
			if runs := strings.Contains(text, "extensions:") && !strings.Contains(text, "extensions: - broken:"); runs != c.runs {
				t.Errorf("runs: %t\n%s", runs, text)
			}
			if shut := strings.Contains(text, refused); shut != c.shut {
				t.Errorf("shut: %t\n%s", shut, text)
			}
			reported := ""
			for k, r := range w.reports {
				if k.Kind == object.KindExtensionPolicy || k.Kind == object.KindWasmPlugin {
					reported += reportText(r)
				}
			}
			if got := strings.Contains(reported, refused); got == c.runs {
				t.Errorf("reported: %s", reported)
			}
		})
	}
}
