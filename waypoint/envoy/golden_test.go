package envoy

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/waypoint/fetch"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares with a file, or writes it.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v: run go test -update", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

// goldens runs one case for each *.in.json below testdata: the facts in it go into a message, the result into *.out.json.
func goldens[In proto.Message](t *testing.T, dir string, into func() In, expand func(t *testing.T, name string, in In) ([]proto.Message, []Problem)) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", dir, "*.in.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases in %s: %v", dir, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".in.json")
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			in := into()
			if err := protojson.Unmarshal(text, in); err != nil {
				t.Fatal(err)
			}
			before := proto.Clone(in)
			made, problems := expand(t, name, in)
			if !proto.Equal(before, in) {
				t.Error("the expansion changed the facts")
			}
			golden(t, strings.TrimSuffix(file, ".in.json")+".out.json", inOrder(t, made, problems))
		})
	}
}

// inOrder is what an expansion made, as text that is the same every time: protojson varies its spaces on purpose.
func inOrder(t *testing.T, made []proto.Message, problems []Problem) []byte {
	t.Helper()
	out := struct {
		Problems []Problem         `json:",omitempty"`
		Made     []json.RawMessage `json:",omitempty"`
	}{Problems: problems}
	for _, m := range made {
		text, err := protojson.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		out.Made = append(out.Made, text)
	}
	var compact bytes.Buffer
	encoder := json.NewEncoder(&compact)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(out); err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := json.Indent(&text, compact.Bytes(), "", " "); err != nil {
		t.Fatal(err)
	}
	return text.Bytes()
}

// accepted asks a real Envoy whether it would take a bootstrap with these static resources.
func accepted(t *testing.T, static *bootstrapv3.Bootstrap_StaticResources) error {
	t.Helper()
	binary, err := fetch.Envoy(t.Context(), fetch.Options{})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	b, err := Bootstrap(Options{NodeID: "test", NodeCluster: "test", XDSSocket: filepath.Join(dir, "xds"), SDSSocket: filepath.Join(dir, "sds")})
	if err != nil {
		t.Fatal(err)
	}
	b.StaticResources.Listeners = append(b.StaticResources.Listeners, static.GetListeners()...)
	b.StaticResources.Clusters = append(b.StaticResources.Clusters, static.GetClusters()...)
	text, err := protojson.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "bootstrap.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), binary, "--mode", "validate", "-c", file, "--log-level", "error").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %.2000s", err, out)
	}
	return nil
}
