package images

import (
	"io"
	"log"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// A waypoint on an image with an Envoy of the user's registry, which has layers of docker's kind.
func TestOnABase(t *testing.T) {
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer srv.Close()
	ref, err := name.ParseReference(strings.TrimPrefix(srv.URL, "http://") + "/envoy:v1")
	if err != nil {
		t.Fatal(err)
	}
	l, err := makeLayer(t.TempDir(), []file{{path: "usr/local/bin/envoy", mode: 0o755, content: []byte("#!/bin/sh\n")}})
	if err != nil {
		t.Fatal(err)
	}
	base, err := mutate.Append(blank(), mutate.Addendum{Layer: l, MediaType: types.DockerLayer})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := base.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = here.OS, here.Architecture
	if base, err = mutate.ConfigFile(base, cfg); err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, base); err != nil {
		t.Fatal(err)
	}
	o := options(t, t.TempDir())
	o.Only, o.Base = []string{"waypoint"}, ref.Name()
	r := build(t, o)[0]
	index, _ := layoutOf(t, r.Path)
	img, err := forPlatform(index, here, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
	names := filesOf(t, img)
	if !slices.Contains(names, "usr/local/bin/envoy") || !slices.Contains(names, "usr/local/bin/ambit-waypoint") || slices.Contains(names, "lib64/ld-linux-x86-64.so.2") {
		t.Errorf("files: %v", names)
	}
	o.Platforms = []v1.Platform{{OS: "linux", Architecture: "s390x"}}
	if _, err := findBase(t.Context(), o.Base, o.Platforms[0]); err == nil {
		t.Error("a base of another architecture is taken")
	}
	if err := has(base, "usr/bin/other"); err == nil {
		t.Error("a file that is not there was found")
	}
}
