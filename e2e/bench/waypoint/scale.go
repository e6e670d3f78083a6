package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/ca/catest"
	"github.com/ambit-mesh/ambit/e2e/bench/proc"
)

// What passes between two changes that are measured one at a time: more than any window in which changes are collected, so
// that each is a first one.
const quiet = 150 * time.Millisecond

const (
	xdsAddr   = "127.0.0.1:15010"
	adminAddr = "127.0.0.1:8080"
	agentURL  = "http://127.0.0.1:15020/stats/prometheus"
	toolsURL  = "http://127.0.0.1:15004"
	readyURL  = "http://127.0.0.1:15021/healthz/ready"
)

// bench is the world of the first half.
type bench struct {
	cfg    config
	town   *town
	ca     *catest.CA
	caAddr string
	dir    string
	ambitd *process
	agent  *process
	envoy  int // process id
	caller *caller
	watch  *watch
}

// measureScale runs in a network namespace of its own and writes its figures to out.
func measureScale(ctx context.Context, cfg config, out *os.File) error {
	defer out.Close()
	if err := prepareSpace(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "ambit-bench")
	if err != nil {
		return err
	}
	if cfg.keep {
		step("the town is in %s", dir)
	} else {
		defer os.RemoveAll(dir)
	}
	b := &bench{cfg: cfg, dir: dir, ca: catest.New(), town: &town{dir: filepath.Join(dir, "town"), services: cfg.services, pods: cfg.pods}}
	defer b.stop()
	figures, err := b.measure(ctx)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(figures)
}

func (b *bench) stop() {
	if b.watch != nil {
		b.watch.stop()
	}
	for _, p := range []*process{b.agent, b.ambitd} {
		if p != nil {
			p.stop()
		}
	}
}

func (b *bench) measure(ctx context.Context) (*scaleFigures, error) {
	f := &scaleFigures{Services: b.cfg.services, Pods: b.cfg.pods}
	step("%d services × %d pods: starting the control plane", b.cfg.services, b.cfg.pods)
	stopServers, err := b.servers(ctx)
	if err != nil {
		return nil, err
	}
	defer stopServers()
	for i := range b.cfg.starts {
		step("cold start %d of %d", i+1, b.cfg.starts)
		if b.agent != nil {
			b.agent.stop()
		}
		if err := b.start(ctx, f); err != nil {
			return nil, err
		}
	}
	if err := b.rest(ctx, givenBack); err != nil {
		return nil, err
	}
	f.memory(b, "after the start")
	b.watch = newWatch(ctx, xdsAddr)
	select {
	case <-b.watch.client.Synced():
	case <-time.After(time.Minute):
		return nil, errors.New("the control plane does not answer the watch")
	}
	for _, k := range kinds {
		if !listed(b.cfg.kinds, k.name) {
			continue
		}
		step("%d × %s", b.cfg.tries, k.name)
		row, err := b.kind(ctx, k)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k.name, err)
		}
		f.Changes = append(f.Changes, row)
	}
	if err := b.rest(ctx, b.cfg.settle); err != nil {
		return nil, err
	}
	f.memory(b, "after the changes")
	return f, nil
}

// servers starts what the waypoint needs: control plane, authority, and the node proxies of its peers.
func (b *bench) servers(ctx context.Context) (stop func(), err error) {
	var stops []func()
	stop = func() {
		for _, s := range stops {
			s()
		}
	}
	if err := os.MkdirAll(b.town.dir, 0o755); err != nil {
		return stop, err
	}
	if err := errors.Join(b.town.write(), os.WriteFile(filepath.Join(b.dir, "token"), []byte("none"), 0o600)); err != nil {
		return stop, err
	}
	addr, end, err := serveAuthority(b.ca)
	if err != nil {
		return stop, err
	}
	b.caAddr, stops = addr, append(stops, end)
	if end, err = serveNodes(b.ca); err != nil {
		return stop, err
	}
	stops = append(stops, end)
	b.caller = newCaller(b.ca, fmt.Sprintf("10.1.0.1:%d", mesh.PortHBONE))
	b.ambitd, err = start(b.cfg, "ambitd", nil, "--config-dir", b.town.dir, "--listen=", "--plaintext", xdsAddr, "--admin-address", adminAddr)
	if err != nil {
		return stop, err
	}
	return stop, b.ambitd.await(ctx, 5*time.Millisecond, func() error {
		_, err := get("http://" + adminAddr + "/readyz")
		return err
	})
}

// start starts the waypoint and measures until it is ready, and until all its services answer.
func (b *bench) start(ctx context.Context, f *scaleFigures) (err error) {
	began := time.Now()
	b.agent, err = start(b.cfg, "ambit-waypoint", []string{
		"GATEWAY_NAME=" + gatewayName, "POD_NAME=waypoint-0", "POD_NAMESPACE=" + namespace, "SERVICE_ACCOUNT=" + gatewayName, "INSTANCE_IP=10.1.0.1",
		"XDS_ADDRESS=http://" + xdsAddr, "CA_ADDRESS=http://" + b.caAddr, "AUTH_TOKEN=" + filepath.Join(b.dir, "token"),
		"AMBIT_RUN_DIR=" + b.dir, "AMBIT_DRAIN_WAIT=0s", "TERMINATION_DRAIN_DURATION_SECONDS=0", "ISTIO_CPU_LIMIT=2",
	})
	if err != nil {
		return err
	}
	err = b.agent.await(ctx, 2*time.Millisecond, func() error {
		_, err := get(readyURL)
		return err
	})
	if err != nil {
		return err
	}
	f.Ready = append(f.Ready, ms(time.Since(began)))
	v, err := b.visit(ctx, b.cfg.services-1, "x-revision")
	if err != nil {
		return err
	}
	if status, revision, err := v.ask(host(b.cfg.services - 1)); err != nil || status != 200 || revision == "" {
		return fmt.Errorf("the first request is answered with %d (revision %q), %v", status, revision, err)
	}
	v.c.Close()
	f.Serving = append(f.Serving, ms(time.Since(began)))
	if b.envoy, err = envoyBelow(b.agent.pid()); err != nil {
		return err
	}
	f.StartCPU.Agent = append(f.StartCPU.Agent, ms(proc.CPU(b.agent.pid())))
	f.StartCPU.Envoy = append(f.StartCPU.Envoy, ms(proc.CPU(b.envoy)))
	bytes, err := b.received()
	f.StartBytes = bytes
	return err
}

// visit is a kept connection to a service through the waypoint.
func (b *bench) visit(ctx context.Context, s int, field string) (*visitor, error) {
	c, err := b.caller.dial(ctx, vip(s)+":80")
	if err != nil {
		return nil, err
	}
	return newVisitor(c, field), nil
}

// received is how much the agent has had from the control plane.
func (b *bench) received() (float64, error) {
	return counter(agentURL, "istio_xds_message_bytes_total")
}

// givenBack is how long the agent takes to give back what it took for a moment.
const givenBack = 3 * time.Second

// rest waits until everything is in force, and then on.
func (b *bench) rest(ctx context.Context, more time.Duration) error {
	err := b.agent.await(ctx, 10*time.Millisecond, func() error {
		_, err := get(toolsURL + "/synced")
		return err
	})
	if err != nil {
		return err
	}
	return pause(ctx, more)
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
