package images

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Repin returns debian.pins with the packages that the archive of the distribution has now.
func Repin(ctx context.Context, work string) ([]byte, error) {
	pins, err := Pins()
	if err != nil {
		return nil, err
	}
	d := newDebian(filepath.Join(work, "debian"), true, os.Stderr)
	var out bytes.Buffer
	for line := range strings.Lines(pinned) {
		if strings.HasPrefix(line, "#") {
			out.WriteString(line)
		}
	}
	for _, p := range pins {
		arch := p.Arch
		if arch == "all" {
			arch = "amd64"
		}
		now, err := d.current(ctx, p.Package, arch)
		if err != nil {
			return nil, err
		}
		fmt.Fprintln(&out, now.Package, now.Version, now.Arch, now.SHA256, now.File)
	}
	return out.Bytes(), nil
}

// current returns the newest version of a package that apt's archives have, for whatever architecture, by lists of our own:
// those of the machine have its own architectures only, and may be old.
func (d *debian) current(ctx context.Context, name, arch string) (Pin, error) {
	lists, err := filepath.Abs(filepath.Join(d.dir, "lists-"+arch))
	if err != nil {
		return Pin{}, err
	}
	settings := []string{
		"-o", "Dir::State::Lists=" + lists, "-o", "Dir::Cache=" + lists, "-o", "Dir::State::status=/dev/null",
		"-o", "APT::Architecture=" + arch, "-o", "APT::Architectures::=" + arch, "-o", "APT::Sandbox::User=" + os.Getenv("USER"),
	}
	if !slices.Contains(d.updated, arch) {
		if err := os.MkdirAll(filepath.Join(lists, "partial"), 0o755); err != nil {
			return Pin{}, err
		}
		if out, err := exec.CommandContext(ctx, "apt-get", append(settings, "-q", "update")...).CombinedOutput(); err != nil {
			return Pin{}, fmt.Errorf("ask the archive for its packages: %w\n%s", err, out)
		}
		d.updated = append(d.updated, arch)
	}
	out, err := exec.CommandContext(ctx, "apt-cache", append(settings, "show", "--no-all-versions", name)...).Output()
	if err != nil {
		return Pin{}, fmt.Errorf("ask the archive for %s (%s): %w", name, arch, err)
	}
	p := Pin{Package: name}
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch key {
		case "Version":
			p.Version = value
		case "Architecture":
			p.Arch = value
		case "Filename":
			p.File = value
		case "SHA256":
			p.SHA256 = value
		case "Origin":
			p.Origin = value
		}
	}
	if p.Version == "" || p.SHA256 == "" || p.File == "" {
		return Pin{}, fmt.Errorf("the archive does not say enough of %s (%s): %q", name, arch, out)
	}
	return p, nil
}
