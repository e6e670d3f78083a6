package cluster

import (
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/e2e/conformance/gatewayapi"
)

// TestManifests: the module's files are found as they are now, no image of a registry is left, and the mesh's namespaces
// are in the mesh.
func TestManifests(t *testing.T) {
	dir, err := gatewayapi.Dir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m, err := Manifests(os.DirFS(dir), "here", "now", "here/dns:now")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = fs.WalkDir(m, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(m, name)
		if err != nil {
			return err
		}
		n++
		for line := range strings.Lines(string(data)) {
			if strings.Contains(line, "image: registry.k8s.io/") {
				t.Errorf("%s: %s", name, line)
			}
		}
		return nil
	})
	if err != nil || n < 100 {
		t.Errorf("%d files, %v", n, err)
	}
	data, err := fs.ReadFile(m, meshManifests)
	if err != nil {
		t.Fatal(err)
	}
	for part, want := range map[string]int{labels: 2, "image: here/echo-advanced:now": 3} {
		if got := strings.Count(string(data), part); got != want {
			t.Errorf("%d times, want %d: %s", got, want, part)
		}
	}
	if _, err := Manifests(os.DirFS(t.TempDir()), "here", "now", "here/dns:now"); err == nil {
		t.Error("a module without manifests is taken for one")
	}
}
