package kind

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	// root of the checkout, and where its samples are below it.
	root    = "../.."
	samples = "e2e/samples/"
	// ours is how YAML of this repository names an image that `make images` makes: one that is there already on a cluster made here.
	ours = "image: ambit/"
)

// A hub is where the nodes pull our images from, and under which tag. The zero one has them on the nodes already.
type hub struct{ name, tag string }

// hubOf takes what make was given, HUB and VERSION.
func hubOf(env func(string) string) (hub, error) {
	h := hub{env("HUB"), env("VERSION")}
	switch {
	case h.name == "":
		return hub{}, nil
	case h.tag == "":
		return hub{}, fmt.Errorf("HUB=%s says where the images are, and nothing says which: set VERSION to their tag, as make does", h.name)
	}
	return h, nil
}

// images are the same lines with our images where the hub has them. One that has a tag means just that image and stays.
func (h hub) images(text string) string {
	if h.name == "" {
		return text
	}
	var out strings.Builder
	for {
		before, after, found := strings.Cut(text, ours)
		out.WriteString(before)
		if !found {
			return out.String()
		}
		end := strings.IndexFunc(after, func(r rune) bool { return r != '-' && (r < 'a' || r > 'z') && (r < '0' || r > '9') })
		if end < 0 {
			end = len(after)
		}
		if strings.HasPrefix(after[end:], ":") || strings.HasPrefix(after[end:], "@") {
			out.WriteString(ours + after[:end])
		} else {
			out.WriteString("image: " + h.name + "/" + after[:end] + ":" + h.tag)
		}
		text = after[end:]
	}
}

// samples writes the samples of a checkout into another folder, where guides find them, with images from the hub.
func (h hub) samples(checkout, dir string) error {
	return filepath.WalkDir(filepath.Join(checkout, samples), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(checkout, path)
		if err != nil {
			return err
		}
		to := filepath.Join(dir, name)
		if d.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if filepath.Ext(path) == ".yaml" {
			data = []byte(h.images(string(data)))
		}
		return os.WriteFile(to, data, 0o644)
	})
}

func TestHub(t *testing.T) {
	from := func(env ...string) func(string) string {
		return func(name string) string {
			for _, kv := range env {
				if k, v, _ := strings.Cut(kv, "="); k == name {
					return v
				}
			}
			return ""
		}
	}
	if h, err := hubOf(from("VERSION=v1")); err != nil || h != (hub{}) {
		t.Errorf("without HUB: %v, %v", h, err)
	}
	if _, err := hubOf(from("HUB=registry.example/mesh")); err == nil || !strings.Contains(err.Error(), "set VERSION") {
		t.Errorf("without VERSION: %v", err)
	}
	h, err := hubOf(from("HUB=registry.example:5000/mesh", "VERSION=v1.2-3-gabc"))
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"image: ambit/echo":                   "image: registry.example:5000/mesh/echo:v1.2-3-gabc",
		"- {image: ambit/echo, name: a}\n":    "- {image: registry.example:5000/mesh/echo:v1.2-3-gabc, name: a}\n",
		"{image: ambit/echo-basic}":           "{image: registry.example:5000/mesh/echo-basic:v1.2-3-gabc}",
		"image: ambit/a\n  image: ambit/b\n":  "image: registry.example:5000/mesh/a:v1.2-3-gabc\n  image: registry.example:5000/mesh/b:v1.2-3-gabc\n",
		"image: ambit/there-is-none:1":        "image: ambit/there-is-none:1",
		"image: example.org/ambit/echo":       "image: example.org/ambit/echo",
		"set image agent=ambit/no-such:1":     "set image agent=ambit/no-such:1",
		"nothing of ours":                     "nothing of ours",
		"image: ambit/echo@sha256:0, further": "image: ambit/echo@sha256:0, further",
	} {
		if got := h.images(text); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
		if got := (hub{}).images(text); got != text {
			t.Errorf("without a hub %q became %q", text, got)
		}
	}
}

// TestHubHasEverything: no story, guide or sample names an image of ours in a way that would not be taken from the hub.
func TestHubHasEverything(t *testing.T) {
	h := hub{"registry.example/mesh", "v1"}
	dir := t.TempDir()
	if err := h.samples(root, dir); err != nil {
		t.Fatal(err)
	}
	// Images that nobody has are named with a tag: stories and guides that are about them want no others.
	const none = "no-such-image:1"
	moved := 0
	for _, pattern := range []string{root + "/e2e/kind/*.go", root + "/docs/kubernetes/*.md", dir + "/" + samples + "*.yaml", dir + "/" + samples + "*/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, file := range files {
			if filepath.Base(file) == "images_test.go" {
				continue
			}
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			text := h.images(string(data))
			moved += strings.Count(text, "image: "+h.name)
			for i, line := range strings.Split(text, "\n") {
				named := strings.Contains(line, "image") && (strings.Contains(line, " ambit/") || strings.Contains(line, "=ambit/") || strings.Contains(line, `"ambit/`))
				if named && !strings.Contains(line, none) && !strings.Contains(line, "ambit/there-is-no") {
					t.Errorf("%s:%d names an image that is not taken from a hub; write %sNAME: %s", file, i+1, ours, strings.TrimSpace(line))
				}
			}
		}
	}
	if moved < 30 {
		t.Errorf("%d images only", moved)
	}
	// What guides name in e2e/samples has to be there.
	if _, err := os.Stat(filepath.Join(dir, samples, "waypoint/jwt/reader.jwt")); err != nil {
		t.Error(err)
	}
}
