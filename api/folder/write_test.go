package folder

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNamesThatNobodyWouldRead(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"", ".", "../x.yaml", "/etc/x.yaml", "a/../b.yaml", "a//b.yaml", ".x.yaml", ".d/x.yaml", "x.txt", "x"} {
		if err := Write(root, name, nil); err == nil {
			t.Errorf("Write took %q", name)
		}
	}
	if err := Write(root, "../x.yaml", nil); !errors.Is(err, ErrOutside) {
		t.Errorf("got %v", err)
	}
}

func TestWriteDoesNotLeaveThroughLinks(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(root, "d")); err != nil {
		t.Fatal(err)
	}
	if err := Write(root, "d/x.yaml", []byte("x")); err == nil {
		t.Error("wrote through a link that leads outside")
	}
	if left, _ := os.ReadDir(outside); len(left) > 0 {
		t.Errorf("outside has %v", left)
	}
}

func TestEqualContentIsNotWritten(t *testing.T) {
	root := t.TempDir()
	inode := func() stamp {
		fi, err := os.Stat(filepath.Join(root, "a.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		return stampOf(fi)
	}
	Write(root, "a.yaml", []byte("x"))
	before := inode()
	if err := Write(root, "a.yaml", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if after := inode(); after != before {
		t.Error("the file was replaced by itself")
	}
}

func TestMissingFiles(t *testing.T) {
	root := t.TempDir()
	edit := Edit(root, "a.yaml", func(d map[string]any) (map[string]any, error) { return d, nil })
	_, read := Read(root, "a.yaml")
	for name, err := range map[string]error{"Remove": Remove(root, "a.yaml"), "Edit": edit, "Read": read} {
		if !errors.Is(err, ErrNotFound) || !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEdit(t *testing.T) {
	root := t.TempDir()
	os.WriteFile(filepath.Join(root, "two.yaml"), []byte("a: 1\n---\nb: 2\n"), 0o644)
	same := func(d map[string]any) (map[string]any, error) { return d, nil }
	if err := Edit(root, "two.yaml", same); err == nil || !strings.Contains(err.Error(), "2 documents") {
		t.Errorf("two documents: %v", err)
	}
	os.WriteFile(filepath.Join(root, "j.json"), []byte(`{"b": {"c": [1, "x"]}, "a": null}`), 0o644)
	err := Edit(root, "j.json", func(d map[string]any) (map[string]any, error) { d["n"] = 7; return d, nil })
	if err != nil {
		t.Fatal(err)
	}
	got, _ := Read(root, "j.json")
	if want := "{\n  \"a\": null,\n  \"b\": {\n    \"c\": [\n      1,\n      \"x\"\n    ]\n  },\n  \"n\": 7\n}\n"; string(got) != want {
		t.Errorf("json: %s", got)
	}
	stop := errors.New("no")
	if err := Edit(root, "j.json", func(map[string]any) (map[string]any, error) { return nil, stop }); !errors.Is(err, stop) {
		t.Errorf("error of the callback: %v", err)
	}
	if err := Edit(root, "j.json", func(map[string]any) (map[string]any, error) { return nil, nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(root, "j.json"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a nil document must delete the file: %v", err)
	}
}

func TestSplitDocuments(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		want     []Document
	}{
		{"empty", "", nil},
		{"comments only", "# nothing\n---\n\n---\n# more\n", nil},
		{"one", "a: 1\n", []Document{{1, []byte("a: 1\n")}}},
		{"leading marker", "---\na: 1\n", []Document{{1, []byte("\na: 1\n")}}},
		{"two", "a: 1\n---\nb: 2", []Document{{1, []byte("a: 1\n")}, {2, []byte("\nb: 2")}}},
		{"content after the marker", "--- {a: 1}\n--- # second\nb: 2\n", []Document{{1, []byte(" {a: 1}\n")}, {2, []byte(" # second\nb: 2\n")}}},
		{"end marker", "a: 1\n...\n---\nb: 2\n", []Document{{1, []byte("a: 1\n")}, {3, []byte("\nb: 2\n")}}},
		{"carriage returns", "a: 1\r\n---\r\nb: 2\r\n", []Document{{1, []byte("a: 1\r\n")}, {2, []byte("\r\nb: 2\r\n")}}},
		{"not markers", "a: |\n  ---\n----\n---x\n", []Document{{1, []byte("a: |\n  ---\n----\n---x\n")}}},
		{"byte order mark", "\xef\xbb\xbfa: 1\n", []Document{{1, []byte("a: 1\n")}}},
		{"directive", "%YAML 1.2\n---\na: 1\n", []Document{{2, []byte("\na: 1\n")}}},
	} {
		if d := cmp.Diff(tc.want, SplitDocuments([]byte(tc.in))); d != "" {
			t.Errorf("%s: (-want +got)\n%s", tc.name, d)
		}
	}
}

func FuzzSplitDocuments(f *testing.F) {
	for _, s := range []string{"a: 1\n---\nb: 2", "--- {a: 1}\n...\n%YAML 1.2\n---\n", "\xef\xbb\xbf---\r\n", "#\n---\n#\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		lines := strings.Count(in, "\n") + 1
		last, total := 0, 0
		for _, d := range SplitDocuments([]byte(in)) {
			if d.Line <= last || d.Line > lines {
				t.Fatalf("line %d after %d of %d", d.Line, last, lines)
			}
			last = d.Line
			total += len(d.Data)
			if strings.TrimSpace(string(d.Data)) == "" {
				t.Fatal("an empty document")
			}
		}
		if total > len(in) {
			t.Fatal("documents overlap")
		}
	})
}
