package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// A file is an entry of a layer: a regular file from disk or memory, a link, or a folder.
type file struct {
	path    string // without leading slash
	mode    int64
	from    string // on disk
	content []byte
	link    string
	dir     bool
}

// fileTime is the time of every file: none that matters, and one that no tool takes for unset.
var fileTime = time.Unix(1, 0).UTC()

// layer is a compressed layer in the work folder.
type layer struct {
	file           string
	Hash, Unpacked v1.Hash
	Bytes          int64
}

func (l *layer) Digest() (v1.Hash, error)            { return l.Hash, nil }
func (l *layer) DiffID() (v1.Hash, error)            { return l.Unpacked, nil }
func (l *layer) Compressed() (io.ReadCloser, error)  { return os.Open(l.file) }
func (l *layer) Size() (int64, error)                { return l.Bytes, nil }
func (l *layer) MediaType() (types.MediaType, error) { return types.OCILayer, nil }
func (l *layer) Uncompressed() (io.ReadCloser, error) {
	f, err := os.Open(l.file)
	if err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{z, f}, nil
}

// makeLayer returns a layer with the files. Compressing is what takes time: a layer of the same content is kept.
func makeLayer(work string, files []file) (*layer, error) {
	files = withFolders(files)
	diff, err := sum(func(w io.Writer) error { return writeTar(w, files) })
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(work, "layers")
	l := &layer{file: filepath.Join(dir, diff.Hex+".tar.gz")}
	note := l.file + ".json"
	if raw, err := os.ReadFile(note); err == nil && json.Unmarshal(raw, l) == nil {
		if info, err := os.Stat(l.file); err == nil && info.Size() == l.Bytes && l.Unpacked == diff {
			return l, used(l.file)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := l.compress(files); err != nil {
		return nil, fmt.Errorf("compress a layer: %w", err)
	}
	if l.Unpacked != diff {
		return nil, fmt.Errorf("the files of a layer changed while it was made: run it again")
	}
	raw, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	return l, writeFile(note, raw)
}

// used marks a layer as one that is needed, for prune.
func used(file string) error {
	now := time.Now()
	return os.Chtimes(file, now, now)
}

// prune removes the layers that were not needed for the longest time, until the rest has at most so many bytes.
func prune(work string, most int64) error {
	files, err := filepath.Glob(filepath.Join(work, "layers", "*.tar.gz"))
	if err != nil {
		return err
	}
	infos := map[string]os.FileInfo{}
	for _, f := range files {
		if infos[f], err = os.Stat(f); err != nil {
			return err
		}
	}
	slices.SortFunc(files, func(a, b string) int { return infos[b].ModTime().Compare(infos[a].ModTime()) })
	var sum int64
	for _, f := range files {
		if sum += infos[f].Size(); sum <= most {
			continue
		}
		if err := os.Remove(f); err != nil {
			return err
		}
		_ = os.Remove(f + ".json") // a layer of a base has none, and without its layer it means nothing
	}
	return nil
}

// compress writes the layer's file and learns its digests.
func (l *layer) compress(files []file) error {
	f, err := os.CreateTemp(filepath.Dir(l.file), ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	packed, plain := &counter{hash: sha256.New()}, &counter{hash: sha256.New()}
	z := gzip.NewWriter(io.MultiWriter(f, packed))
	if err := writeTar(io.MultiWriter(z, plain), files); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	l.Hash, l.Unpacked, l.Bytes = packed.sum(), plain.sum(), packed.n
	return os.Rename(f.Name(), l.file)
}

// counter hashes and counts what is written to it.
type counter struct {
	hash hash.Hash
	n    int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.hash.Write(p)
}

func (c *counter) sum() v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(c.hash.Sum(nil))}
}

func sum(write func(io.Writer) error) (v1.Hash, error) {
	c := &counter{hash: sha256.New()}
	err := write(c)
	return c.sum(), err
}

// withFolders sorts the files and adds the folders they lie in.
func withFolders(files []file) []file {
	all := map[string]file{}
	for _, f := range files {
		all[f.path] = f
	}
	for _, f := range files {
		for dir := path.Dir(f.path); dir != "."; dir = path.Dir(dir) {
			if _, ok := all[dir]; !ok {
				all[dir] = file{path: dir, mode: 0o755, dir: true}
			}
		}
	}
	var out []file
	for _, f := range all {
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b file) int { return strings.Compare(a.path, b.path) })
	return out
}

// writeTar writes files that are owned by root and have no time.
func writeTar(w io.Writer, files []file) error {
	t := tar.NewWriter(w)
	for _, f := range files {
		h := &tar.Header{Name: f.path, Mode: f.mode, ModTime: fileTime, Format: tar.FormatPAX, Typeflag: tar.TypeReg}
		var content io.Reader = bytes.NewReader(f.content)
		switch {
		case f.dir:
			h.Typeflag, h.Name = tar.TypeDir, f.path+"/"
		case f.link != "":
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.link, 0o777
		case f.from != "":
			disk, err := os.Open(f.from)
			if err != nil {
				return err
			}
			defer disk.Close() // a few per layer
			info, err := disk.Stat()
			if err != nil {
				return err
			}
			h.Size, content = info.Size(), disk
		default:
			h.Size = int64(len(f.content))
		}
		if err := t.WriteHeader(h); err != nil {
			return fmt.Errorf("%s: %w", f.path, err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if _, err := io.Copy(t, content); err != nil {
			return fmt.Errorf("%s: %w", f.path, err)
		}
	}
	return t.Close()
}
