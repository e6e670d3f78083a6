package depcheck

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWorkspace holds the tree itself to the rules.
func TestWorkspace(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "go.work")); err != nil {
		t.Skip("not inside the workspace")
	}
	pkgs, err := List(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(pkgs) < 20 {
		t.Fatalf("go list found only %d packages: is GOWORK off?", len(pkgs))
	}
	for _, problem := range Check(pkgs) {
		t.Error(problem)
	}
}

// TestCheck proves that each rule can fail.
func TestCheck(t *testing.T) {
	for _, tc := range []struct {
		name string
		pkg  Package
		want string
	}{
		{"control reaches into the data plane",
			Package{ImportPath: Prefix + "control/push", Doc: "d", Imports: []string{Prefix + "ztunnel/state"}}, "control may import"},
		{"a test import counts too",
			Package{ImportPath: Prefix + "api/xds", Doc: "d", TestImports: []string{Prefix + "ca/catest"}}, "api may import"},
		{"Kubernetes through a third package",
			Package{ImportPath: Prefix + "ztunnel/state", Doc: "d", Deps: []string{"fmt", "k8s.io/api/core/v1"}}, "never talks to Kubernetes"},
		{"a name that says nothing", Package{ImportPath: Prefix + "ca/util", Doc: "d"}, "says nothing"},
		{"no package doc", Package{ImportPath: Prefix + "ca/certs"}, "no package doc"},
		{"a module nobody wrote a rule for", Package{ImportPath: Prefix + "extra/thing", Doc: "d"}, "no rule"},
		{"the exception holds", Package{ImportPath: Prefix + "control/gateways", Doc: "d", Imports: []string{Prefix + "waypoint/deploy"}}, ""},
		{"the exception is narrow",
			Package{ImportPath: Prefix + "control/gateways", Doc: "d", Imports: []string{Prefix + "waypoint/envoy"}}, "control may import"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := strings.Join(Check([]Package{tc.pkg}), "\n")
			if tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
				t.Errorf("got %q, want %q in it", got, tc.want)
			}
		})
	}
}
