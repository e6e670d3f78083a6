package doccheck

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRepository(t *testing.T) {
	broken, err := Broken("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range broken {
		t.Error(b)
	}
}

func TestBroken(t *testing.T) {
	dir := t.TempDir()
	text := "[here](a.md) [there](b.md#part) [web](https://example.com/x) [self](#top)\n"
	if err := os.WriteFile(filepath.Join(dir, "a.md"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := Broken(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || !strings.Contains(got[0], "a.md:1: b.md") {
		t.Errorf("got %q", got)
	}
}
