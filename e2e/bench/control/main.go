// Command control measures the control plane: a real ambitd reads a generated folder of YAML, and simulated node proxies
// take their configuration from it over delta xDS.
//
//	go run ./e2e/bench/control            the whole matrix: 1,000 / 10,000 / 50,000 pods × 1 / 50 / 200 proxies
//	go run ./e2e/bench/control -quick     1,000 pods × 1 / 50 proxies, seconds instead of minutes
//
// It measures memory, the time until a fleet that starts at once has everything, the lag from a changed file to
// the last proxy, and the lag under constant churn; and it checks at the end of each cell that every proxy has what the others have.
// It does not look into the control plane: it reads /proc and the admin port like any operator. The simulated proxies run in
// this process, which also uses the machine's cores; figures are comparable with each other, not with a larger machine.
//
// Start reading at run; world.go is the mesh, fleet.go the proxies, measure.go the measurements.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// config is what one run measures.
type config struct {
	pods, clients []int
	changes       int           // of each kind, one at a time
	repeats       int           // full syncs in each cell
	churn         time.Duration // how long to churn
	rate          int           // changes per second while churning
	ambitd        string        // binary; empty builds one
	keep          bool          // keep the generated folder
	json          string        // where to write figures; empty means nowhere
	log           *slog.Logger
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("control", flag.ExitOnError)
	quick := f.Bool("quick", false, "a small matrix: 1,000 pods, 1 and 50 proxies, few changes")
	pods := f.String("pods", "1000,10000,50000", "numbers of pods")
	clients := f.String("clients", "1,50,200", "numbers of simulated node proxies")
	cfg := config{}
	f.IntVar(&cfg.changes, "changes", 40, "changes of each kind, one at a time")
	f.IntVar(&cfg.repeats, "repeats", 3, "full syncs per cell")
	f.DurationVar(&cfg.churn, "churn", 8*time.Second, "how long to churn in each cell")
	f.IntVar(&cfg.rate, "rate", 100, "changes per second while churning")
	f.StringVar(&cfg.ambitd, "ambitd", "", "ambitd binary; built from this workspace if empty")
	f.StringVar(&cfg.json, "json", "", "also write the figures to this file")
	f.BoolVar(&cfg.keep, "keep", false, "keep the generated folder")
	verbose := f.Bool("v", false, "show what happens, and the control plane's log")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *quick {
		*pods, *clients = "1000", "1,50"
		cfg.changes, cfg.repeats, cfg.churn = 10, 2, 3*time.Second
	}
	var err error
	if cfg.pods, err = numbers(*pods); err != nil {
		return fmt.Errorf("-pods: %w", err)
	}
	if cfg.clients, err = numbers(*clients); err != nil {
		return fmt.Errorf("-clients: %w", err)
	}
	level := slog.LevelWarn
	if *verbose {
		level = slog.LevelDebug
	}
	cfg.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))

	results, err := run(ctx, cfg)
	results.table(os.Stdout)
	if cfg.json != "" {
		data, merr := json.MarshalIndent(results, "", "  ")
		if merr != nil {
			return merr
		}
		if werr := os.WriteFile(cfg.json, append(data, '\n'), 0o644); werr != nil {
			return werr
		}
	}
	return err
}

func numbers(list string) (out []int, err error) {
	for _, s := range strings.Split(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(s))
		if err != nil || n < 1 {
			return nil, fmt.Errorf("%q is not a positive number", s)
		}
		out = append(out, n)
	}
	return out, nil
}

// run goes through the matrix. Each number of pods gets a control plane of its own; each number of proxies a cell on it.
func run(ctx context.Context, cfg config) (*results, error) {
	res := newResults(cfg)
	if cfg.ambitd == "" {
		path, cleanup, err := build(ctx)
		if err != nil {
			return res, err
		}
		defer cleanup()
		cfg.ambitd = path
	}
	if err := measureEmpty(ctx, cfg, res); err != nil {
		return res, err
	}
	for _, n := range cfg.pods {
		if err := measureSize(ctx, cfg, res, n); err != nil {
			return res, fmt.Errorf("%d pods: %w", n, err)
		}
	}
	return res, nil
}
