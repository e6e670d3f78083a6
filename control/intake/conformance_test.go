package intake

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// conformance is the module whose manifests must be read. It is data here and no dependency.
const conformance = "sigs.k8s.io/gateway-api/conformance@v1.6.0"

// The conformance suite of the Gateway API, the mesh's part and the gateways', is written in manifests of every kind and
// with every field: all must be taken without a word, but for those that are wrong on purpose.
func TestConformanceManifests(t *testing.T) {
	if testing.Short() {
		t.Skip("short: the module is fetched")
	}
	cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", conformance)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	text, err := cmd.Output()
	var module struct{ Dir string }
	if err != nil || json.Unmarshal(text, &module) != nil || module.Dir == "" {
		t.Skipf("%s is neither in the module cache nor to be had: %v", conformance, err)
	}
	fill := strings.NewReplacer("{GATEWAY_CONTROLLER_NAME}", "istio.io/gateway-controller", "{GATEWAY_CLASS_NAME}", "istio",
		"PLACEHOLDER_UNUSABLE_ADDRS", "192.0.2.1", "PLACEHOLDER_USABLE_ADDRS", "192.0.2.2")
	d := NewDecoder(Limits{})
	read := map[string]int{}
	for _, dir := range []string{"base", "mesh", "tests"} {
		err := filepath.WalkDir(filepath.Join(module.Dir, dir), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || filepath.Ext(path) != ".yaml" {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			name, _ := filepath.Rel(module.Dir, path)
			for _, doc := range d.File(name, []byte(fill.Replace(string(data))), nil) {
				for _, it := range doc.Items {
					if it.Object == nil {
						t.Errorf("%s is refused: %v", it.Key, it.Entries)
						continue
					}
					read[it.Key.Kind.String()]++
					for _, entry := range it.Entries {
						if !strings.Contains(name, "invalid") {
							t.Error(entry)
						}
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, kind := range []string{"Gateway", "HTTPRoute", "GRPCRoute", "TLSRoute", "ReferenceGrant", "BackendTLSPolicy", "ListenerSet", "Service", "ConfigMap", "Secret"} {
		if read[kind] == 0 {
			t.Errorf("no %s was read, only %v", kind, read)
		}
	}
}
