package labfile

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestRoundTrip(t *testing.T) {
	t.Setenv(EnvRoot, t.TempDir())
	if _, err := Load(""); !errors.Is(err, ErrNotFound) {
		t.Fatalf("no lab: got %v", err)
	}
	want := &Lab{Name: "a", Dir: Dir("a"), Nodes: []Node{{Name: "node1", Netns: "/run/netns/x"}}}
	for _, l := range []*Lab{want, {Name: "b", Dir: Dir("b")}} {
		if err := os.MkdirAll(l.Dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := Write(l); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Load("a")
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("Load = %+v, %v", got, err)
	}
	if _, ok := got.Node("node1"); !ok {
		t.Error("node1 not found")
	}
	if _, err := Load(""); err == nil || !strings.Contains(err.Error(), "a, b") {
		t.Errorf("two labs and no name: got %v", err)
	}
	if err := os.WriteFile(filepath.Join(want.Dir, FileName), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	labs, err := List()
	if err != nil || len(labs) != 1 || labs[0].Name != "b" {
		t.Errorf("List with one torn descriptor = %v, %v", labs, err)
	}
	if _, err := Load("../a"); err == nil {
		t.Error("a path was taken for a name")
	}
}
