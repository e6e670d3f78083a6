package stories

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/api/labfile"
	"github.com/ambit-mesh/ambit/e2e/lab"
	"github.com/ambit-mesh/ambit/e2e/mesh"
)

// TestDemo runs what `make demo` runs. Each of its chapters fails by itself when it does not show what it says.
func TestDemo(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs CAP_SYS_ADMIN and CAP_NET_ADMIN to make network namespaces")
	}
	name := fmt.Sprintf("s%d-demo", os.Getpid()%10000)
	t.Cleanup(func() {
		if err := lab.Clean(name); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	samples, err := filepath.Abs("../samples")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(ctx, filepath.Join(os.Getenv(mesh.EnvBin), "ambit-demo"), "--lab", name, "--samples", samples).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := strings.Count(string(out), "✓"); got < 13 {
		t.Errorf("%d proofs, want at least 13:\n%s", got, out)
	}
	if _, err := os.Stat(labfile.Dir(name)); err == nil {
		t.Error("the demo left its lab behind")
	}
}
