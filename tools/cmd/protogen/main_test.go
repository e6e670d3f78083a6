package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestCommitted: what is committed is what the protos generate.
func TestCommitted(t *testing.T) {
	const api = "../../../api"
	out := t.TempDir()
	for _, f := range files {
		if err := os.MkdirAll(filepath.Join(out, filepath.Dir(f)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := run(api, out); err != nil {
		t.Fatal(err)
	}
	generated, err := filepath.Glob(filepath.Join(out, "*", "*.pb.go"))
	if err != nil || len(generated) < len(files) {
		t.Fatalf("only %d files were generated: %v", len(generated), err)
	}
	for _, g := range generated {
		rel, err := filepath.Rel(out, g)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(g)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(api, rel))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what its proto generates: make generate", rel)
		}
	}
}
