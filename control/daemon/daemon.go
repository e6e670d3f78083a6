// Package daemon puts the control plane together: a folder of YAML or a cluster's API server feeds the model, the model
// feeds the collections, node proxies read those over xDS, and operators look in over a local socket. In a cluster it is
// the certificate authority as well.
//
//	control/file or kube ─► control/push (control/model, control/waypoint) ─► api/xds collections ─► control/serve ─► node proxies
//	     └──────────────► control/status ◄──┘                                   admin ─► operators
//
// It knows flags, environment and the order of things at start and stop. It decides nothing about the mesh. Run starts a
// goroutine for each part and waits for all of them. Start reading at Run.
package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/ca/token"
	"github.com/ambit-mesh/ambit/control/file"
	"github.com/ambit-mesh/ambit/control/jwks"
	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/push"
	"github.com/ambit-mesh/ambit/control/serve"
	"github.com/ambit-mesh/ambit/control/status"
	"github.com/ambit-mesh/ambit/control/waypoint"
)

// Daemon is one control plane.
type Daemon struct {
	cfg      Config
	logger   *slog.Logger
	registry *prometheus.Registry

	addresses, policies *xds.Collection
	facts               []*xds.Collection // for waypoints, one for each type
	keys                *jwks.Fetcher
	status              *status.Registry
	pusher              *push.Pusher
	source              *file.Source   // nil in a cluster
	cluster             *clusterRunner // nil with a folder
	server              *serve.Server
	tokenKeys           *token.File // nil without tokens
	blockers            blockers
	gateways            *gatewayRunner // nil when none are run
}

// New puts a control plane together. It opens nothing yet.
func New(cfg Config, logger *slog.Logger) (*Daemon, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	d := &Daemon{
		cfg:       cfg,
		logger:    logger,
		registry:  prometheus.NewRegistry(),
		addresses: xds.NewCollection(mesh.TypeAddress),
		policies:  xds.NewCollection(mesh.TypeAuthorization),
		status:    status.New(),
	}
	d.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	d.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ambit_control_resources", Help: "Resources served, by type.", ConstLabels: prometheus.Labels{"type": "address"},
	}, func() float64 { return float64(d.addresses.Len()) }))
	d.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ambit_control_resources", Help: "Resources served, by type.", ConstLabels: prometheus.Labels{"type": "authorization"},
	}, func() float64 { return float64(d.policies.Len()) }))
	d.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ambit_control_refusals", Help: "Documents and objects that are refused.",
	}, func() float64 { refused, _ := d.status.Counts(); return float64(refused) }))

	for _, t := range [...]string{mesh.TypeWaypointGateway, mesh.TypeWaypointVirtualHost, mesh.TypeWaypointService, mesh.TypeWaypointDestination, mesh.TypeWaypointSecret} {
		c := xds.NewCollection(t)
		d.facts = append(d.facts, c)
		d.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "ambit_control_resources", Help: "Resources served, by type.", ConstLabels: prometheus.Labels{"type": factName(t)},
		}, func() float64 { return float64(c.Len()) }))
	}
	m := model.New(model.Config{
		TrustDomain: cfg.TrustDomain, ClusterID: cfg.ClusterID, ClusterDomain: cfg.ClusterDomain,
		RootNamespace: cfg.RootNamespace, Network: cfg.Network,
		DryRun: cfg.DryRunPolicies, AllowWaypoints: cfg.AllowWaypoints, NoAutoAllocate: !cfg.AutoAllocate,
		NetworkPolicies: cfg.NetworkPolicies, Visibility: cfg.visibility(),
	})
	d.keys = jwks.New(jwks.Config{
		AllowHTTP: cfg.KeysHTTP, AllowPrivate: cfg.KeysPrivate, Refresh: cfg.KeysRefresh, Logger: logger, Registerer: d.registry,
		Update: func(s jwks.Source, set jwks.Set) { d.pusher.SetKeys(s, set) },
	})
	step := new(xds.Step)
	d.pusher = push.New(m, push.Config{
		Window: cfg.Window, Step: step, Addresses: d.addresses, Policies: d.policies,
		Waypoints: waypoint.New(waypoint.Config{
			TrustDomain: cfg.TrustDomain, ClusterID: cfg.ClusterID, ClusterDomain: cfg.ClusterDomain,
			RootNamespace: cfg.RootNamespace, Network: cfg.Network,
		}),
		Facts: d.facts, KeySets: d.keys.Need, Gateways: func(of object.Key, r model.Report) { d.gateways.report(of, r) },
		Status: d.status, Logger: logger, Registerer: d.registry,
	})
	var err error
	if d.cluster, err = newCluster(d); err != nil {
		return nil, err
	}
	if d.cluster == nil {
		d.source = file.New(file.Config{Root: cfg.ConfigDir, ClusterDomain: cfg.ClusterDomain, Keep: cfg.StateDir, Sink: d.pusher, Status: d.status, Logger: logger})
	}

	d.gateways = newGateways(d)
	var verifier *token.Verifier
	if cfg.TokenKeys != "" {
		d.tokenKeys = &token.File{Path: cfg.TokenKeys}
		if _, err := d.tokenKeys.Keys(); err != nil {
			return nil, fmt.Errorf("--token-keys: %w", err)
		}
		verifier = &token.Verifier{Keys: d.tokenKeys.Keys}
	}
	sc := serve.Config{
		Step: step, Listen: cfg.Listen, Plaintext: cfg.Plaintext, PlaintextAnywhere: cfg.PlaintextAnywhere, TLSDir: cmp.Or(cfg.TLSDir, d.cluster.tlsDir()),
		Tokens: verifier, TrustDomain: cfg.TrustDomain, Logger: logger, Registerer: d.registry,
		MayReadGateway: d.pusher.MayReadGateway,
	}
	if d.cluster != nil {
		sc.Review, sc.Register = d.cluster.tokens.Review, d.cluster.register
	}
	d.server, err = serve.New(sc, append([]*xds.Collection{d.addresses, d.policies}, d.served()...)...)
	return d, err
}

// anybody reports whether clients are served without proving who they are.
func (d *Daemon) anybody() bool { return d.cfg.TokenKeys == "" && d.cluster == nil }

// served are the facts clients may read. Private keys are for clients that have proved to be their Gateway's: where nobody
// proves anything there are none.
func (d *Daemon) served() []*xds.Collection {
	if !d.anybody() {
		return d.facts
	}
	out := slices.Clone(d.facts)
	for i, c := range out {
		if c.TypeURL() == mesh.TypeWaypointSecret {
			out[i] = xds.NewCollection(mesh.TypeWaypointSecret)
		}
	}
	return out
}

// Run serves until ctx ends or a part cannot go on.
func (d *Daemon) Run(ctx context.Context) error {
	if d.anybody() {
		d.logger.Warn("no --token-keys: every client that reaches the listener is served, but for certificates of Gateways, which are kept back")
	}
	if d.cfg.StateDir == "" && d.cluster == nil {
		d.logger.Warn("no --state-dir: a policy that is refused loses its last good version when the control plane restarts")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	start := func(part string, run func(context.Context) error) {
		wg.Go(func() {
			// One part that ends takes the others with it.
			defer cancel()
			if err := run(ctx); err != nil {
				mu.Lock()
				errs = append(errs, fmt.Errorf("%s: %w", part, err))
				mu.Unlock()
			}
		})
	}
	d.blockers.set("configuration is being read")
	d.blockers.set("xds listener is not open")
	start("admin", d.runAdmin)
	if d.cluster != nil {
		start("configuration", d.cluster.source.Run)
		start("leader", d.cluster.runLeader)
		if d.cluster.authority != nil {
			start("authority", d.cluster.runAuthority)
		}
	} else {
		start("configuration", d.source.Run)
	}
	if d.gateways != nil && d.cluster == nil {
		start("gateways", d.gateways.run)
	}
	start("push", d.pusher.Run)
	start("key sets", d.keys.Run)
	start("xds", d.runServer)
	wg.Wait()
	return errors.Join(errs...)
}

// runServer opens the listeners once there is a complete mesh to serve. A client that came earlier would take an
// unfinished answer for the whole, and forget what it still has from before a restart.
func (d *Daemon) runServer(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-d.pusher.Ready():
	}
	d.blockers.clear("configuration is being read")
	d.logger.Info("configuration read", "addresses", d.addresses.Len(), "policies", d.policies.Len())
	return d.server.Run(ctx, func() { d.blockers.clear("xds listener is not open") })
}
