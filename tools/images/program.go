package images

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// compile builds the programs of the images for a platform: static, without paths of this machine, stripped.
func (b *builder) compile(ctx context.Context, p v1.Platform, images []Image) error {
	dir := b.programDir(p)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var ours, others []string
	for _, image := range images {
		for _, prog := range image.Programs {
			if strings.HasPrefix(prog.Package, "./e2e/") || !strings.HasPrefix(prog.Package, "./") {
				others = append(others, prog.Package)
			} else {
				ours = append(ours, prog.Package)
			}
		}
	}
	if err := b.link(ctx, p, dir, "-s -w -X main.version="+b.Version, ours); err != nil {
		return err
	}
	// Applications for tests have no version, and so need not be linked anew for each commit.
	return b.link(ctx, p, dir, "-s -w", others)
}

func (b *builder) link(ctx context.Context, p v1.Platform, dir, flags string, packages []string) error {
	if len(packages) == 0 {
		return nil
	}
	slices.Sort(packages)
	args := append([]string{"build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", dir + "/"}, slices.Compact(packages)...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = b.Root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+p.OS, "GOARCH="+p.Architecture, "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compile for %s: %w\n%s", p.String(), err, out)
	}
	return nil
}

func (b *builder) programDir(p v1.Platform) string {
	return filepath.Join(b.Work, "programs", p.OS+"-"+p.Architecture)
}

// program returns where compile put a program.
func (b *builder) program(p v1.Platform, prog Program) string {
	return filepath.Join(b.programDir(p), path.Base(prog.Package))
}

// envoy returns the pinned Envoy for a platform. The program that runs it knows which one that is, and gets it.
func (b *builder) envoy(ctx context.Context, p v1.Platform) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "run", "./waypoint/cmd/ambit-waypoint", "envoy", "--arch", p.Architecture)
	cmd.Dir = b.Root
	cmd.Stderr = b.Log
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("find Envoy for %s: %w", p.String(), err)
	}
	return strings.TrimSpace(string(out)), nil
}
