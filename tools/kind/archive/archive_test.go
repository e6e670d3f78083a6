package archive

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// entries reads a tar file: regular files by content, folders as "dir", links as "-> target".
func entries(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	out := map[string]string{}
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		if _, twice := out[h.Name]; twice {
			t.Errorf("%s is there twice", h.Name)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			out[h.Name] = "dir"
		case tar.TypeSymlink:
			out[h.Name] = "-> " + h.Linkname
		default:
			content, err := io.ReadAll(in)
			if err != nil {
				t.Fatal(err)
			}
			out[h.Name] = string(content)
		}
	}
}

// TestWrite: what loads the archive believes the manifest and checks each layer against its digest.
func TestWrite(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(disk, []byte("binary"), 0o755); err != nil {
		t.Fatal(err)
	}
	shared := &Layer{Files: []File{
		{Path: "/usr/bin/a", Mode: 0o755, From: disk}, {Path: "/usr/bin/b", Link: "a"}, {Path: "/etc/empty", Content: []byte{}}, {Path: "/tmp"},
	}}
	var b bytes.Buffer
	err := Write(&b, Image{Names: []string{"example.com/a:1"}, Layers: []*Layer{shared}, Entrypoint: []string{"/usr/bin/a"}, Arch: "amd64"},
		Image{Names: []string{"example.com/b:1"}, Layers: []*Layer{shared, {Files: []File{{Path: "/x", Content: []byte("x")}}}}, Arch: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	got := entries(t, &b)
	var manifest []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal([]byte(got["manifest.json"]), &manifest); err != nil || len(manifest) != 2 {
		t.Fatalf("manifest %q: %v", got["manifest.json"], err)
	}
	if manifest[0].Layers[0] != manifest[1].Layers[0] || manifest[1].RepoTags[0] != "example.com/b:1" {
		t.Errorf("manifest: %+v", manifest)
	}
	for _, m := range manifest {
		var config struct {
			RootFS struct {
				DiffIDs []string `json:"diff_ids"`
			}
		}
		if err := json.Unmarshal([]byte(got[m.Config]), &config); err != nil {
			t.Fatalf("config %s: %v", m.Config, err)
		}
		for i, l := range m.Layers {
			sum := sha256.Sum256([]byte(got[l]))
			if config.RootFS.DiffIDs[i] != "sha256:"+hex.EncodeToString(sum[:]) {
				t.Errorf("layer %s does not match its digest", l)
			}
		}
	}
	inside := entries(t, strings.NewReader(got[manifest[0].Layers[0]]))
	for name, want := range map[string]string{"usr/": "dir", "usr/bin/": "dir", "usr/bin/a": "binary", "usr/bin/b": "-> a", "etc/empty": "", "tmp/": "dir"} {
		if content, ok := inside[name]; !ok || content != want {
			t.Errorf("%s is %q, want %q", name, content, want)
		}
	}
}
