package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Options of a build.
type Options struct {
	// Root is the repository.
	Root string
	// Out is where the archives go. Work, by default a hidden folder in it, keeps programs, packages and layers between runs.
	Out, Work string
	// Hub is the part of an image's name before its last slash.
	Hub string
	// Version is told to the programs and is the first tag. Tags are further ones.
	Version string
	Tags    []string
	// Platforms are those of every image.
	Platforms []v1.Platform
	// Time is when the images say they were made.
	Time time.Time
	// Revision is the commit they were made of.
	Revision string
	// Only names images; empty means all.
	Only []string
	// Base is an image with an Envoy, as reference or folder of an OCI layout, that the waypoint image is put on, instead
	// of one made of the pinned packages.
	Base string
	// Locked refuses a Debian package that is not the pinned one, even if the archive of the distribution signs for it.
	Locked bool
	// Log gets a line for what was done.
	Log io.Writer
}

// A Result is an archive that was made, or that was there already.
type Result struct {
	Image  Image
	Path   string
	Names  []string
	Digest v1.Hash
	Size   int64
	// Fresh is false when the archive of the last run was still right.
	Fresh bool
}

// Build makes the archives.
func Build(ctx context.Context, o Options) ([]Result, error) {
	chosen, err := choose(o.Only)
	if err != nil {
		return nil, err
	}
	if o.Work == "" {
		o.Work = filepath.Join(o.Out, ".work")
	}
	if len(o.Platforms) == 0 {
		return nil, errors.New("no platform is named: write linux/amd64, linux/arm64, or both")
	}
	for _, dir := range []string{o.Out, o.Work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("make the folder of the images: %w", err)
		}
	}
	unlock, err := lock(ctx, filepath.Join(o.Work, ".lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	b := &builder{Options: o, debian: newDebian(filepath.Join(o.Work, "debian"), o.Locked, o.Log)}
	for _, p := range o.Platforms {
		if err := b.compile(ctx, p, chosen); err != nil {
			return nil, err
		}
	}
	var out []Result
	for _, image := range chosen {
		r, err := b.build(ctx, image)
		if err != nil {
			return out, fmt.Errorf("image %s: %w", image.Name, err)
		}
		out = append(out, r)
	}
	if err := prune(o.Work, keptBytes); err != nil {
		return out, fmt.Errorf("clear away old layers: %w", err)
	}
	return out, nil
}

// keptBytes of layers are kept between runs: twice what all images for both platforms need.
const keptBytes = 512 << 20

// lock waits for whoever builds in the same folder.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the work folder: %w", err)
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("another build holds %s: %w", path, ctx.Err())
		case <-tick.C:
		}
	}
}

// builder has what the images of one run share.
type builder struct {
	Options
	debian *debian
}

func choose(only []string) ([]Image, error) {
	all := Catalog()
	if len(only) == 0 {
		return all, nil
	}
	var out []Image
	for _, n := range only {
		i := slices.IndexFunc(all, func(im Image) bool { return im.Name == n })
		if i < 0 {
			var names []string
			for _, im := range all {
				names = append(names, im.Name)
			}
			return nil, fmt.Errorf("there is no image %q; there are %s", n, strings.Join(names, ", "))
		}
		out = append(out, all[i])
	}
	return out, nil
}

// names returns what the image is called, as a user writes it: the version first.
func (b *builder) names(image Image) ([]string, error) {
	var out []string
	for _, tag := range append([]string{b.Version}, b.Tags...) {
		n := b.Hub + "/" + image.Name + ":" + tag
		if _, err := name.NewTag(n, name.WeakValidation); err != nil {
			return nil, fmt.Errorf("%q cannot be its name: %w; choose another hub or version", n, err)
		}
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out, nil
}

// build makes one archive, unless the one that is there has the same content and names.
func (b *builder) build(ctx context.Context, image Image) (Result, error) {
	names, err := b.names(image)
	if err != nil {
		return Result{}, err
	}
	var parts []part
	for _, p := range b.Platforms {
		one, err := b.assemble(ctx, image, p)
		if err != nil {
			return Result{}, fmt.Errorf("%s: %w", p.String(), err)
		}
		parts = append(parts, one)
		beside := filepath.Join(b.Out, fmt.Sprintf("%s-%s.spdx.json", image.Name, p.Architecture))
		if err := writeFile(beside, one.sbom); err != nil {
			return Result{}, err
		}
	}
	r := Result{Image: image, Names: names, Path: filepath.Join(b.Out, image.Name+".tar")}
	a, err := newArchive(parts, names)
	if err != nil {
		return Result{}, err
	}
	r.Digest = a.digest
	if r.Fresh, err = a.write(r.Path); err != nil {
		return Result{}, err
	}
	info, err := os.Stat(r.Path)
	if err != nil {
		return Result{}, err
	}
	r.Size = info.Size()
	return r, nil
}

// writeFile replaces a file in one step, and leaves it alone when it has the content already.
func writeFile(path string, content []byte) error {
	if old, err := os.ReadFile(path); err == nil && string(old) == string(content) {
		return nil
	}
	if err := os.WriteFile(path+".new", content, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
