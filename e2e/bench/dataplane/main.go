// Command dataplane measures what a connection through the mesh costs, against the same connection without it.
//
//	go run ./e2e/bench/dataplane            everything, three rounds, some ten minutes
//	go run ./e2e/bench/dataplane -quick     one short round, a minute or two
//	PEER_ZTUNNEL=/path/to/ztunnel …         another node proxy beside ours, under our control plane and CNI
//
// One lab carries every contestant, each on nodes of its own: plain pods, Ambit on one node and across two, Ambit with its
// same-node fast path, a naive proxy on x/net/http2, and the foreign one. Samples are interleaved, so that a machine
// that slows down slows down all; compare ratios, not absolute figures. CPU is that of the proxies' processes, from
// /proc; the load runs in this process, with its sockets opened inside the pods.
//
// It needs root, and the mesh's binaries in bin/ or $AMBIT_BIN (make build). Start reading at run; world.go is the lab,
// load.go the measurements.
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
	"strings"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/e2e/lab"
	"github.com/ambit-mesh/ambit/e2e/mesh"
)

// config is what one run measures.
type config struct {
	rounds int
	sample time.Duration
	idle   int // connections held for the memory figure
	only   string
	paths  string
	json   string
	keep   bool
	dir    string // for CPU profiles
	peer   string
}

func main() {
	lab.Main()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("dataplane", flag.ExitOnError)
	var cfg config
	quick := f.Bool("quick", false, "one round of short samples")
	f.IntVar(&cfg.rounds, "rounds", 3, "samples of each figure")
	f.DurationVar(&cfg.sample, "sample", 2*time.Second, "length of a sample")
	f.IntVar(&cfg.idle, "idle", 1000, "idle connections for the memory figure; 0 leaves it out")
	f.StringVar(&cfg.only, "only", "", "measure only these, comma separated: bulk, http, connect, idle")
	f.StringVar(&cfg.paths, "paths", "", "only paths whose name contains one of these, separated by |, and the direct ones")
	f.StringVar(&cfg.json, "json", "", "write the figures to this file as well")
	f.BoolVar(&cfg.keep, "keep", false, "leave the lab up")
	f.StringVar(&cfg.dir, "profile", "", "put CPU and heap profiles of our proxies into this folder")
	f.Parse(args)
	if f.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if *quick {
		cfg.rounds, cfg.sample = 1, 500*time.Millisecond
	}
	cfg.peer = os.Getenv("PEER_ZTUNNEL")
	if os.Geteuid() != 0 {
		return errors.New("needs root: pods and nodes are network namespaces")
	}
	return run(ctx, cfg)
}

func (c config) wants(measure string) bool {
	return c.only == "" || contains(c.only, ',', func(s string) bool { return s == measure })
}

func contains(list string, sep rune, is func(string) bool) bool {
	for s := range strings.FieldsFuncSeq(list, func(r rune) bool { return r == sep }) {
		if is(s) {
			return true
		}
	}
	return false
}

func run(ctx context.Context, cfg config) error {
	naive, cleanup, err := programs(ctx)
	defer cleanup()
	if err != nil {
		return err
	}
	w, err := newWorld(ctx, cfg, naive)
	if w != nil && !cfg.keep {
		defer w.close()
	}
	if err != nil {
		return err
	}
	res, err := w.measure(ctx)
	if err != nil {
		return err
	}
	res.print(os.Stdout)
	if cfg.json != "" {
		return res.write(cfg.json)
	}
	return nil
}

// programs finds or builds what runs in the lab and returns the yardstick's path.
func programs(ctx context.Context) (naive string, cleanup func(), err error) {
	dir, err := os.MkdirTemp("", "ambit-bench")
	if err != nil {
		return "", func() {}, err
	}
	cleanup = func() { os.RemoveAll(dir) }
	// Under "go run" our own path is a scratch folder: say where the others are.
	if os.Getenv(mesh.EnvBin) == "" {
		bin := "bin"
		if self, err := os.Executable(); err == nil {
			if _, err := os.Stat(filepath.Join(filepath.Dir(self), "ztunnel")); err == nil {
				bin = filepath.Dir(self)
			}
		}
		if bin, err = filepath.Abs(bin); err != nil {
			return "", cleanup, err
		}
		if _, err := os.Stat(filepath.Join(bin, "ztunnel")); err != nil {
			return "", cleanup, fmt.Errorf("no ztunnel in %s: run \"make build\" first, from the root of the repository", bin)
		}
		os.Setenv(mesh.EnvBin, bin)
	}
	naive = filepath.Join(os.Getenv(mesh.EnvBin), "naive")
	if _, err := os.Stat(naive); err == nil {
		return naive, cleanup, nil
	}
	naive = filepath.Join(dir, "naive")
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", naive, "github.com/ambit-mesh/ambit/e2e/bench/naive")
	if out, err := build.CombinedOutput(); err != nil {
		return "", cleanup, fmt.Errorf("build the naive proxy: %w\n%s", err, out)
	}
	return naive, cleanup, nil
}
