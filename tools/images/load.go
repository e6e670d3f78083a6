package images

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
)

// Load hands the archives to what runs containers: docker, ctr, kind, or kind=CLUSTER.
func Load(ctx context.Context, where string, done []Result, log io.Writer) error {
	kind, cluster, _ := strings.Cut(where, "=")
	for _, r := range done {
		var args []string
		switch kind {
		case "docker":
			args = []string{"docker", "load", "--quiet", "--input", r.Path}
		case "ctr":
			args = []string{"ctr", "--namespace", "k8s.io", "images", "import", r.Path}
		case "kind":
			args = []string{"kind", "load", "image-archive", r.Path}
			if cluster != "" {
				args = append(args, "--name", cluster)
			}
		default:
			return fmt.Errorf("cannot load into %q: write docker, kind, kind=CLUSTER or ctr", where)
		}
		if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
		}
		fmt.Fprintf(log, "  loaded %s into %s\n", strings.Join(r.Names, ", "), where)
	}
	return nil
}
