package images

import (
	"context"
	"path"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// A part is an image for one platform, and the list of what is in it.
type part struct {
	platform v1.Platform
	image    v1.Image
	sbom     []byte
}

// assemble makes the layers of an image, those that change least first, and its configuration.
func (b *builder) assemble(ctx context.Context, image Image, p v1.Platform) (part, error) {
	list := &contents{image: image, platform: p, version: b.Version, made: b.Time}
	img, err := b.base(ctx, image, p, list)
	if err != nil {
		return part{}, err
	}
	var groups [][]file
	if img == nil {
		img = blank()
		groups, err = b.foundation(ctx, image, p, list)
		if err != nil {
			return part{}, err
		}
	}
	var own []file
	for _, prog := range image.Programs {
		f := file{path: strings.TrimPrefix(prog.Path, "/"), mode: 0o755, from: b.program(p, prog)}
		if err := list.program(f); err != nil {
			return part{}, err
		}
		own = append(own, f)
		for _, l := range prog.Links {
			own = append(own, file{path: strings.TrimPrefix(l, "/"), link: prog.Path})
		}
	}
	groups = append(groups, own)
	for _, files := range groups {
		l, err := makeLayer(b.Work, files)
		if err != nil {
			return part{}, err
		}
		if img, err = mutate.Append(img, mutate.Addendum{Layer: l, History: v1.History{
			Created: v1.Time{Time: b.Time}, CreatedBy: "ambit tools/images", Comment: comment(files),
		}}); err != nil {
			return part{}, err
		}
	}
	if img, err = b.configure(img, image, p); err != nil {
		return part{}, err
	}
	out := part{platform: p, image: img}
	out.sbom, err = list.spdx(img)
	return out, err
}

// foundation returns what lies below the programs: accounts and authorities, packages, Envoy.
func (b *builder) foundation(ctx context.Context, image Image, p v1.Platform, list *contents) ([][]file, error) {
	first := accounts()
	if image.Roots {
		files, pin, err := b.debian.take(ctx, Take{"ca-certificates", []string{"usr/share/ca-certificates/mozilla/*.crt"}}, p.Architecture)
		if err != nil {
			return nil, err
		}
		list.debian(pin)
		first = append(first, bundle(files)...)
	}
	groups := [][]file{first}
	var packages []file
	for _, t := range image.Debian {
		files, pin, err := b.debian.take(ctx, t, p.Architecture)
		if err != nil {
			return nil, err
		}
		list.debian(pin)
		packages = append(packages, files...)
	}
	if packages != nil {
		groups = append(groups, packages)
	}
	if image.Envoy {
		from, err := b.envoy(ctx, p)
		if err != nil {
			return nil, err
		}
		f := file{path: strings.TrimPrefix(programs, "/") + "envoy", mode: 0o755, from: from}
		if err := list.envoy(f); err != nil {
			return nil, err
		}
		groups = append(groups, []file{f})
	}
	return groups, nil
}

// accounts are the files that programs look for, whoever they run as.
func accounts() []file {
	text := func(path, content string) file { return file{path: path, mode: 0o644, content: []byte(content)} }
	return []file{
		text("etc/passwd", "root:x:0:0:root:/root:/sbin/nologin\nistio-proxy:x:1337:1337:proxy:/nonexistent:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n"),
		text("etc/group", "root:x:0:\nistio-proxy:x:1337:\nnonroot:x:65532:\n"),
		text("etc/nsswitch.conf", "hosts: files dns\n"),
		{path: "home/nonroot", mode: 0o755, dir: true},
		{path: "tmp", mode: 0o1777, dir: true},
	}
}

// bundle makes one file of the authorities, where Go and Envoy look for it. The package does so when it is installed.
func bundle(files []file) []file {
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.path, b.path) })
	all := file{path: "etc/ssl/certs/ca-certificates.crt", mode: 0o644}
	var out []file
	for _, f := range files {
		if path.Ext(f.path) == ".crt" {
			all.content = append(all.content, f.content...)
		} else {
			out = append(out, f)
		}
	}
	return append(out, all)
}

func (b *builder) configure(img v1.Image, image Image, p v1.Platform) (v1.Image, error) {
	old, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg := old.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Variant = p.OS, p.Architecture, p.Variant
	cfg.Created = v1.Time{Time: b.Time}
	cfg.Config.User = image.User
	cfg.Config.Entrypoint, cfg.Config.Cmd = []string{image.Programs[0].Path}, nil
	cfg.Config.WorkingDir = "/"
	cfg.Config.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, image.Env...)
	cfg.Config.Labels = map[string]string{
		"org.opencontainers.image.title":       title(image),
		"org.opencontainers.image.description": image.Text,
		"org.opencontainers.image.version":     b.Version,
		"org.opencontainers.image.created":     b.Time.Format(time.RFC3339),
		"org.opencontainers.image.source":      source,
		"org.opencontainers.image.licenses":    "Apache-2.0",
	}
	if b.Revision != "" {
		cfg.Config.Labels["org.opencontainers.image.revision"] = b.Revision
	}
	return mutate.ConfigFile(img, cfg)
}

const source = "https://github.com/ambit-mesh/ambit"

func title(image Image) string {
	if strings.HasPrefix(image.Name, "ambit") {
		return image.Name
	}
	return "ambit " + image.Name
}

// blank is an image without layers.
func blank() v1.Image {
	return mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
}

func comment(files []file) string {
	names := make([]string, 0, 3)
	for _, f := range files {
		if !f.dir && len(names) < 3 {
			names = append(names, f.path)
		}
	}
	return strings.Join(names, " ")
}
