package envoy_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// buildWasm makes the test's module with the Go toolchain.
func buildWasm(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "module.wasm")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s", "-o", file, "./testdata/wasm")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the module: %v\n%s", err, out)
	}
	return file
}

// TestWasm: a module runs with its configuration; one that is none closes, or is passed over, and costs nothing else.
func TestWasm(t *testing.T) {
	s := openShop(t, "127.0.37.1")
	client := s.Peer(idClient).Client("10.96.0.1:80")
	bad := filepath.Join(t.TempDir(), "bad.wasm")
	if err := os.WriteFile(bad, []byte("\x00asm\x01\x00\x00\x00 and then nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.world.Wasm = map[string]string{"https://example/m": buildWasm(t), "https://example/bad": bad, "https://example/gone": "/nowhere/m.wasm"}
	x := &waypoint.Extension{Namespace: "default", Name: "w", Phase: waypoint.Extension_AUTHN, Kind: &waypoint.Extension_Wasm{
		Wasm: &waypoint.Wasm{Url: "https://example/m", Sha256: "1", Config: `{"color":"blue"}`}}}
	s.apply(&waypoint.Policies{Extensions: []*waypoint.Extension{x}})
	if status, body, _ := ask(t, client, "GET", "/"); status != 200 || !strings.Contains(body, `"X-Wasm":["{\"color\":\"blue\"}"]`) {
		t.Errorf("%d %s", status, body)
	}
	// A version that cannot be loaded: the last good one goes on.
	x.GetWasm().Url, x.GetWasm().Sha256 = "https://example/bad", "2"
	said := s.Provoke(s.world)
	if len(said) != 1 || !strings.Contains(said[resource.ExtensionConfigType], "default.w") {
		t.Errorf("Envoy said %q", said)
	}
	wantStatus(t, client, 200, "GET", "/")
	for _, url := range []string{"https://example/bad", "https://example/gone", "https://example/unknown"} {
		for _, open := range []bool{false, true} {
			s.svc.Policies = &waypoint.Policies{Extensions: []*waypoint.Extension{{
				Namespace: "default", Name: fmt.Sprintf("%s-%v", filepath.Base(url), open), FailOpen: open,
				Kind: &waypoint.Extension_Wasm{Wasm: &waypoint.Wasm{Url: url, Sha256: url}},
			}}}
			s.Provoke(s.world)
			want := 503
			if open {
				want = 200
			}
			// The chain is another one, and a connection may still be of the old.
			s.Await(fmt.Sprintf("%s, open %v", url, open), func() error {
				if status, _, _ := ask(t, client, "GET", "/"); status != want {
					return fmt.Errorf("status %d, want %d", status, want)
				}
				return nil
			})
		}
	}
}
