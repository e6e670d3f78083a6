package images

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

var here = v1.Platform{OS: "linux", Architecture: runtime.GOARCH}

func options(t *testing.T, out string) Options {
	return Options{
		Root: filepath.Join("..", ".."), Out: out, Hub: "ambit", Version: "v1.2.3", Tags: []string{"latest"}, Platforms: []v1.Platform{here},
		Time: time.Unix(1700000000, 0).UTC(), Revision: "0123", Log: t.Output(), Locked: true,
	}
}

func build(t *testing.T, o Options) []Result {
	t.Helper()
	done, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// Two builds that share nothing but the compiler's cache give the same bytes, and a third does nothing.
func TestReproducible(t *testing.T) {
	dirs := []string{t.TempDir(), t.TempDir()}
	var archives [][]byte
	for _, dir := range dirs {
		o := options(t, dir)
		o.Only = []string{"echo"}
		r := build(t, o)
		if !r[0].Fresh {
			t.Fatal("the first archive in an empty folder is none that was there")
		}
		raw, err := os.ReadFile(r[0].Path)
		if err != nil {
			t.Fatal(err)
		}
		archives = append(archives, raw)
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Errorf("two builds differ: %d and %d bytes", len(archives[0]), len(archives[1]))
	}
	o := options(t, dirs[0])
	o.Only = []string{"echo"}
	if r := build(t, o); r[0].Fresh {
		t.Error("nothing changed, and yet it was made anew")
	}
	o.Version = "v1.2.4"
	if r := build(t, o); !r[0].Fresh {
		t.Error("another version is another image")
	}
}

// Builds in one folder come one after the other, and one that is given up says what it waited for.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	given, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lock(given, path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("two builds hold the lock: %v", err)
	}
	unlock()
	again, err := lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

// The layers that were used last stay.
func TestPrune(t *testing.T) {
	work := t.TempDir()
	var layers []*layer
	for i := range 4 {
		l, err := makeLayer(work, []file{{path: "f", content: fmt.Appendf(nil, "content %d", i)}})
		if err != nil {
			t.Fatal(err)
		}
		old := time.Now().Add(time.Duration(i-10) * time.Hour)
		if err := os.Chtimes(l.file, old, old); err != nil {
			t.Fatal(err)
		}
		layers = append(layers, l)
	}
	if again, err := makeLayer(work, []file{{path: "f", content: []byte("content 0")}}); err != nil || again.Hash != layers[0].Hash {
		t.Fatal(again, err)
	}
	if err := prune(work, layers[0].Bytes+layers[3].Bytes); err != nil {
		t.Fatal(err)
	}
	for i, l := range layers {
		_, err := os.Stat(l.file)
		_, note := os.Stat(l.file + ".json")
		if stays := i == 0 || i == 3; (err == nil) != stays || (note == nil) != stays {
			t.Errorf("layer %d: %v, %v", i, err, note)
		}
	}
}

// The archive is a valid OCI layout and a valid docker archive, and says what it has to.
func TestArchive(t *testing.T) {
	out := t.TempDir()
	o := options(t, out)
	o.Only = []string{"echo"}
	r := build(t, o)[0]
	for _, n := range r.Names {
		tag, err := name.NewTag(n)
		if err != nil {
			t.Fatal(err)
		}
		img, err := tarball.ImageFromPath(r.Path, &tag)
		if err != nil {
			t.Fatalf("as docker reads it: %v", err)
		}
		if err := validate.Image(img); err != nil {
			t.Errorf("as docker reads it: %v", err)
		}
	}
	index, top := layoutOf(t, r.Path)
	if top.Manifests[0].Annotations["io.containerd.image.name"] != "docker.io/ambit/echo:v1.2.3" || len(top.Manifests) != 2 {
		t.Errorf("names in the layout: %+v", top.Manifests)
	}
	if err := validate.Index(index); err != nil {
		t.Errorf("as an OCI layout: %v", err)
	}
	img, err := forPlatform(index, here, 1)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Config.User != "65532:65532" || cfg.Config.Labels["org.opencontainers.image.version"] != "v1.2.3" || !cfg.Created.Time.Equal(o.Time) {
		t.Errorf("configuration: %+v", cfg)
	}
	if !slices.Equal(cfg.Config.Entrypoint, []string{"/usr/local/bin/ambit-echo"}) {
		t.Errorf("entry point: %v", cfg.Config.Entrypoint)
	}
	names := filesOf(t, img)
	for _, want := range []string{"usr/local/bin/ambit-echo", "etc/passwd", "tmp"} {
		if !slices.Contains(names, want) {
			t.Errorf("no %s in %v", want, names)
		}
	}
	sbomIsAttached(t, index, img)
}

// layoutOf unpacks an archive and returns the index in it, and the layout's own.
func layoutOf(t *testing.T, archive string) (v1.ImageIndex, *v1.IndexManifest) {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := root.MkdirAll(filepath.Dir(h.Name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := root.WriteFile(h.Name, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	outer, err := layout.ImageIndexFromPath(root.Name())
	if err != nil {
		t.Fatal(err)
	}
	top, err := outer.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	inner, err := outer.ImageIndex(top.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return inner, top
}

func filesOf(t *testing.T, img v1.Image) []string {
	t.Helper()
	r := mutate.Extract(img)
	defer r.Close()
	var out []string
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 {
			t.Errorf("%s belongs to %d:%d", h.Name, h.Uid, h.Gid)
		}
		out = append(out, h.Name)
	}
}

// What the catalogue says holds together: pins for both architectures, a reason for root, no name twice.
func TestCatalog(t *testing.T) {
	pins, err := Pins()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, image := range Catalog() {
		if seen[image.Name] || image.Text == "" || len(image.Programs) == 0 {
			t.Errorf("%+v", image)
		}
		seen[image.Name] = true
		if (image.User == root) != (image.Reason != "") {
			t.Errorf("%s: user %s, reason %q", image.Name, image.User, image.Reason)
		}
		for _, take := range image.Debian {
			for _, arch := range []string{"amd64", "arm64"} {
				if !slices.ContainsFunc(pins, func(p Pin) bool {
					return p.Package == take.Package && (p.Arch == arch || p.Arch == "all") && len(p.SHA256) == 64
				}) {
					t.Errorf("%s: %s is not pinned for %s", image.Name, take.Package, arch)
				}
			}
		}
	}
	if _, err := parsePins("libc6 1 amd64"); err == nil {
		t.Error("half a pin is taken")
	}
	if _, err := choose([]string{"nobody"}); err == nil || !strings.Contains(err.Error(), "ztunnel") {
		t.Errorf("unknown image: %v", err)
	}
}

func TestFullName(t *testing.T) {
	for in, want := range map[string]string{
		"ambit/echo:v1": "docker.io/ambit/echo:v1", "localhost:5000/echo:v1": "localhost:5000/echo:v1",
		"ghcr.io/a/echo:v1": "ghcr.io/a/echo:v1", "echo:v1": "docker.io/library/echo:v1", "localhost/echo:x": "localhost/echo:x",
	} {
		if got, tag := fullName(in); got != want || !strings.HasSuffix(in, ":"+tag) {
			t.Errorf("%s: %s, %s", in, got, tag)
		}
	}
}
