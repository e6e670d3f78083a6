package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/ambit-mesh/ambit/control/file"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/push"
	"github.com/ambit-mesh/ambit/control/serve"
	"github.com/ambit-mesh/ambit/control/status"
)

// blockers are the reasons why the daemon is not ready.
type blockers struct {
	mu   sync.Mutex
	open []string // guarded by mu
}

func (b *blockers) set(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Contains(b.open, name) {
		b.open = append(b.open, name)
	}
}

func (b *blockers) clear(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open = slices.DeleteFunc(b.open, func(o string) bool { return o == name })
}

func (b *blockers) list() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.open)
}

// runAdmin serves operators on the local socket and address, and monitors on theirs, until ctx ends.
func (d *Daemon) runAdmin(ctx context.Context) error {
	type open struct {
		net.Listener
		*http.Server
	}
	var all []open
	defer func() {
		for _, o := range all {
			o.Server.Close()
			o.Listener.Close()
		}
	}()
	add := func(flag, addr string, h http.Handler, listen func(string) (net.Listener, error)) error {
		if addr == "" {
			return nil
		}
		l, err := listen(addr)
		if err != nil {
			return fmt.Errorf("listen on %s: %w", flag, err)
		}
		all = append(all, open{l, &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}})
		return nil
	}
	tcp := func(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }
	operators := d.admin()
	if err := errors.Join(
		add("--admin-socket", d.cfg.AdminSocket, operators, serve.ListenUnix),
		add("--admin-address", d.cfg.AdminAddress, operators, tcp),
		add("--monitoring-address", d.cfg.MonitoringAddress, d.monitoring(), tcp),
	); err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make(chan error, len(all))
	for _, o := range all {
		wg.Go(func() { errs <- o.Server.Serve(o.Listener) })
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-errs:
	}
	for _, o := range all {
		o.Server.Close()
	}
	wg.Wait()
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// monitoring is what anybody who reaches the pod may ask.
func (d *Daemon) monitoring() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", d.readyz)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.Handle("GET /metrics", promhttp.HandlerFor(d.registry, promhttp.HandlerOpts{}))
	return mux
}

// clients lists who is connected to this instance.
func (d *Daemon) clients(w http.ResponseWriter, _ *http.Request) {
	list := d.server.Clients()
	for i := range list {
		list[i].Server = d.cfg.Instance
	}
	reply(w, list)
}

// admin is what operators can ask.
func (d *Daemon) admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", d.help)
	mux.HandleFunc("GET /readyz", d.readyz)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.Handle("GET /metrics", promhttp.HandlerFor(d.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /debug/refusals", d.refusals)
	mux.HandleFunc("GET /debug/clients", d.clients)
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, map[string]string{"version": d.cfg.Version, "goVersion": runtime.Version(), "instance": d.cfg.Instance})
	})
	mux.Handle("/ca/", d.authority())
	mux.HandleFunc("GET /config_dump", d.configDump)
	mux.HandleFunc("GET /debug/facts", d.factDump)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

func (d *Daemon) help(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprint(w, `/readyz           200 once served, else what is missing
/metrics          Prometheus metrics
/debug/refusals   what is refused or doubtful in the configuration, and why; conditions of objects
/debug/clients    connected proxies and what they acknowledged
/version          of this program
/ca/config_dump   what certificates are signed with, where the authority is inside; /ca/roots; POST /ca/rotate
/config_dump      what is served; ?name=PART filters by resource name
/debug/facts      what waypoints and gateways are served; ?gateway=NAMESPACE/NAME, ?name=PART
/debug/pprof/     profiles
`)
}

func (d *Daemon) readyz(w http.ResponseWriter, _ *http.Request) {
	open := d.blockers.list()
	if len(open) == 0 {
		fmt.Fprintln(w, "ready")
		return
	}
	if d.cluster != nil {
		open = append(open, d.cluster.source.Waiting()...)
	}
	http.Error(w, "not ready: "+strings.Join(open, "; "), http.StatusServiceUnavailable)
}

// Refusals is the answer of /debug/refusals.
type Refusals struct {
	// Entries are refusals first, then warnings.
	Entries []status.Entry `json:"entries"`
	// Source counts what was read, and what kinds of objects the mesh has no use for.
	Source file.Stats `json:"source"`
	// Objects are the conditions and warnings of objects.
	Objects []push.ObjectReport `json:"objects"`
	// Settings are those that tools must know to judge configuration.
	Settings Settings `json:"settings"`
}

// Settings are what the control plane was started with.
type Settings struct {
	TrustDomain     string `json:"trustDomain"`
	ClusterID       string `json:"clusterId"`
	ClusterDomain   string `json:"clusterDomain"`
	RootNamespace   string `json:"rootNamespace"`
	NetworkPolicies bool   `json:"networkPolicies"`
	DryRunPolicies  bool   `json:"dryRunPolicies"`

	Revisions              []string `json:"revisions"`
	ServiceEntryVisibility string   `json:"serviceEntryVisibility,omitempty"`
}

func (d *Daemon) refusals(w http.ResponseWriter, _ *http.Request) {
	r := Refusals{Entries: d.status.List(), Objects: d.pusher.Reports(), Settings: Settings{
		TrustDomain: d.cfg.TrustDomain, ClusterID: d.cfg.ClusterID, ClusterDomain: d.cfg.ClusterDomain,
		RootNamespace: d.cfg.RootNamespace, NetworkPolicies: d.cfg.NetworkPolicies, DryRunPolicies: d.cfg.DryRunPolicies,
		Revisions: d.cfg.Revisions, ServiceEntryVisibility: d.cfg.ServiceEntryVisibility,
	}}
	if d.source != nil {
		r.Source = d.source.Stats()
	}
	for i := range r.Entries {
		d.locate(&r.Entries[i])
	}
	r.Entries = append(d.foreign(), r.Entries...)
	if err := d.server.Problem(); err != nil {
		r.Entries = append(r.Entries, status.Entry{Severity: status.Warning, Code: status.Operational, Kind: "Certificate", Name: d.cfg.TLSDir, Problem: err.Error(), Fix: "the one before stays in use; write a matching tls.crt and tls.key"})
	}
	if d.tokenKeys != nil && d.tokenKeys.Err() != nil {
		r.Entries = append(r.Entries, status.Entry{Severity: status.Warning, Code: status.Operational, Kind: "Keys", Name: d.cfg.TokenKeys, Problem: d.tokenKeys.Err().Error(), Fix: "the keys before stay in use; correct the file"})
	}
	reply(w, r)
}

// locate adds where an object is written to what the model says about it: the model knows objects alone.
func (d *Daemon) locate(e *status.Entry) {
	if e.File != "" || e.Name == "" || d.source == nil {
		return
	}
	if kind, ok := object.ParseKind(e.Kind); ok {
		e.File, e.Line = d.source.Place(object.Key{Kind: kind, Namespace: e.Namespace, Name: e.Name})
	}
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	// The only error is a reader that went away.
	_ = e.Encode(v)
}
