// Package archive writes container images in the form that `docker load` and `ctr images import` read, as a stream: nothing is
// kept in memory but what the caller holds, and layers that several images share are written once.
//
// It knows no registry, compresses nothing (archives go through a pipe or lie on the machine that made them) and starts no
// goroutines. Start reading at Write. Images that are to be published are made by tools/images.
package archive

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

// An Image is what the archive holds under its names.
type Image struct {
	// Names are complete references, such as registry.k8s.io/pause:3.10.
	Names      []string
	Layers     []*Layer
	Env        []string
	Entrypoint []string
	Arch       string
}

// A Layer is the path of a tar file, or files to make one of.
type Layer struct {
	Tar   string
	Files []File

	digest string
	size   int64
}

// A File of a layer: content in memory, a file on this machine, a symbolic link, or a folder when all of these are empty.
type File struct {
	Path    string // absolute
	Mode    int64
	Content []byte
	From    string
	Link    string
}

// Write writes an archive of the images.
func Write(w io.Writer, images ...Image) error {
	out := tar.NewWriter(w)
	written := map[string]bool{}
	type entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	var manifest []entry
	for _, image := range images {
		e := entry{RepoTags: image.Names}
		for _, l := range image.Layers {
			if err := l.measure(); err != nil {
				return err
			}
			name := l.digest + ".tar"
			e.Layers = append(e.Layers, name)
			if written[name] {
				continue
			}
			written[name] = true
			if err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: l.size}); err != nil {
				return err
			}
			if err := l.write(out); err != nil {
				return err
			}
		}
		config, err := image.config()
		if err != nil {
			return err
		}
		sum := sha256.Sum256(config)
		e.Config = hex.EncodeToString(sum[:]) + ".json"
		if !written[e.Config] {
			written[e.Config] = true
			if err := put(out, e.Config, config); err != nil {
				return err
			}
		}
		manifest = append(manifest, e)
	}
	raw, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	if err := put(out, "manifest.json", raw); err != nil {
		return err
	}
	return out.Close()
}

func put(out *tar.Writer, name string, content []byte) error {
	if err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
		return err
	}
	_, err := out.Write(content)
	return err
}

// config is the image's configuration as the OCI image specification has it.
func (i Image) config() ([]byte, error) {
	type object map[string]any
	var diffs []string
	var history []object
	for _, l := range i.Layers {
		diffs = append(diffs, "sha256:"+l.digest)
		history = append(history, object{"created": "1970-01-01T00:00:01Z", "created_by": "tools/kind"})
	}
	return json.Marshal(object{
		"architecture": i.Arch, "os": "linux", "created": "1970-01-01T00:00:01Z",
		"config":  object{"Env": i.Env, "Entrypoint": i.Entrypoint},
		"rootfs":  object{"type": "layers", "diff_ids": diffs},
		"history": history,
	})
}

// measure finds digest and size by writing the layer to nowhere.
func (l *Layer) measure() error {
	if l.digest != "" {
		return nil
	}
	hash := sha256.New()
	count := &counter{}
	if err := l.write(io.MultiWriter(hash, count)); err != nil {
		return err
	}
	l.digest, l.size = hex.EncodeToString(hash.Sum(nil)), count.n
	return nil
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

func (l *Layer) write(w io.Writer) error {
	if l.Tar != "" {
		f, err := os.Open(l.Tar)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(w, f)
		return err
	}
	return Tar(w, l.Files)
}

// Tar writes files, and the folders they lie in, as a tar file. All belong to root.
func Tar(w io.Writer, files []File) error {
	out := tar.NewWriter(w)
	folders := map[string]bool{"/": true, ".": true}
	for _, f := range files {
		if err := parents(out, folders, path.Dir(f.Path)); err != nil {
			return err
		}
		if f.Link == "" && f.From == "" && f.Content == nil {
			if err := parents(out, folders, f.Path); err != nil {
				return err
			}
			continue
		}
		if err := f.write(out); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	return out.Close()
}

func parents(out *tar.Writer, folders map[string]bool, dir string) error {
	if folders[dir] {
		return nil
	}
	if err := parents(out, folders, path.Dir(dir)); err != nil {
		return err
	}
	folders[dir] = true
	mode := int64(0o755)
	if dir == "/tmp" {
		mode = 0o1777
	}
	return out.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimPrefix(dir, "/") + "/", Mode: mode})
}

func (f File) write(out *tar.Writer) error {
	header := &tar.Header{Name: strings.TrimPrefix(f.Path, "/"), Mode: f.Mode}
	var content io.Reader = bytes.NewReader(f.Content)
	switch {
	case f.Link != "":
		header.Typeflag, header.Linkname, header.Mode = tar.TypeSymlink, f.Link, 0o777
	case f.From != "":
		in, err := os.Open(f.From)
		if err != nil {
			return err
		}
		defer in.Close()
		info, err := in.Stat()
		if err != nil {
			return err
		}
		header.Size, content = info.Size(), in
	default:
		header.Size = int64(len(f.Content))
	}
	if err := out.WriteHeader(header); err != nil {
		return err
	}
	_, err := io.Copy(out, content)
	return err
}
