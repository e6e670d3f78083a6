package ctl

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/ambit-mesh/ambit/install/admin"
	"github.com/ambit-mesh/ambit/install/cluster"
)

const analyzedShop = `apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {containers: [{name: c, image: i}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: get, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, rules: [{to: [{operation: {methods: [GET]}}]}]}
---
apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata: {name: none, namespace: shop}
spec: {selector: {matchLabels: {app: wep}}, rules: [{from: [{source: {namespaces: [shop]}}]}]}
`

// ofCanary is right with a control plane that is told of it.
const ofCanary = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: shop, labels: {istio.io/rev: canary}}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: bank, namespace: shop}
spec: {hosts: [bank.example], exportTo: ["."], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS}
`

func TestAnalyze(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"shop.yaml": analyzedShop, "other.json": `{"keys": []}`, "notes.txt": "a: b: c"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, ".github"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ".github", "ci.yaml"), []byte("a: [b"), 0o600); err != nil {
		t.Fatal(err)
	}
	strangers := t.TempDir()
	if err := os.WriteFile(filepath.Join(strangers, "values.yaml"), []byte("replicas: 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "shop.yaml")
	nameless := filepath.Join(t.TempDir(), "nameless.yaml")
	if err := os.WriteFile(nameless, []byte("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: nameless}\nspec: {selector: {matchLabels: {app: wbe}}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(t.TempDir(), "broken.yaml")
	if err := os.WriteFile(broken, []byte("a: [b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dry := filepath.Join(t.TempDir(), "dry.yaml")
	if err := os.WriteFile(dry, []byte("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: d, annotations: {istio.io/dry-run: \"true\"}}\nspec: {action: DENY, rules: [{from: [{source: {namespaces: [a]}}]}]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	gateway := filepath.Join(t.TempDir(), "gateway.yaml")
	if err := os.WriteFile(gateway, []byte(ofCanary), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args string
		code int
		want []string
		not  []string
	}{
		{"analyze " + dir, exitIssues, []string{"error [AMB402 BeyondNodeProxy] " + file + ":10: AuthorizationPolicy shop/get: spec.rules\n  a node proxy does not see methods", "  fix: did you mean app=web?", "info [AMB108", "1 error, 1 warning, 1 note in 4 objects."}, nil},
		{"analyze --fail-on never " + dir, exitOK, []string{"AMB402"}, nil},
		{"analyze --level error " + dir, exitIssues, []string{"1 error in 4 objects."}, []string{"AMB401"}},
		{"analyze -S AMB402 -S amb108 " + file, exitOK, []string{"AMB401"}, []string{"AMB402", "AMB108"}},
		{"analyze -S beyondnodeproxy --level error " + file, exitOK, []string{"Nothing is wrong"}, []string{"AMB402"}},
		{"analyze -S AMB40 " + file, exitUsage, []string{`there is no finding "AMB40"`}, nil},
		{"analyze -S AMB401=AuthorizationPolicy " + file, exitUsage, []string{`KIND NAMESPACE/NAME`}, nil},
		{"analyze -S AMB402 --fail-on warning " + file, exitIssues, nil, []string{"AMB402"}},
		{"analyze -n elsewhere " + file, exitError, []string{"none of 4 objects is of namespace elsewhere; there are objects of shop"}, nil},
		{"analyze -n shop " + file + " " + nameless, exitIssues, []string{"1 error, 2 warnings, 1 note in 5 objects of namespace shop.", "AuthorizationPolicy shop/nameless"}, []string{"default"}},
		{"analyze -n cart " + file + " " + nameless, exitOK, []string{"1 warning in 1 object of namespace cart (3 findings elsewhere)."}, []string{"shop"}},
		{"analyze -n cart -S AMB401 " + file + " " + nameless, exitOK, []string{"Nothing is wrong with 1 object of namespace cart (2 findings elsewhere)."}, nil},
		{"analyze -n cart " + broken, exitIssues, []string{"AMB101", "1 error in 0 objects of namespace cart."}, nil},
		{"analyze " + dry, exitOK, []string{"AMB409", "control.dryRunPolicies=true"}, nil},
		{"analyze --dry-run-policies " + dry, exitOK, []string{"Nothing is wrong with 1 object."}, nil},
		{"analyze " + gateway, exitOK, []string{"warning [AMB307 OtherRevision]", "kubectl label gateway wp -n shop istio.io/rev-", "--set 'control.revisions={default,canary}'", "warning [AMB210 NotHidden]", "control.serviceEntryVisibility=namespace"}, nil},
		{"analyze --revisions default,canary --service-entry-visibility namespace " + gateway, exitOK, []string{"Nothing is wrong with 2 objects."}, nil},
		{"analyze --service-entry-visibility own " + gateway, exitUsage, []string{`--service-entry-visibility "own": public or namespace`}, nil},
		{"analyze " + strangers, exitOK, []string{"info [AMB101", "1 note in 0 objects."}, nil},
		{"analyze " + strangers + "/values.yaml", exitIssues, []string{"error [AMB103"}, nil},
		{"analyze -o json " + file, exitIssues, []string{`"analyzer": "BeyondNodeProxy"`, `"level": "error"`, `"namespace": "shop"`}, []string{"in 4 objects"}},
		{"analyze -o yaml --level error -n cart " + file + " " + nameless, exitOK, []string{"[]\n"}, nil},
		{"analyze -L", exitOK, []string{"CODE", "AMB601  BlocksHBONE", "AMB901"}, nil},
		{"analyze -L -o json", exitOK, []string{`"summary":`}, nil},
		{"analyze - --fail-on info", exitIssues, []string{"(standard input):10"}, nil},
		{"analyze " + dir + "/gone", exitError, []string{"no such file"}, nil},
		{"analyze --fail-on fatal " + file, exitUsage, []string{`--fail-on "fatal"`}, nil},
		{"analyze --level none " + file, exitUsage, []string{`--level "none"`}, nil},
		{"analyze -k", exitUsage, []string{"-k lays files over the mesh"}, nil},
		{"analyze", exitError, []string{"lab"}, nil},
	} {
		r := run(t, strings.Fields(tt.args), func(e *Env) { e.In = strings.NewReader(analyzedShop) })
		all := r.out + r.err
		if r.code != tt.code {
			t.Errorf("%s: code %d, want %d\n%s", tt.args, r.code, tt.code, all)
		}
		for _, want := range tt.want {
			if !strings.Contains(all, want) {
				t.Errorf("%s: no %q in\n%s", tt.args, want, all)
			}
		}
		for _, not := range tt.not {
			if strings.Contains(all, not) {
				t.Errorf("%s: %q in\n%s", tt.args, not, all)
			}
		}
	}
}

// TestAnalyzeMesh looks at a mesh, with its control plane's word and without, and at files laid over it.
func TestAnalyzeMesh(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "control")
	serve(t, socket, answers{"/debug/refusals": `{"settings": {"networkPolicies": true, "dryRunPolicies": true, "revisions": ["blue", "canary"], "serviceEntryVisibility": "namespace"}, "entries": [
		{"severity": "warning", "code": "AMB408", "kind": "Pod", "namespace": "istio-system", "name": "ztunnel-x", "problem": "does not know guards", "fix": "run ours"},
		{"severity": "refused", "kind": "Gateway", "namespace": "shop", "name": "y", "problem": "no"}]}`})
	objects := map[string][]cluster.Object{}
	for _, text := range []string{
		`{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"istio.io/dataplane-mode": "ambient"}}}`,
		`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "shop", "managedFields": [], "labels": {"app": "web"}}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i", "newField": 1}]}, "status": {"phase": "Running", "podIP": "10.0.0.7"}}`,
		`{"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "none", "namespace": "shop"}, "spec": {"selector": {"matchLabels": {"app": "wep"}}}}`,
		`{"apiVersion": "networking.istio.io/v1", "kind": "ProxyConfig", "metadata": {"name": "p", "namespace": "shop"}}`,
	} {
		var o cluster.Object
		if err := json.Unmarshal([]byte(text), &o); err != nil {
			t.Fatal(err)
		}
		kind := o.Text("kind")
		objects[kind] = append(objects[kind], o)
	}
	m := &fakeMesh{Cluster: listed{objects: objects}, parts: map[cluster.Kind][]cluster.Part{
		cluster.Control: {{Endpoint: admin.Endpoint{What: "control plane", Address: "unix:" + socket}}},
	}}
	with := func(e *Env) {
		e.Mesh = m
		e.In = strings.NewReader(strings.ReplaceAll(analyzedShop, "name: none", "name: new"))
	}
	r := run(t, []string{"analyze"}, with)
	for _, want := range []string{"error [AMB408 ForeignProxy] Pod istio-system/ztunnel-x", "error [AMB901 Operational] Gateway shop/y", "warning [AMB107 KindWithoutEffect] ProxyConfig shop/p"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("no %q in\n%s%s", want, r.out, r.err)
		}
	}
	if r.code != exitIssues || strings.Contains(r.out, "AMB102") {
		t.Errorf("%d\n%s", r.code, r.out)
	}
	const dry = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: d, annotations: {istio.io/dry-run: 'true'}}\nspec: {action: DENY, rules: [{from: [{source: {namespaces: [a]}}]}]}\n"
	r = run(t, []string{"analyze", "-k", "-"}, with, func(e *Env) { e.In = strings.NewReader(dry) })
	if strings.Contains(r.out, "AMB409") {
		t.Errorf("the control plane accepts dry runs:\n%s", r.out)
	}
	r = run(t, []string{"analyze", "-k", "-"}, with, func(e *Env) { e.In = strings.NewReader(ofCanary) })
	if strings.Contains(r.out, "AMB307") || strings.Contains(r.out, "AMB210") {
		t.Errorf("the control plane serves the revision and hides ServiceEntries:\n%s", r.out)
	}
	r = run(t, []string{"analyze", "-k", "-"}, with)
	if !strings.Contains(r.out, "AuthorizationPolicy shop/new: spec.selector") || strings.Contains(r.out, "shop/none") || strings.Contains(r.out, "ProxyConfig") || r.code != exitIssues {
		t.Errorf("%d\n%s", r.code, r.out)
	}
	m.parts = nil
	r = run(t, []string{"analyze"}, with)
	if !strings.Contains(r.err, "without the control plane's word") || !strings.Contains(r.out, "AuthorizationPolicy shop/none") || !strings.Contains(r.out, "AMB505") || r.code != exitIssues {
		t.Errorf("%d\n%s%s", r.code, r.out, r.err)
	}
}

// listed is a cluster that can be listed alone.
type listed struct {
	cluster.Cluster
	objects map[string][]cluster.Object
}

func (l listed) List(_ context.Context, kind, _ string) ([]cluster.Object, error) {
	if l.objects[kind] == nil {
		return nil, fmt.Errorf("kind %s: %w", kind, cluster.ErrNotFound)
	}
	return slices.Clone(l.objects[kind]), nil
}
