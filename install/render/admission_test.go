package render

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ambit-mesh/ambit/api/admission"
)

var update = flag.Bool("update", false, "rewrite golden files, and what the charts hold of other packages")

// TestAdmissionFile holds the chart to the policies of package admission.
func TestAdmissionFile(t *testing.T) {
	want, err := YAML(admission.Objects("kube-system"))
	if err != nil {
		t.Fatal(err)
	}
	compare(t, filepath.Join("..", "charts", "base", "files", "admission", "policies.yaml"), want)
}

// compare checks a file, or rewrites it.
func compare(t *testing.T, file string, want []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s: run go test ./install/render -update (-want +got)\n%s", file, diff)
	}
}
