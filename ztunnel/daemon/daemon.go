// Package daemon puts a ztunnel together: state from xDS, certificates from the CA, pods from the CNI agent, and the proxy
// between them.
//
// It owns every goroutine of the process and knows the order in which things start and end: at a request to stop, no more
// pods, no more connections, a drain with a deadline, then everything else. What the parts do is theirs. Start reading at
// Run; what can be configured is in config.go.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/netns"
	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/ca/certs"
	"github.com/ambit-mesh/ambit/ca/client"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/hbone"
	"github.com/ambit-mesh/ambit/ztunnel/inpod"
	"github.com/ambit-mesh/ambit/ztunnel/proxy"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

// ztunnel is the running process.
type ztunnel struct {
	cfg    Config
	log    *slog.Logger
	rec    *telemetry.Recorder
	state  *state.State
	certs  *client.Manager
	ca     *client.Client
	xds    *xds.Client  // nil without XDS_ADDRESS
	static *state.State // what LOCAL_XDS holds
	synced <-chan struct{}
	proxy  *proxy.Proxy
	agent  *inpod.Client
	demand *state.Demand // nil unless XDS_ON_DEMAND
	quit   context.CancelFunc

	version string
	revoked *certs.RevocationFile // nil without CRL_PATH
	serving atomic.Bool           // in dedicated mode, once the listeners are open
}

// Run serves until ctx ends, drains, and returns when everything it started has ended.
func Run(ctx context.Context, cfg Config, version string) error {
	levels, err := telemetry.NewLevels(cfg.LogLevel)
	if err != nil {
		return fmt.Errorf("RUST_LOG: %w", err)
	}
	logs := telemetry.NewLogs(os.Stdout, cfg.LogJSON, levels)
	if cfg.WorkerThreads > 0 {
		runtime.GOMAXPROCS(cfg.WorkerThreads)
	}
	ctx, quit := context.WithCancel(ctx)
	defer quit()
	z, err := build(cfg, logs, version, quit)
	if err != nil {
		return err
	}
	z.log.Info("starting", "version", version, "node", cfg.NodeName, "xds", cfg.XDSAddress, "ca", cfg.CAAddress)

	g, serve := errgroup.WithContext(context.WithoutCancel(ctx))
	serve, stop := context.WithCancel(serve)
	defer stop()
	g.Go(func() error { return z.rec.Run(serve) })
	g.Go(func() error { return z.certs.Run(serve) })
	if z.xds != nil {
		g.Go(func() error { return z.xds.Run(serve) })
	}
	if z.demand != nil {
		g.Go(func() error { return z.demand.Run(serve) })
	}
	g.Go(func() error { return z.proxy.Run(serve) })
	g.Go(func() error { return z.serveAdmin(serve, levels) })
	g.Go(func() error { return z.followRevocations(serve) })
	g.Go(func() error {
		defer stop()
		agentCtx, cancel := context.WithCancel(ctx)
		defer cancel()
		// If any other part ends, so does this one: a proxy without its parts must not look alive.
		defer context.AfterFunc(serve, cancel)()
		z.serveOwn(agentCtx)
		err := z.servePods(agentCtx)
		z.drain(serve)
		return err
	})
	err = g.Wait()
	if z.ca != nil {
		err = errors.Join(err, z.ca.Close())
	}
	z.log.Info("stopped")
	return err
}

// servePods serves the pods the agent hands over, or the one this proxy is dedicated to and runs in, until ctx ends.
func (z *ztunnel) servePods(ctx context.Context) error {
	if !z.cfg.dedicated() {
		return z.agent.Run(ctx)
	}
	ns, err := netns.Open("/proc/self/ns/net")
	if err != nil {
		return fmt.Errorf("own network namespace: %w", err)
	}
	if err := z.proxy.Start(ctx, inpod.Pod{UID: dedicatedUID, Info: z.cfg.Dedicated, Netns: ns}); err != nil {
		return errors.Join(err, ns.Close())
	}
	z.serving.Store(true)
	<-ctx.Done()
	return nil
}

// dedicatedUID stands for the uid an agent would use.
const dedicatedUID = "dedicated"

// drain gives open connections until the deadline.
func (z *ztunnel) drain(ctx context.Context) {
	z.log.Info("draining", "deadline", z.cfg.TerminationDeadline)
	ctx, cancel := context.WithTimeout(ctx, z.cfg.TerminationDeadline)
	defer cancel()
	z.proxy.Drain(ctx)
}

func build(cfg Config, logs *telemetry.Logs, version string, quit context.CancelFunc) (*ztunnel, error) {
	z := &ztunnel{cfg: cfg, log: logs.Logger("daemon"), quit: quit, version: version, state: state.New(), static: state.New()}
	if err := cfg.loadStatic(z.state, z.static); err != nil {
		return nil, err
	}
	if cfg.CRLFile != "" {
		z.revoked = &certs.RevocationFile{Path: cfg.CRLFile}
	}
	z.rec = telemetry.New(telemetry.Options{Logs: logs, Version: version})
	reg := z.rec.Registry()
	signer, err := z.signer(logs)
	if err != nil {
		return nil, err
	}
	z.certs = client.NewManager(signer, client.Options{Logger: logs.Logger("ca"), Registerer: reg})
	z.follow(logs)
	z.proxy = proxy.New(z.proxyConfig(), proxy.Deps{
		State: z.state, Certificates: z.certs, Recorder: z.rec, Synced: z.synced, Demand: z.demand,
		Resolver: resolver{}, Upstream: upstream(z.log), Logger: logs.Logger("proxy"), DNSLogger: logs.Logger("dns"),
	})
	z.agent = inpod.NewClient(inpod.Config{Socket: cfg.InpodUDS, Logger: logs.Logger("inpod")}, z.proxy)
	return z, nil
}

// follow makes the client of the control plane. Without one, what is known is all there will ever be.
func (z *ztunnel) follow(logs *telemetry.Logs) {
	if z.cfg.XDSAddress == "" {
		known := make(chan struct{})
		close(known)
		z.synced = known
		return
	}
	cfg := z.xdsConfig(logs)
	if z.version != "" {
		cfg.Node.Metadata.Fields[mesh.MetadataVersion] = structpb.NewStringValue(z.version)
	}
	cfg.Registerer = z.rec.Registry()
	z.xds = xds.NewClient(cfg, z.state, mesh.TypeAddress, mesh.TypeAuthorization)
	z.synced = z.xds.Synced()
	if z.cfg.OnDemand {
		z.demand = state.NewDemand(z.state, z.xds)
	}
}

// signer is where certificates come from.
func (z *ztunnel) signer(logs *telemetry.Logs) (client.Signer, error) {
	switch {
	case z.cfg.FakeCA:
		z.log.Warn("FAKE_CA is set: certificates are signed with a key that everybody has, and prove nothing")
		return newFakeCA(z.cfg.SecretTTL)
	case z.cfg.CAAddress == "":
		return noAuthority{}, nil
	}
	z.ca = client.New(z.caConfig(logs))
	return z.ca, nil
}

func (z *ztunnel) proxyConfig() proxy.Config {
	c := z.cfg
	return proxy.Config{
		ClusterID: c.ClusterID, ClusterDomain: c.ClusterDomain, TrustDomain: c.TrustDomain, Network: c.Network,
		PreferredNamespace: c.PreferredServiceNamespace, Mark: c.Mark, OriginalSource: c.OriginalSource, IPv6: c.IPv6,
		PortReuse: c.PortReuse, DNS: c.DNSProxy, SOCKS5: c.SOCKS5, ResponseBaggage: c.ResponseBaggage, AppTunnelByAddress: !c.LoopbackAppTunnel, SameNode: c.SameNodeFastPath, LogPolicy: c.AuthzPolicyInfoLog,
		TLS: z.tlsPolicy(),
		HBONE: hbone.Config{
			StreamWindow: int(c.StreamWindow), ConnWindow: int(c.ConnectionWindow), MaxFrame: int(c.FrameSize),
		},
		PoolIdle: c.PoolUnusedRelease, MaxStreams: c.MaxStreamsPerConn,
		MaxConnections: c.MaxConnectionsPerPod, MaxTunnels: c.MaxTunnelsPerPod,
		Keepalive: proxy.Keepalive{Idle: c.KeepaliveTime, Interval: c.KeepaliveInterval, Count: c.KeepaliveRetries},
	}
}

func (z *ztunnel) caConfig(logs *telemetry.Logs) client.Config {
	c := z.cfg
	headers := map[string]string{"clusterid": c.ClusterID}
	for k, v := range c.CAHeaders {
		headers[k] = v
	}
	cfg := client.Config{
		Address: c.CAAddress, ServerName: c.AltCAHostname, RootCA: client.RootFile(c.CARootCA), Token: c.Token,
		Headers: headers, TTL: c.SecretTTL, Logger: logs.Logger("ca"),
		Self: c.self(),
	}
	if c.dedicated() {
		cfg.DialContext = c.dialMarked
	}
	return cfg
}

// dialMarked connects past the rules of the pod that a dedicated proxy lives in: its own connections to the control plane
// and the authority must not come back to it.
func (c Config) dialMarked(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		ctlErr := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(c.Mark))
		})
		return errors.Join(ctlErr, err)
	}}
	return d.DialContext(ctx, "tcp", addr)
}

func (z *ztunnel) xdsConfig(logs *telemetry.Logs) xds.ClientConfig {
	c := z.cfg
	u, err := url.Parse(c.XDSAddress)
	if err != nil {
		panic("daemon: Validate accepted XDS_ADDRESS " + c.XDSAddress) // our own invariant
	}
	headers := map[string]string{"clusterid": c.ClusterID}
	for k, v := range c.XDSHeaders {
		headers[k] = v
	}
	cfg := xds.ClientConfig{
		Target: u.Host, ServerName: c.AltXDSHostname, Token: c.Token, Headers: headers, Node: c.node(),
		OnDemand: c.OnDemand, Logger: logs.Logger("xds"),
	}
	if c.dedicated() {
		cfg.Dial = func(ctx context.Context) (net.Conn, error) { return c.dialMarked(ctx, u.Host) }
	}
	if u.Scheme == "https" {
		cfg.TLS = client.RootsFile(c.XDSRootCA, "XDS_ROOT_CA")
	}
	return cfg
}

// node is how the proxy introduces itself. Istio ambient wire contract, xDS transport, Node.id.
func (c Config) node() *corev3.Node {
	ip := "1.1.1.1"
	if c.InstanceIP.IsValid() {
		ip = c.InstanceIP.String()
	}
	meta := map[string]*structpb.Value{}
	for k, v := range c.Metadata {
		meta[k] = structpb.NewStringValue(v)
	}
	for k, v := range map[string]string{
		"NAME": c.PodName, "NAMESPACE": c.PodNamespace, "INSTANCE_IPS": ip, "NODE_NAME": c.NodeName,
		"CLUSTER_ID": c.ClusterID, "NETWORK": c.Network, "SERVICE_ACCOUNT": c.ServiceAccount,
	} {
		if v != "" {
			meta[k] = structpb.NewStringValue(v)
		}
	}
	return &corev3.Node{
		UserAgentName: mesh.AgentZtunnel, ClientFeatures: []string{mesh.ExtensionGuards},
		Id:       fmt.Sprintf("ztunnel~%s~%s.%s~%s.svc.%s", ip, c.PodName, c.PodNamespace, c.PodNamespace, c.ClusterDomain),
		Metadata: &structpb.Struct{Fields: meta},
	}
}

// blockers names what the proxy waits for before it is ready.
func (z *ztunnel) blockers() []string {
	var out []string
	select {
	case <-z.synced:
	default:
		out = append(out, "xds")
	}
	if !z.cfg.dedicated() {
		return append(out, z.agent.Blockers()...)
	}
	if !z.serving.Load() {
		out = append(out, "listeners")
	}
	return out
}

// noAuthority answers while CA_ADDRESS is empty.
type noAuthority struct{}

func (noAuthority) Sign(context.Context, identity.ID) (*certs.SVID, error) {
	return nil, errors.New("there is no certificate authority: set CA_ADDRESS")
}
