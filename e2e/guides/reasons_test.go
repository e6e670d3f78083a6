package guides

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite what guides have from the code")

const (
	tableBegins = "| `reason` | `response_flags` | what it means, what to look at |\n|---|---|---|\n"
	tableEnds   = "\n\n"
)

// TestReasons keeps the table of reasons equal to the closed list of the proxy.
func TestReasons(t *testing.T) {
	const file = root + "/docs/observability.md"
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(data), tableBegins)
	if !ok {
		t.Fatalf("%s has no table of reasons", file)
	}
	got, after, _ := strings.Cut(rest, tableEnds)
	var rows []string
	for _, r := range telemetry.Reasons() {
		rows = append(rows, fmt.Sprintf("| `%s` | `%s` | %s |", r, r.Flags(), r.Explain()))
	}
	want := strings.Join(rows, "\n")
	if *update {
		if err := os.WriteFile(file, []byte(before+tableBegins+want+tableEnds+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-code +guide, rewrite with -update):\n%s", file, d)
	}
}
