package images

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// An archive is the content of a file that is two things at once: a tar of an OCI image layout, and one that
// `docker load` of any age reads (manifest.json, of the machine's own platform if there are several).
type archive struct {
	digest v1.Hash
	// blobs by digest, and the small files in front of them.
	blobs map[v1.Hash]func() (io.ReadCloser, error)
	sizes map[v1.Hash]int64
	head  []file
}

// newArchive collects an index of the image of every platform, and of its list of contents.
func newArchive(parts []part, names []string) (*archive, error) {
	a := &archive{blobs: map[v1.Hash]func() (io.ReadCloser, error){}, sizes: map[v1.Hash]int64{}}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	var attested []mutate.IndexAddendum
	for _, p := range parts {
		desc, err := a.image(p.image)
		if err != nil {
			return nil, err
		}
		platform := p.platform
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: p.image, Descriptor: v1.Descriptor{Platform: &platform}})
		add, err := a.attest(p, desc)
		if err != nil {
			return nil, err
		}
		attested = append(attested, add)
	}
	index = mutate.AppendManifests(index, attested...)
	raw, err := index.RawManifest()
	if err != nil {
		return nil, err
	}
	if a.digest, err = index.Digest(); err != nil {
		return nil, err
	}
	a.bytes(a.digest, raw)
	return a, a.front(parts, names, int64(len(raw)))
}

// image adds the blobs of an image.
func (a *archive) image(img v1.Image) (v1.Hash, error) {
	digest, err := img.Digest()
	if err != nil {
		return digest, err
	}
	manifest, err := img.RawManifest()
	if err != nil {
		return digest, err
	}
	a.bytes(digest, manifest)
	config, err := img.RawConfigFile()
	if err != nil {
		return digest, err
	}
	name, err := img.ConfigName()
	if err != nil {
		return digest, err
	}
	a.bytes(name, config)
	layers, err := img.Layers()
	if err != nil {
		return digest, err
	}
	for _, l := range layers {
		h, err := l.Digest()
		if err != nil {
			return digest, err
		}
		if a.sizes[h], err = l.Size(); err != nil {
			return digest, err
		}
		a.blobs[h] = l.Compressed
	}
	return digest, nil
}

func (a *archive) bytes(h v1.Hash, content []byte) {
	a.sizes[h] = int64(len(content))
	a.blobs[h] = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
}

// attest makes the image that carries a list of contents, in the form in which build tools of Docker attach and find it:
// an in-toto statement in the same index, of platform unknown so that nobody runs it
// (https://github.com/moby/buildkit/blob/master/docs/attestations/attestation-storage.md).
func (a *archive) attest(p part, of v1.Hash) (mutate.IndexAddendum, error) {
	statement, err := json.Marshal(map[string]any{
		"_type":         "https://in-toto.io/Statement/v0.1",
		"predicateType": "https://spdx.dev/Document",
		"subject":       []any{map[string]any{"name": "_", "digest": map[string]string{"sha256": of.Hex}}},
		"predicate":     json.RawMessage(p.sbom),
	})
	if err != nil {
		return mutate.IndexAddendum{}, err
	}
	img, err := mutate.Append(blank(), mutate.Addendum{
		Layer:       static.NewLayer(statement, "application/vnd.in-toto+json"),
		Annotations: map[string]string{"in-toto.io/predicate-type": "https://spdx.dev/Document"},
	})
	if err != nil {
		return mutate.IndexAddendum{}, err
	}
	old, err := img.ConfigFile()
	if err != nil {
		return mutate.IndexAddendum{}, err
	}
	cfg := old.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.History = "unknown", "unknown", nil
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		return mutate.IndexAddendum{}, err
	}
	if _, err := a.image(img); err != nil {
		return mutate.IndexAddendum{}, err
	}
	return mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{
		Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"},
		Annotations: map[string]string{
			"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": of.String(),
		},
	}}, nil
}

// front makes the files that lead to the blobs.
func (a *archive) front(parts []part, names []string, size int64) error {
	layout := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	for _, n := range names {
		full, tag := fullName(n)
		layout.Manifests = append(layout.Manifests, v1.Descriptor{
			MediaType: types.OCIImageIndex, Digest: a.digest, Size: size,
			// The first is what containerd calls the image, the second what the layout's specification asks for.
			Annotations: map[string]string{"io.containerd.image.name": full, "org.opencontainers.image.ref.name": tag},
		})
	}
	own := slices.IndexFunc(parts, func(p part) bool { return p.platform.Architecture == runtime.GOARCH })
	image := parts[max(own, 0)].image
	config, err := image.ConfigName()
	if err != nil {
		return err
	}
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	var paths []string
	for _, l := range layers {
		h, err := l.Digest()
		if err != nil {
			return err
		}
		paths = append(paths, blobPath(h))
	}
	for _, f := range []struct {
		name    string
		content any
	}{
		{"oci-layout", map[string]string{"imageLayoutVersion": "1.0.0"}},
		{"index.json", layout},
		{"manifest.json", []any{map[string]any{"Config": blobPath(config), "RepoTags": names, "Layers": paths}}},
	} {
		raw, err := json.Marshal(f.content)
		if err != nil {
			return err
		}
		a.head = append(a.head, file{path: f.name, mode: 0o644, content: raw})
	}
	return nil
}

func blobPath(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

// fullName is what containerd calls a name of docker's short form, and its tag.
func fullName(n string) (full, tag string) {
	repo, tag, _ := cutLast(n, ":")
	host, _, more := strings.Cut(repo, "/")
	switch {
	case !more:
		repo = "docker.io/library/" + repo
	case !strings.ContainsAny(host, ".:") && host != "localhost":
		repo = "docker.io/" + repo
	}
	return repo + ":" + tag, tag
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// write makes the file, unless it begins as this one would: the index in front names everything that follows by its hash.
func (a *archive) write(path string) (fresh bool, err error) {
	var begin bytes.Buffer
	if err := writeTar(&begin, a.head); err != nil {
		return false, err
	}
	begin.Truncate(begin.Len() - 1024) // the end of a tar archive, tar(5): two empty blocks
	if a.there(path, begin.Bytes()) {
		return false, nil
	}
	f, err := os.Create(path + ".new")
	if err != nil {
		return false, err
	}
	defer os.Remove(path + ".new")
	defer f.Close()
	if _, err := f.Write(begin.Bytes()); err != nil {
		return false, err
	}
	t := tar.NewWriter(f)
	for _, h := range a.order() {
		if err := a.blob(t, h); err != nil {
			return false, fmt.Errorf("write %s: %w", path, err)
		}
	}
	if err := errors.Join(t.Close(), f.Close()); err != nil {
		return false, fmt.Errorf("write %s: %w", path, err)
	}
	return true, os.Rename(path+".new", path)
}

// there reports whether the file has this beginning and the length that follows from it.
func (a *archive) there(path string, begin []byte) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	got := make([]byte, len(begin))
	if _, err := io.ReadFull(f, got); err != nil || !bytes.Equal(got, begin) {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Size() > int64(len(begin)) // it is renamed into place when it is whole
}

func (a *archive) order() []v1.Hash {
	var out []v1.Hash
	for h := range a.blobs {
		out = append(out, h)
	}
	slices.SortFunc(out, func(x, y v1.Hash) int { return strings.Compare(x.Hex, y.Hex) })
	return out
}

func (a *archive) blob(t *tar.Writer, h v1.Hash) error {
	r, err := a.blobs[h]()
	if err != nil {
		return err
	}
	defer r.Close()
	if err := t.WriteHeader(&tar.Header{
		Name: blobPath(h), Mode: 0o644, Size: a.sizes[h], ModTime: fileTime, Format: tar.FormatPAX, Typeflag: tar.TypeReg,
	}); err != nil {
		return err
	}
	_, err = io.Copy(t, r)
	return err
}
