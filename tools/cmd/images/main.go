// Command images builds the container images; see package images.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/ambit-mesh/ambit/tools/images"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1) //nolint:gocritic // the process ends here, and stop with it
	}
}

// settings are the command line.
type settings struct {
	images.Options
	platforms, only, tags, load string
	updatePins                  bool
}

func flags(args []string) (settings, error) {
	var s settings
	fs := flag.NewFlagSet("images", flag.ContinueOnError)
	fs.StringVar(&s.Root, "root", ".", "the repository")
	fs.StringVar(&s.Out, "out", filepath.Join("bin", "images"), "where the archives go")
	fs.StringVar(&s.Hub, "hub", "ambit", "the images are HUB/NAME:VERSION")
	fs.StringVar(&s.Version, "version", "dev", "version of the programs, and tag of the images")
	fs.StringVar(&s.tags, "tags", "latest", "more tags, with commas")
	fs.StringVar(&s.platforms, "platforms", "linux/"+runtime.GOARCH, "platforms, with commas: linux/amd64, linux/arm64")
	fs.StringVar(&s.only, "only", "", "names of the images to build, with commas (default all)")
	fs.StringVar(&s.Base, "base", "", "put the waypoint on this image, which has an Envoy: a reference, or the folder of an OCI layout")
	fs.BoolVar(&s.Locked, "locked", false, "take no Debian package but the pinned ones, even when the archive has replaced them")
	fs.StringVar(&s.load, "load", "", "load the images: docker, kind, kind=CLUSTER, or ctr (containerd on this machine)")
	fs.BoolVar(&s.updatePins, "update-pins", false, "pin the Debian packages that the archive has today, and stop")
	if err := fs.Parse(args); err != nil {
		return s, err
	}
	if fs.NArg() > 0 {
		return s, fmt.Errorf("what is %q? flags only", fs.Arg(0))
	}
	s.Only, s.Tags = list(s.only), list(s.tags)
	for _, p := range list(s.platforms) {
		parsed, err := v1.ParsePlatform(p)
		if err != nil || parsed.OS != "linux" || parsed.Architecture != "amd64" && parsed.Architecture != "arm64" {
			return s, fmt.Errorf("platform %q: there are linux/amd64 and linux/arm64", p)
		}
		s.Platforms = append(s.Platforms, *parsed)
	}
	return s, nil
}

// list splits at commas and blanks.
func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

func run(ctx context.Context, args []string) error {
	s, err := flags(args)
	if err != nil {
		return err
	}
	s.Log = os.Stderr
	if s.updatePins {
		text, err := images.Repin(ctx, filepath.Join(s.Out, ".work"))
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(s.Root, "tools", "images", "debian.pins"), text, 0o644)
	}
	if s.Time, s.Revision, err = commit(ctx, s.Root); err != nil {
		return err
	}
	began := time.Now()
	done, err := images.Build(ctx, s.Options)
	for _, r := range done {
		state := "as before"
		if r.Fresh {
			state = "new"
		}
		fmt.Printf("  %-38s %5.1f MB  %-9s %s\n", r.Names[0], float64(r.Size)/1e6, state, r.Path)
	}
	if err != nil {
		return err
	}
	fmt.Printf("  %d images for %s in %.1f s\n", len(done), s.platforms, time.Since(began).Seconds())
	if s.load != "" {
		return images.Load(ctx, s.load, done, os.Stdout)
	}
	return nil
}

// commit returns when the tree's last commit was made, which is when the images say they were made, and its hash.
// SOURCE_DATE_EPOCH (https://reproducible-builds.org/specs/source-date-epoch/) wins.
func commit(ctx context.Context, root string) (time.Time, string, error) {
	seconds, revision := os.Getenv("SOURCE_DATE_EPOCH"), ""
	out, err := exec.CommandContext(ctx, "git", "-C", root, "log", "-1", "--format=%ct %H").Output()
	if f := strings.Fields(string(out)); err == nil && len(f) == 2 {
		revision = f[1]
		if seconds == "" {
			seconds = f[0]
		}
	}
	if seconds == "" {
		seconds = "1"
	}
	n, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return time.Time{}, "", fmt.Errorf("SOURCE_DATE_EPOCH=%q is no number of seconds", seconds)
	}
	return time.Unix(n, 0).UTC(), revision, nil
}
