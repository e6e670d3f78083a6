// Command waypoint measures what a waypoint costs: how long a change takes until requests see it, what a large one needs in
// memory and CPU, and what the hop adds to a request.
//
//	go run ./e2e/bench/waypoint            everything, some eight minutes
//	go run ./e2e/bench/waypoint -quick     fewer tries and shorter samples, less than a minute
//	go run ./e2e/bench/waypoint -only scale,hop
//
// "scale" is the real chain from a generated folder of YAML over ambitd and the agent to Envoy, in a network namespace in
// which every address is local, so that ten thousand pods need no ten thousand interfaces. The client's and the servers'
// node proxies are stand-ins in this process. "hop" is a lab with real node proxies; the same requests go straight, through the
// node proxies alone, through waypoints with more and less telemetry, and through an Envoy of the same version that only
// routes, with mTLS on both sides.
//
// It needs root, and the mesh's binaries in bin/ or $AMBIT_BIN (make build). Nothing here is a test: there are no bounds. Start
// reading at command; scale.go and hop.go are the two halves, town.go and
// crossing.go their worlds.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
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
	only     string
	services int
	pods     int // of each service
	tries    int // of each kind of change
	starts   int // cold starts
	settle   time.Duration
	kinds    string
	rounds   int // samples of each figure of the hop
	sample   time.Duration
	paths    string
	json     string
	profile  string // folder for profiles of the scale part
	keep     bool
	verbose  bool
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
	f := flag.NewFlagSet("waypoint", flag.ExitOnError)
	var cfg config
	quick := f.Bool("quick", false, "few tries and short samples")
	f.StringVar(&cfg.only, "only", "scale,hop", "which halves to run")
	f.IntVar(&cfg.services, "services", 1000, "services behind the waypoint")
	f.IntVar(&cfg.pods, "pods", 10, "pods of each service")
	f.IntVar(&cfg.tries, "tries", 40, "changes of each kind, one at a time")
	f.IntVar(&cfg.starts, "starts", 5, "cold starts of the waypoint")
	f.StringVar(&cfg.kinds, "kinds", "", "only changes whose name contains one of these, separated by |")
	// Envoy keeps replaced listeners as long as the agent lets connections drain, which is 10 s.
	f.DurationVar(&cfg.settle, "settle", 12*time.Second, "pause before the memory after changes is read")
	f.IntVar(&cfg.rounds, "rounds", 3, "samples of each figure of the hop")
	f.DurationVar(&cfg.sample, "sample", 1500*time.Millisecond, "length of a sample")
	f.StringVar(&cfg.paths, "paths", "", "only paths of the hop whose name contains one of these, separated by |")
	f.StringVar(&cfg.json, "json", "", "write the figures to this file as well")
	f.StringVar(&cfg.profile, "profile", "", "put profiles of control plane and agent under change into this folder")
	f.BoolVar(&cfg.keep, "keep", false, "leave the lab and the generated folder")
	f.BoolVar(&cfg.verbose, "v", false, "show what the processes log")
	f.Parse(args)
	if f.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if *quick {
		cfg.tries, cfg.starts, cfg.settle, cfg.rounds, cfg.sample = 8, 1, givenBack, 1, 200*time.Millisecond
	}
	if os.Geteuid() != 0 {
		return errors.New("needs root: pods and nodes are network namespaces")
	}
	if err := programs(); err != nil {
		return err
	}
	if os.Getenv(envInside) != "" {
		return measureScale(ctx, cfg, os.NewFile(3, "figures"))
	}
	return run(ctx, cfg, args)
}

func run(ctx context.Context, cfg config, args []string) error {
	res := newResults()
	for _, half := range strings.Split(cfg.only, ",") {
		var err error
		switch half {
		case "scale":
			err = scale(ctx, args, res)
		case "hop":
			err = hop(ctx, cfg, res)
		default:
			err = fmt.Errorf("-only %q: write scale or hop", half)
		}
		if err != nil {
			res.print(os.Stdout)
			return fmt.Errorf("%s: %w", half, err)
		}
	}
	res.print(os.Stdout)
	if cfg.json != "" {
		return res.write(cfg.json)
	}
	return nil
}

// programs finds the mesh's binaries. Under "go run" our own path is a scratch folder, so it says where the others are.
func programs() error {
	if os.Getenv(mesh.EnvBin) == "" {
		bin := "bin"
		if self, err := os.Executable(); err == nil {
			if _, err := os.Stat(filepath.Join(filepath.Dir(self), "ambit-waypoint")); err == nil {
				bin = filepath.Dir(self)
			}
		}
		bin, err := filepath.Abs(bin)
		if err != nil {
			return err
		}
		if err := os.Setenv(mesh.EnvBin, bin); err != nil {
			return err
		}
	}
	if _, err := os.Stat(program("ambit-waypoint")); err != nil {
		return fmt.Errorf("no ambit-waypoint in %s: run \"make build\" first, from the root of the repository", os.Getenv(mesh.EnvBin))
	}
	return nil
}

func program(name string) string { return filepath.Join(os.Getenv(mesh.EnvBin), name) }

// envoyPath is the Envoy a waypoint would run, fetched if there is none.
func envoyPath(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, program("ambit-waypoint"), "envoy").Output()
	if err != nil {
		return "", fmt.Errorf("find Envoy: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// envInside marks the process that measures the scale, in a network namespace of its own.
const envInside = "AMBIT_BENCH_INSIDE"

// scale runs the first half in a network namespace of its own and takes over its figures.
func scale(ctx context.Context, args []string, res *results) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), envInside+"=1")
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = os.Stdout, os.Stderr, []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if err := cmd.Start(); err != nil {
		w.Close()
		return err
	}
	w.Close()
	data, err := io.ReadAll(r)
	if err := errors.Join(err, cmd.Wait()); err != nil {
		return err
	}
	return json.Unmarshal(data, &res.Scale)
}

// listed reports whether a name contains one of the words, or there are none.
func listed(words, name string) bool {
	for word := range strings.SplitSeq(words, "|") {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}

func step(format string, args ...any) { fmt.Fprintf(os.Stderr, "· "+format+"\n", args...) }
