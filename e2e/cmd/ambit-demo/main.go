// Command ambit-demo tells, on this machine, what the mesh does to an application: it starts a lab, runs bookinfo on it,
// and shows each thing by running the commands a user would type.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

const usage = `ambit-demo runs bookinfo on a three-node mesh of network namespaces and shows, step by step, what the mesh does to it.
It needs root, leaves nothing behind, and takes less than a minute.

  --keep      leave the mesh up at the end, to go on with
  --lab NAME  name of the lab (demo)
  --samples   folder of the manifests (e2e/samples, or what lies beside the programs)
`

func main() {
	keep := flag.Bool("keep", false, "leave the mesh up")
	name := flag.String("lab", "demo", "name of the lab")
	samples := flag.String("samples", "", "folder of the manifests")
	flag.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := demo(ctx, *name, *samples, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "\nambit-demo:", err)
		os.Exit(1)
	}
}

func demo(ctx context.Context, name, samples string, keep bool) error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root: sudo make demo")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if samples == "" {
		samples = filepath.Join(filepath.Dir(self), "..", "e2e", "samples")
	}
	if _, err := os.Stat(filepath.Join(samples, "bookinfo")); err != nil {
		return fmt.Errorf("the manifests are not there (--samples): %w", err)
	}
	s := newStage(filepath.Dir(self), name, samples)
	if out, err := s.output(ctx, "ambitctl lab list"); err == nil && hasLab(out, name) {
		return fmt.Errorf("a lab called %q is up already: ambitctl lab down %s, or choose another --lab", name, name)
	}
	began := time.Now()
	err = story(ctx, s)
	if err != nil {
		s.note("something went wrong: %v", err)
	}
	if keep && err == nil {
		s.next(time.Since(began))
		return nil
	}
	// Also after Ctrl-C, which has ended ctx.
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if _, downErr := s.output(clean, "ambitctl lab down "+name); downErr != nil {
		return errors.Join(err, downErr)
	}
	if err == nil {
		s.note("Everything is removed again. All of it took %.0f s.", time.Since(began).Seconds())
		s.note("To keep the mesh and go on by hand: make demo KEEP=1. Guides: docs/lab.md, docs/policy.md, docs/waypoints.md.")
	}
	return err
}
