package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/ambit-mesh/ambit/api/auth"
	"github.com/ambit-mesh/ambit/ca/issuer"
	"github.com/ambit-mesh/ambit/ca/server"
	"github.com/ambit-mesh/ambit/control/conditions"
	"github.com/ambit-mesh/ambit/control/kube"
)

// clusterRunner is what there is of a control plane only in a cluster: the door to the API server, and the authority for
// the mesh's certificates, which shares the xDS listener.
type clusterRunner struct {
	d         *Daemon
	cluster   *kube.Cluster
	source    *kube.Source
	places    *kube.Places
	tokens    *kube.Tokens
	writer    *kube.Writer
	authority *kube.Authority // nil with certificates from elsewhere
	dir       string          // private, for the authority's key and the serving certificate
	ca        atomic.Pointer[server.Server]
	issuer    atomic.Pointer[issuer.Issuer]
	leading   atomic.Int32
	opened    chan struct{} // closed when there is an issuer
}

// own is the namespace of this installation.
func (c Config) own() string { return cmp.Or(c.Namespace, c.RootNamespace) }

// rootNamespaces are where pods mount the roots: those of Gateways, and the mesh's own.
func (c Config) rootNamespaces() kube.Spaces {
	if len(c.GatewayNamespaces) == 0 {
		return nil
	}
	return append(kube.Spaces{c.own()}, c.GatewayNamespaces...)
}

// inCluster says whether the configuration comes from an API server.
func (c Config) inCluster() bool { return c.InCluster || c.Kubeconfig+c.KubeContext != "" }

// sourceConfig is what is read, and for whom.
func (c *clusterRunner) sourceConfig() kube.SourceConfig {
	cfg := c.d.cfg
	return kube.SourceConfig{
		Cluster: c.cluster, Sink: c.d.pusher, Status: c.d.status, ClusterDomain: cfg.ClusterDomain, Places: c.places, Namespace: cfg.own(), Logger: c.d.logger,
		NetworkPolicies: cfg.NetworkPolicies, Secrets: cfg.SecretNamespaces, RootNamespace: cfg.RootNamespace,
	}
}

// newCluster is nil when the configuration comes from a folder.
func newCluster(d *Daemon) (*clusterRunner, error) {
	cfg := d.cfg
	if !cfg.inCluster() {
		return nil, nil
	}
	c := &clusterRunner{d: d, places: kube.NewPlaces(), opened: make(chan struct{})}
	var err error
	if c.cluster, err = kube.Connect(kube.Access{InCluster: cfg.InCluster, Kubeconfig: cfg.Kubeconfig, Context: cfg.KubeContext}, d.logger); err != nil {
		return nil, err
	}
	c.source = kube.NewSource(c.sourceConfig())
	d.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "ambit_control_unreadable_kinds", Help: "Kinds that the control plane cannot read at the moment: the API server refuses, or serves them no more.",
		}, func() float64 { return float64(c.source.Failing()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "ambit_control_leader", Help: "1 on the replica that writes status and what runs for Gateways.",
		}, func() float64 { return float64(c.leading.Load()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "ambit_control_last_good_not_kept", Help: "Policies in force whose last good version a restart would lose: there is no room to note it. Told by the leader.",
		}, func() float64 { return float64(c.source.NotKept()) }),
	)
	c.writer = kube.NewWriter(c.source)
	c.tokens = kube.NewTokens(c.cluster, cfg.TrustDomain)
	if cfg.TLSDir != "" {
		return c, nil
	}
	if cfg.StateDir != "" {
		// Of a process that was killed.
		old, _ := filepath.Glob(filepath.Join(cfg.StateDir, "ambitd-*"))
		for _, dir := range old {
			if err := os.RemoveAll(dir); err != nil {
				return nil, fmt.Errorf("remove keys of an earlier process: %w", err)
			}
		}
	}
	if c.dir, err = os.MkdirTemp(cfg.StateDir, "ambitd-"); err != nil {
		return nil, fmt.Errorf("a private folder for keys (--state-dir, or TMPDIR): %w", err)
	}
	c.authority = kube.NewAuthority(kube.AuthorityConfig{
		Cluster: c.cluster, Namespace: cfg.own(), Dir: c.dir,
		Issuer: issuer.Config{TrustDomain: cfg.TrustDomain, DefaultTTL: cfg.DefaultTTL, MaxTTL: cfg.MaxTTL, RootTTL: cfg.RootTTL, Logger: d.logger, Registerer: d.registry}, Logger: d.logger,
	})
	return c, nil
}

// tlsDir is where the serving certificate is.
func (c *clusterRunner) tlsDir() string {
	if c == nil || c.authority == nil {
		return ""
	}
	return filepath.Join(c.dir, "serving")
}

// register adds the authority to a listener, which opens only after there is a serving certificate, and so an authority.
func (c *clusterRunner) register(g grpc.ServiceRegistrar) {
	if ca := c.ca.Load(); ca != nil {
		auth.RegisterIstioCertificateServiceServer(g, ca)
	}
}

// names are those the control plane is reached by; Istio's are among them for proxies of Istio's.
func (c Config) names() []string {
	var out []string
	for _, svc := range []string{"ambitd", "istiod"} {
		for _, ns := range []string{c.own(), "istio-system"} {
			out = append(out, svc+"."+ns+".svc", svc+"."+ns+".svc."+c.ClusterDomain, svc+"."+ns)
		}
	}
	return append(append(out, "localhost", "127.0.0.1", "::1"), c.ServingNames...)
}

// runAuthority opens the authority and keeps it and the serving certificate fresh until ctx ends.
func (c *clusterRunner) runAuthority(ctx context.Context) error {
	defer os.RemoveAll(c.dir)
	iss, err := c.authority.Open(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	ca, err := server.New(server.Config{
		Signer: iss, Authenticators: []server.Authenticator{c.tokens, server.CertificateAuthenticator{Bundle: iss.Bundle}},
		TrustedNodeAccounts: c.d.cfg.TrustedNodeAccounts, Placement: c.places, Logger: c.d.logger, Registerer: c.d.registry,
	})
	if err != nil {
		return err
	}
	c.issuer.Store(iss)
	c.ca.Store(ca)
	close(c.opened)
	serving := &issuer.Renewal{Issuer: iss, Names: c.d.cfg.names(), Dir: c.tlsDir(), Logger: c.d.logger}
	if err := serving.Renew(); err != nil {
		return err
	}
	m := iss.Current()
	c.d.logger.Info("certificate authority open", "trust_domain", c.d.cfg.TrustDomain, "issuer", m.Cert.Subject.String(), "expires", m.Until)
	var wg sync.WaitGroup
	errs := make([]error, 3)
	for i, run := range []func(context.Context) error{iss.Run, serving.Run, c.authority.Run} {
		wg.Go(func() { errs[i] = run(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// runLeader writes, while this replica is the leader, until ctx ends: status, what runs for Gateways, the roots and revocation
// lists of every namespace, and Events.
func (c *clusterRunner) runLeader(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-c.d.pusher.Ready():
	}
	name := os.Getenv("POD_NAME")
	if name == "" {
		name, _ = os.Hostname() // the number tells replicas apart
	}
	leader := kube.NewLeader(kube.LeaderConfig{
		Cluster: c.cluster, Namespace: c.d.cfg.own(), Identity: fmt.Sprintf("%s_%08x", name, rand.Uint32()), Logger: c.d.logger,
	})
	feed := kube.NewGatewayFeed(c.source, c.d.gateways.reconciler)
	return leader.Run(ctx, func(ctx context.Context) {
		c.leading.Store(1)
		defer c.leading.Store(0)
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() { feed.Run(ctx) })
		wg.Go(func() { c.source.KeepLastGood(ctx) })
		if sel := c.d.cfg.UntaintFor; sel != "" {
			u := &kube.Untaint{Cluster: c.cluster, Namespace: c.d.cfg.own(), Selector: sel, Logger: c.d.logger}
			wg.Go(func() { u.Run(ctx) })
		}
		wg.Go(func() { _ = c.d.gateways.reconciler.Run(ctx) })                       // ends only with ctx
		wg.Go(func() { _ = conditions.New(conditionsOver(c.d, c.writer)).Run(ctx) }) // so does this
		wg.Go(func() { kube.NewEvents(c.source, c.d.status, c.d.cfg.own(), c.d.logger).Run(ctx) })
		revoked := kube.NewRevocations(kube.RevocationsConfig{Cluster: c.cluster, Namespace: c.d.cfg.own(), ConfigMap: c.d.cfg.CRLConfigMap, Logger: c.d.logger})
		wg.Go(func() { revoked.Run(ctx) })
		wg.Go(func() {
			kube.NewLists(kube.PublisherConfig{
				Cluster: c.cluster, Bundle: revoked.Lists, Changed: revoked.Changed, Namespaces: c.d.cfg.rootNamespaces(), Logger: c.d.logger,
			}).Run(ctx)
		})
		if c.authority == nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-c.opened:
		}
		iss := c.issuer.Load()
		wg.Go(func() { _ = c.authority.Rotate(ctx) }) // and this
		kube.NewRoots(kube.PublisherConfig{
			Cluster: c.cluster, Bundle: func() []byte { return iss.Bundle().PEM() }, Changed: iss.Changed, Namespaces: c.d.cfg.rootNamespaces(), Logger: c.d.logger,
		}).Run(ctx)
	})
}
