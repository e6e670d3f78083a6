package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/ca/client"
	"github.com/ambit-mesh/ambit/waypoint/agent/ads"
	"github.com/ambit-mesh/ambit/waypoint/agent/process"
	"github.com/ambit-mesh/ambit/waypoint/agent/render"
	"github.com/ambit-mesh/ambit/waypoint/agent/wasm"
	"github.com/ambit-mesh/ambit/waypoint/envoy"
	"github.com/ambit-mesh/ambit/waypoint/facts"
	"github.com/ambit-mesh/ambit/waypoint/fetch"
)

// Deps are what a test replaces. The zero value is the real thing.
type Deps struct {
	// Signer gives certificates; nil asks the authority at Config.CAAddress.
	Signer client.Signer
	// Logger; nil discards.
	Logger *slog.Logger
	// Stdout receives what Envoy writes to its standard output; nil is ours.
	Stdout *os.File
	// Version is this release's.
	Version string
	// alter changes what Envoy is told, for tests of what it refuses.
	alter func([]ads.Update)
}

// agent is the running process.
type agent struct {
	cfg  Config
	opts envoy.Options
	log  *slog.Logger
	quit context.CancelFunc

	facts  *facts.Store
	xds    *xds.Client
	ads    *ads.Server
	certs  *client.Manager
	ca     *client.Client
	envoy  *process.Process
	admin  *envoyAdmin
	reg    *prometheus.Registry
	own    metrics
	wasm   *wasm.Store
	deps   Deps
	socket string
	config string // the bootstrap file

	certified chan struct{} // closed with the first certificate
	rendered  chan struct{} // closed when the first facts were expanded
	streams   atomic.Int64  // aggregated streams Envoy has opened since it was started last
	draining  atomic.Bool
	built     atomic.Uint64 // generation of the facts that the ADS server has
	steps     steps
	stepsSeen uint64 // owned by expand

	mu sync.Mutex
	// guarded by mu
	renderer *render.Renderer
	rejected map[rejectedID]rejection
	// unrevoked says why revoked peers are let in; nil if they are not.
	unrevoked *rejection
}

// Run serves until ctx ends, drains, and returns when everything it started has ended.
func Run(ctx context.Context, cfg Config, deps Deps) error {
	if err := cfg.podLabels(); err != nil {
		return fmt.Errorf("labels of the pod: %w", err)
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	log := deps.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if err := cfg.podStats(); err != nil {
		log.Warn("the pod's wishes for statistics are not followed", "err", err)
	}
	binary, err := fetch.Envoy(ctx, fetch.Options{Path: cfg.EnvoyPath, Logger: log})
	if err != nil {
		return err
	}
	dir, cleanup, err := runDir(cfg.RunDir)
	if err != nil {
		return err
	}
	defer cleanup()
	ctx, quit := context.WithCancel(ctx)
	defer quit()
	a := build(cfg, deps, log, dir, quit)
	if err := a.writeBootstrap(); err != nil {
		return err
	}
	log.Info("starting", "version", deps.Version, "gateway", cfg.PodNamespace+"/"+cfg.GatewayName, "identity", cfg.self().String(),
		"xds", cfg.XDSAddress, "ca", cfg.CAAddress, "envoy", binary)
	return a.run(ctx, binary)
}

// run starts the parts, waits for the end of ctx or of one of them, drains and stops.
func (a *agent) run(ctx context.Context, binary string) error {
	local, err := listenUnix(a.socket)
	if err != nil {
		return err
	}
	a.envoy = process.New(process.Config{
		Path: binary, Bootstrap: a.config, Concurrency: a.cfg.concurrency(), Drain: a.cfg.ChainDrain,
		LogLevel: a.cfg.EnvoyLogLevel, Stdout: a.deps.Stdout, Logger: a.log.With("source", "envoy"),
		Connected: func() bool { return a.streams.Load() > 0 },
		Started: func(pid int) {
			a.streams.Store(0)
			a.log.Info("Envoy started", "pid", pid, "concurrency", a.cfg.concurrency())
		},
	})
	a.own.follow(a)

	g, serve := errgroup.WithContext(context.WithoutCancel(ctx))
	serve, stop := context.WithCancel(serve)
	defer stop()
	g.Go(func() error { return a.certs.Run(serve) })
	g.Go(func() error { return a.followCertificate(serve) })
	g.Go(func() error { return a.xds.Run(serve) })
	g.Go(func() error { return a.wasm.Run(serve) })
	g.Go(func() error { return a.expand(serve) })
	g.Go(func() error { return a.serveEnvoy(serve, local) })
	g.Go(func() error { return a.serveTools(serve) })
	g.Go(func() error { return a.awaitReady(serve) })
	g.Go(func() error { return a.trim(serve) })
	g.Go(func() error {
		err := a.envoy.Run(serve)
		stop() // nothing here is of use without Envoy
		return err
	})
	g.Go(func() error {
		defer stop()
		select {
		case <-ctx.Done():
			a.drain(serve)
		case <-serve.Done():
		}
		return nil
	})
	err = g.Wait()
	if a.ca != nil {
		err = errors.Join(err, a.ca.Close())
	}
	a.log.Info("stopped")
	return err
}

func build(cfg Config, deps Deps, log *slog.Logger, dir string, quit context.CancelFunc) *agent {
	a := &agent{
		cfg: cfg, deps: deps, log: log, quit: quit,
		facts:  facts.New(facts.Config{Namespace: cfg.PodNamespace, Name: cfg.GatewayName, Domain: cfg.ClusterDomain}),
		socket: filepath.Join(dir, "agent.sock"), config: filepath.Join(dir, "bootstrap.json"),
		certified: make(chan struct{}), rendered: make(chan struct{}), steps: steps{end: make(chan struct{}, 1)},
		reg: prometheus.NewRegistry(), rejected: map[rejectedID]rejection{},
	}
	a.opts = cfg.options(a.socket)
	a.opts.AgentToken = rand.Text()
	if cfg.AdminPort == 0 {
		a.opts.AdminSocket = filepath.Join(dir, "admin.sock")
	}
	a.admin = newEnvoyAdmin(a.opts.AdminSocket, a.opts.AdminPort, cmp.Or(cfg.ReadyPort, mesh.PortReadiness), cmp.Or(cfg.StatsPort, portEnvoyStats))
	a.own = newMetrics(a.reg, deps.Version)
	a.wasm = wasm.New(dir, log.With("source", "wasm"))
	a.renderer = render.New(a.opts, a.wasm.File, log.With("source", "expansion"))
	a.ads = ads.NewServer(log.With("source", "ads"), ads.Events{
		Refused: a.refused,
		Nacked:  func(t string) { a.own.responses.WithLabelValues(shortType(t), "nack").Inc() },
		Accepted: func(t string) {
			a.own.responses.WithLabelValues(shortType(t), "ack").Inc()
		},
		Connected: func(n int) {
			if n > 0 {
				a.streams.Add(1)
			}
		},
	})
	signer := deps.Signer
	if signer == nil {
		a.ca = client.New(a.caConfig())
		signer = a.ca
	}
	a.certs = client.NewManager(signer, client.Options{Logger: log.With("source", "ca"), Registerer: a.reg})
	a.xds = xds.NewClient(a.xdsConfig(), handler{a}, facts.Types()...)
	a.facts.Subscribe(a.xds)
	return a
}

func (a *agent) caConfig() client.Config {
	c := a.cfg
	return client.Config{
		Address: c.CAAddress, ServerName: c.AltCAHostname, RootCA: client.RootFile(c.CARootCA), Token: client.TokenFile(c.TokenFile),
		Headers: map[string]string{"clusterid": c.ClusterID}, TTL: c.SecretTTL, Self: c.self(), Logger: a.log.With("source", "ca"),
	}
}

func (a *agent) xdsConfig() xds.ClientConfig {
	c := a.cfg
	target, plaintext, err := endpoint(c.XDSAddress)
	if err != nil {
		panic("agent: Validate accepted XDS_ADDRESS " + c.XDSAddress) // our own invariant
	}
	cfg := xds.ClientConfig{
		Target: target, ServerName: c.AltXDSHostname, Named: true, Node: a.node(), Headers: map[string]string{"clusterid": c.ClusterID},
		Logger: a.log.With("source", "xds"), Registerer: a.reg,
	}
	if !plaintext {
		cfg.Token = client.TokenFile(c.TokenFile)
		cfg.TLS = client.RootsFile(c.XDSRootCA, "XDS_ROOT_CA")
	}
	return cfg
}

// node is how this process introduces itself to the control plane.
func (a *agent) node() *corev3.Node {
	meta := map[string]*structpb.Value{}
	for k, v := range map[string]string{
		"NAME": a.cfg.PodName, "NAMESPACE": a.cfg.PodNamespace, "GATEWAY_NAME": a.cfg.GatewayName, "SERVICE_ACCOUNT": a.cfg.ServiceAccount,
		"CLUSTER_ID": a.cfg.ClusterID, "NETWORK": a.cfg.Network, "NODE_NAME": a.cfg.NodeName, "WORKLOAD_NAME": a.cfg.WorkloadName,
		mesh.MetadataVersion: a.deps.Version,
	} {
		if v != "" {
			meta[k] = structpb.NewStringValue(v)
		}
	}
	return &corev3.Node{Id: a.cfg.nodeID(), UserAgentName: mesh.AgentWaypoint, ClientFeatures: []string{mesh.ExtensionLabels}, Metadata: &structpb.Struct{Fields: meta}}
}

// serveEnvoy answers Envoy's ADS and SDS until ctx ends.
func (a *agent) serveEnvoy(ctx context.Context, l net.Listener) error {
	g := grpc.NewServer(grpc.MaxRecvMsgSize(64<<20), grpc.StreamInterceptor(a.onlyEnvoy))
	a.ads.Register(g)
	defer context.AfterFunc(ctx, g.Stop)()
	if err := g.Serve(l); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve Envoy: %w", err)
	}
	return nil
}

// onlyEnvoy lets nobody in who does not know what Envoy was told at its start: keys are handed out here, and what runs inside
// Envoy, or has got hold of the socket, is not Envoy.
func (a *agent) onlyEnvoy(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	said := metadata.ValueFromIncomingContext(stream.Context(), envoy.HeaderAgentToken)
	if len(said) != 1 || subtle.ConstantTimeCompare([]byte(said[0]), []byte(a.opts.AgentToken)) != 1 {
		return status.Error(codes.PermissionDenied, "the agent talks to the Envoy that it started")
	}
	return handle(srv, stream)
}

// settleTime bounds how long the first expansion waits for services that were asked for by name.
const settleTime = 5 * time.Second

// awaitReady lets Envoy have its configuration once the first facts are complete, and says what it waits for.
func (a *agent) awaitReady(ctx context.Context) error {
	nag := time.NewTicker(10 * time.Second)
	defer nag.Stop()
	for _, step := range []struct {
		done <-chan struct{}
		what string
	}{
		{a.rendered, "facts from the control plane at " + a.cfg.XDSAddress},
		{a.certified, "a certificate for " + a.cfg.self().String() + " from " + cmp.Or(a.cfg.CAAddress, "the authority")},
	} {
		for waiting := true; waiting; {
			select {
			case <-step.done:
				waiting = false
			case <-nag.C:
				a.log.Warn("not ready", "waiting", step.what, "blockers", a.blockers())
			case <-ctx.Done():
				return nil
			}
		}
	}
	a.log.Info("Envoy has its first configuration")
	return nil
}

// How long nothing must have changed before memory is given back, and how much must have been allocated for it to be worth
// the work: for the heap, and for the pages of the program, some of which are needed for each change.
const (
	trimAfter = time.Second
	trimFrom  = 4 << 20
	dropFrom  = 64 << 20
)

// trim gives memory back after starting, which takes several times what running does, and after changes: Envoy needs it more.
func (a *agent) trim(ctx context.Context) error {
	allocated := []runtimemetrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	var seen, trimmed uint64
	for sleep(ctx, trimAfter) {
		now := a.built.Load()
		still := now == seen && len(a.behind()) == 0
		if seen = now; !still {
			continue
		}
		runtimemetrics.Read(allocated)
		total := allocated[0].Value.Uint64()
		if total-trimmed < trimFrom {
			continue
		}
		a.ads.Trim()
		debug.FreeOSMemory()
		if total-trimmed >= dropFrom {
			if err := dropPages(); err != nil {
				a.log.Debug("memory", "error", err)
			}
		}
		trimmed = total
	}
	return nil
}

// blockers names what keeps this instance from being ready.
func (a *agent) blockers() []string {
	var out []string
	add := func(c <-chan struct{}, name, why string) {
		select {
		case <-c:
		default:
			if why != "" {
				name += " (" + why + ")"
			}
			out = append(out, name)
		}
	}
	why := ""
	if err := a.xds.LastError(); err != nil {
		why = err.Error()
	}
	add(a.xds.Synced(), "control plane", why)
	if len(out) == 0 && a.facts.Current().Gateway() == nil {
		out = append(out, fmt.Sprintf("Gateway %s/%s is not known to the control plane", a.cfg.PodNamespace, a.cfg.GatewayName))
	}
	add(a.rendered, "first configuration", "")
	why = ""
	for _, c := range a.certs.Dump() {
		why = cmp.Or(why, c.Err)
	}
	add(a.certified, "certificate", why)
	if a.envoy.PID() == 0 || a.ads.Streams() == 0 {
		out = append(out, "Envoy")
	}
	if a.draining.Load() {
		out = append(out, "draining")
	}
	return out
}
