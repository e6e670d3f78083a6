package images

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

//go:embed debian.pins
var pinned string

// A Pin is a Debian package of which nothing is left open.
type Pin struct {
	Package, Version, Arch, SHA256 string
	// File is its path in an archive of the distribution; Debian's security updates lie in an archive of their own.
	File string
	// Origin is the distribution where it is not Debian, as on a machine with Ubuntu, which has no pinned packages.
	Origin string
}

// Pins returns the packages the images take files from.
func Pins() ([]Pin, error) { return parsePins(pinned) }

func parsePins(text string) ([]Pin, error) {
	var out []Pin
	for n, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		f := strings.Fields(line)
		if len(f) != 5 {
			return nil, fmt.Errorf("debian.pins:%d: want PACKAGE VERSION ARCH SHA256 FILE, have %q", n+1, line)
		}
		out = append(out, Pin{Package: f[0], Version: f[1], Arch: f[2], SHA256: f[3], File: f[4]})
	}
	return out, nil
}

// debian gets packages through apt, which knows the user's mirrors and proxies, and keeps them by hash.
type debian struct {
	dir    string
	locked bool
	log    io.Writer
	// mirrors are asked for once, and so are the lists of an architecture.
	mirrors, updated []string
}

func newDebian(dir string, locked bool, log io.Writer) *debian {
	return &debian{dir: dir, locked: locked, log: log}
}

// take returns the chosen files of a package, and which package it was.
func (d *debian) take(ctx context.Context, t Take, arch string) ([]file, Pin, error) {
	pins, err := Pins()
	if err != nil {
		return nil, Pin{}, err
	}
	i := slices.IndexFunc(pins, func(p Pin) bool { return p.Package == t.Package && (p.Arch == arch || p.Arch == "all") })
	if i < 0 {
		return nil, Pin{}, fmt.Errorf("debian.pins has no %s for %s", t.Package, arch)
	}
	pin := pins[i]
	deb, err := d.get(ctx, pin)
	if err != nil {
		if d.locked {
			return nil, pin, err
		}
		newer, nerr := d.current(ctx, t.Package, arch)
		if nerr != nil {
			return nil, pin, errors.Join(err, nerr)
		}
		fmt.Fprintf(d.log, "warning: %s %s is not in the archive any more, taking %s, which it signs for; -update-pins makes that the pinned one\n",
			pin.Package, pin.Version, newer.Version)
		pin = newer
		if deb, err = d.get(ctx, pin); err != nil {
			return nil, pin, err
		}
	}
	files, err := unpack(ctx, deb, append(t.Files, "usr/share/doc/"+t.Package+"/copyright"))
	if err != nil {
		return nil, pin, fmt.Errorf("unpack %s: %w", filepath.Base(deb), err)
	}
	return files, pin, nil
}

// get returns the package's file with exactly the pinned hash.
func (d *debian) get(ctx context.Context, p Pin) (string, error) {
	to := filepath.Join(d.dir, p.SHA256+".deb")
	if verify(to, p.SHA256) == nil {
		return to, nil
	}
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return "", err
	}
	mirrors, err := d.sites(ctx)
	if err != nil {
		return "", err
	}
	var errs []error
	for _, site := range mirrors {
		tmp := to + ".part"
		out, err := exec.CommandContext(ctx, aptHelper, "download-file", site+p.File, tmp, "SHA256:"+p.SHA256).CombinedOutput()
		if err == nil {
			err = verify(tmp, p.SHA256)
		}
		if err == nil {
			return to, os.Rename(tmp, to)
		}
		os.Remove(tmp)
		errs = append(errs, fmt.Errorf("%s: %w %s", site, err, bytes.TrimSpace(out)))
	}
	return "", fmt.Errorf("get package %s %s (%s): %w", p.Package, p.Version, p.Arch, errors.Join(errs...))
}

// aptHelper downloads with apt's own settings.
const aptHelper = "/usr/lib/apt/apt-helper"

// sites returns the archives that apt is set up for.
func (d *debian) sites(ctx context.Context) ([]string, error) {
	if d.mirrors != nil {
		return d.mirrors, nil
	}
	if _, err := os.Stat(aptHelper); err != nil {
		return nil, errors.New("the libraries beside Envoy and iptables come from Debian packages, and this machine has no apt: " +
			"build on Debian or Ubuntu, or put the waypoint on an image that has Envoy (-base)")
	}
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").Output()
	if err != nil {
		return nil, fmt.Errorf("ask apt for its archives: %w", err)
	}
	for _, site := range strings.Fields(string(out)) {
		if !slices.Contains(d.mirrors, site) { // one that is not of Debian does not have the file: the hash decides
			d.mirrors = append(d.mirrors, site)
		}
	}
	if len(d.mirrors) == 0 {
		return nil, errors.New("apt is set up for no archive of packages")
	}
	return d.mirrors, nil
}

func verify(path, want string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return fmt.Errorf("its SHA-256 is %s, not the pinned %s", got, want)
	}
	return nil
}

// maxPackage bounds what a package may unpack to.
const maxPackage = 256 << 20

// unpack returns the files of a package that match.
func unpack(ctx context.Context, deb string, patterns []string) ([]file, error) {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	files, err := pick(io.LimitReader(pipe, maxPackage), patterns)
	_, _ = io.Copy(io.Discard, pipe) // so that it ends
	if werr := cmd.Wait(); err == nil {
		err = werr
	}
	return files, err
}

// pick reads a tar archive. Every pattern that names no file of its own kind of path is fine but one: nothing at all.
func pick(r io.Reader, patterns []string) ([]file, error) {
	var out []file
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if !slices.ContainsFunc(patterns, func(p string) bool { ok, _ := path.Match(p, name); return ok }) {
			continue
		}
		f := file{path: name, mode: h.Mode & 0o755}
		switch h.Typeflag {
		case tar.TypeReg:
			if f.content, err = io.ReadAll(t); err != nil {
				return nil, err
			}
		case tar.TypeSymlink:
			f.link = h.Linkname
		default:
			continue
		}
		out = append(out, f)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("it has no file like %s", strings.Join(patterns, ", "))
	}
	return out, nil
}
