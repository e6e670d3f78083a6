package images

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// base returns the user's image that an image with Envoy is put on, or nil when there is none.
func (b *builder) base(ctx context.Context, image Image, p v1.Platform, list *contents) (v1.Image, error) {
	if b.Base == "" || !image.Envoy {
		return nil, nil
	}
	found, err := findBase(ctx, b.Base, p)
	if err != nil {
		return nil, fmt.Errorf("base %s: %w", b.Base, err)
	}
	if err := has(found, strings.TrimPrefix(programs, "/")+"envoy"); err != nil {
		return nil, fmt.Errorf("base %s: %w", b.Base, err)
	}
	layers, err := found.Layers()
	if err != nil {
		return nil, err
	}
	img := blank()
	for _, l := range layers {
		kept, err := keep(b.Work, l)
		if err != nil {
			return nil, fmt.Errorf("base %s: %w", b.Base, err)
		}
		if img, err = mutate.Append(img, mutate.Addendum{Layer: kept, History: v1.History{CreatedBy: "base " + b.Base}}); err != nil {
			return nil, err
		}
	}
	digest, err := found.Digest()
	if err != nil {
		return nil, err
	}
	list.add(imageID, "CONTAINS", spdxPackage{
		Name: b.Base, Version: digest.String(), Purpose: "CONTAINER", Comment: "the image below; what is in it is its maker's to say",
	}, "")
	return img, nil
}

// findBase looks in a folder that is an OCI layout, or else asks a registry with the user's credentials.
func findBase(ctx context.Context, ref string, p v1.Platform) (v1.Image, error) {
	if _, err := os.Stat(filepath.Join(ref, "index.json")); err == nil {
		index, err := layout.ImageIndexFromPath(ref)
		if err != nil {
			return nil, err
		}
		return forPlatform(index, p, 3)
	}
	n, err := name.ParseReference(ref)
	if err != nil {
		return nil, fmt.Errorf("it is neither a reference nor a folder with an OCI layout: %w", err)
	}
	img, err := remote.Image(n, remote.WithContext(ctx), remote.WithPlatform(p), remote.WithAuthFromKeychain(authn.DefaultKeychain))
	if err != nil {
		return nil, err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	if cfg.OS != p.OS || cfg.Architecture != p.Architecture {
		return nil, fmt.Errorf("it is for %s/%s, not %s", cfg.OS, cfg.Architecture, p.String())
	}
	return img, nil
}

// forPlatform descends into indexes, as deep as anybody nests them.
func forPlatform(index v1.ImageIndex, p v1.Platform, depth int) (v1.Image, error) {
	m, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	for _, d := range m.Manifests {
		switch {
		case d.MediaType.IsIndex() && depth > 0:
			below, err := index.ImageIndex(d.Digest)
			if err != nil {
				return nil, err
			}
			if img, err := forPlatform(below, p, depth-1); err == nil {
				return img, nil
			}
		case d.MediaType.IsImage():
			img, err := index.Image(d.Digest)
			if err != nil {
				return nil, err
			}
			cfg, err := img.ConfigFile()
			if err == nil && cfg.OS == p.OS && cfg.Architecture == p.Architecture {
				return img, nil
			}
		}
	}
	return nil, fmt.Errorf("it has no image for %s", p.String())
}

// has makes sure that a file is in the image.
func has(img v1.Image, file string) error {
	r := mutate.Extract(img)
	defer r.Close()
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("it has no /%s", file)
		} else if err != nil {
			return err
		}
		if strings.TrimPrefix(path.Clean("/"+h.Name), "/") == file {
			return nil
		}
	}
}

// keep copies a layer into the work folder, so that every layer of an image is of one kind and fetched once.
func keep(work string, l v1.Layer) (v1.Layer, error) {
	digest, err := l.Digest()
	if err != nil {
		return nil, err
	}
	diff, err := l.DiffID()
	if err != nil {
		return nil, err
	}
	size, err := l.Size()
	if err != nil {
		return nil, err
	}
	if kind, err := l.MediaType(); err != nil || kind != types.DockerLayer && kind != types.OCILayer {
		return nil, errors.Join(err, fmt.Errorf("layer %s is of kind %s; those with gzip are supported", digest, kind))
	}
	dir := filepath.Join(work, "layers")
	kept := &layer{file: filepath.Join(dir, digest.Hex+".base.tar.gz"), Hash: digest, Unpacked: diff, Bytes: size}
	if verify(kept.file, digest.Hex) == nil {
		return kept, used(kept.file)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	from, err := l.Compressed()
	if err != nil {
		return nil, err
	}
	defer from.Close()
	to, err := os.Create(kept.file)
	if err != nil {
		return nil, err
	}
	defer to.Close()
	if _, err := io.Copy(to, from); err != nil {
		return nil, err
	}
	if err := to.Close(); err != nil {
		return nil, err
	}
	return kept, verify(kept.file, digest.Hex)
}
