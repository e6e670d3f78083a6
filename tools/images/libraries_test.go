package images

import (
	"bytes"
	"debug/elf"
	"os"
	"path"
	"path/filepath"
	"slices"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Every library that a program or library in an image asks for is in that image, the loader included: what is missing would
// show on a node, at the first call of that one extension.
func TestLibrariesAreThere(t *testing.T) {
	if _, err := os.Stat(aptHelper); err != nil {
		t.Skip("no apt on this machine")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = t.TempDir()
	}
	for _, arch := range []string{"amd64", "arm64"} {
		for _, image := range Catalog() {
			if image.Debian == nil {
				continue
			}
			t.Run(image.Name+"/"+arch, func(t *testing.T) {
				b := &builder{Options: options(t, t.TempDir()), debian: newDebian(filepath.Join(cache, "ambit", "debian"), false, t.Output())}
				p := v1.Platform{OS: "linux", Architecture: arch}
				image.Envoy = image.Envoy && arch == here.Architecture // the other one is a large download
				groups, err := b.foundation(t.Context(), image, p, &contents{image: image, platform: p})
				if err != nil {
					t.Fatal(err)
				}
				files := slices.Concat(groups...)
				checkLibraries(t, files)
			})
		}
	}
}

func checkLibraries(t *testing.T, files []file) {
	t.Helper()
	names, paths, programs := map[string]bool{}, map[string]bool{}, 0
	for _, f := range files {
		names[path.Base(f.path)], paths["/"+f.path] = true, true
	}
	for _, f := range files {
		content := f.content
		if f.from != "" {
			var err error
			if content, err = os.ReadFile(f.from); err != nil {
				t.Fatal(err)
			}
		}
		e, err := elf.NewFile(bytes.NewReader(content))
		if err != nil {
			continue // a link, a script, a text
		}
		programs++
		needed, err := e.ImportedLibraries()
		if err != nil {
			t.Errorf("%s: %v", f.path, err)
		}
		for _, lib := range needed {
			if !names[lib] {
				t.Errorf("%s asks for %s, which is not in the image", f.path, lib)
			}
		}
		for _, prog := range e.Progs {
			if prog.Type != elf.PT_INTERP {
				continue
			}
			loader := make([]byte, prog.Filesz-1)
			if _, err := prog.ReadAt(loader, 0); err != nil {
				t.Fatal(err)
			}
			if !paths[string(loader)] {
				t.Errorf("%s is started by %s, which is not in the image", f.path, loader)
			}
		}
	}
	if programs < 3 {
		t.Errorf("only %d programs and libraries were looked at", programs)
	}
}
