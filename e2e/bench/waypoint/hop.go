package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/ambit-mesh/ambit/e2e/lab"
	"github.com/ambit-mesh/ambit/e2e/mesh"
)

// Names of ways, in the order of the report.
const (
	wayDirect  = "direct"
	wayTLS     = "mTLS without a proxy"
	wayBare    = "mTLS through a bare Envoy"
	wayHBONE   = "HBONE without a waypoint"
	waySilent  = "waypoint, no telemetry"
	wayUsual   = "waypoint, metrics"
	wayVerbose = "waypoint, metrics and access log"
)

// gateways are the waypoints of the hop and their services.
var gateways = []struct{ way, name string }{{waySilent, "silent"}, {wayUsual, "usual"}, {wayVerbose, "verbose"}}

// crossing is the lab of the hop: a client on one node, servers and waypoints on another.
type crossing struct {
	cfg     config
	lab     *lab.Lab
	parties *parties
	ways    []*way
	stops   []func()
}

func hop(ctx context.Context, cfg config, res *results) error {
	step("starting a lab with three waypoints and a bare Envoy")
	l, err := lab.Up(ctx, lab.Spec{Name: fmt.Sprintf("hop-%d", os.Getpid()%100000), Nodes: 2, Path: []string{os.Getenv(mesh.EnvBin)}})
	if err != nil {
		return err
	}
	c := &crossing{cfg: cfg, lab: l, parties: newParties()}
	defer c.close()
	ready, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if _, err := mesh.Start(ready, l, mesh.Options{}, nil); err != nil {
		return err
	}
	if err := c.build(ready); err != nil {
		return err
	}
	res.Hop, err = c.measure(ctx)
	return err
}

func (c *crossing) close() {
	for _, stop := range c.stops {
		stop()
	}
	if c.cfg.keep {
		step("the lab %s stays", c.lab.Name)
		return
	}
	if err := lab.Clean(c.lab.Name); err != nil {
		step("clean up: %v", err)
	}
}

// loads are what is measured on each way.
var loads = []struct {
	name string
	n    int
	run  func(*way, context.Context, int, time.Duration) (sample, error)
}{
	{"kept connections", 1, (*way).keepAlive}, {"kept connections", 16, (*way).keepAlive}, {"kept connections", 64, (*way).keepAlive},
	{"new connections", 1, (*way).connect}, {"new connections", 16, (*way).connect},
}

// measure goes round all loads and ways, so that no way has the machine's good minutes to itself.
func (c *crossing) measure(ctx context.Context) (*hopFigures, error) {
	f := &hopFigures{Rounds: c.cfg.rounds, Seconds: c.cfg.sample.Seconds()}
	for round := range c.cfg.rounds {
		step("round %d of %d", round+1, c.cfg.rounds)
		for _, load := range loads {
			for _, w := range c.ways {
				s, err := load.run(w, ctx, load.n, c.cfg.sample)
				if err != nil {
					return nil, err
				}
				f.add(load.name, load.n, w, s)
			}
		}
	}
	return f, nil
}
