package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// listenUnix makes the socket under another name and moves it into place; closing it leaves the path to a successor.
func listenUnix(path string) (net.Listener, error) {
	tmp := filepath.Join(filepath.Dir(path), fmt.Sprintf(".s%d-%d", os.Getpid(), len(path)))
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove stale socket: %w", err)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen at %s (the directory must exist and the path be shorter than 108 bytes): %w", path, err)
	}
	ln.SetUnlinkOnClose(false)
	if err = os.Chmod(tmp, 0o600); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("put a socket at %s: %w", path, err), ln.Close(), os.Remove(tmp))
	}
	return ln, nil
}

// serveHTTP serves until ctx ends, then gives requests under way a moment.
func serveHTTP(ctx context.Context, ln net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := srv.Shutdown(end); err != nil {
		srv.Close()
	}
	<-done
	return nil
}

// monitors are the servers for people and probes.
func (a *Agent) monitors() []func(context.Context) error {
	var out []func(context.Context) error
	add := func(listen func() (net.Listener, error), h http.Handler) {
		out = append(out, func(ctx context.Context) error {
			ln, err := listen()
			if err != nil {
				return err
			}
			return serveHTTP(ctx, ln, h)
		})
	}
	ready, all := http.NewServeMux(), http.NewServeMux()
	for _, mux := range []*http.ServeMux{ready, all} {
		mux.HandleFunc("/readyz", a.readyz)
		mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	}
	scrape := promhttp.HandlerFor(a.metrics.gatherer, promhttp.HandlerOpts{})
	all.Handle("/metrics", scrape)
	all.HandleFunc("/pods", a.dump)
	all.HandleFunc("/status", a.status)
	metrics := http.NewServeMux()
	metrics.Handle("/metrics", scrape)
	tcp := func(addr string) func() (net.Listener, error) {
		return func() (net.Listener, error) { return net.Listen("tcp", addr) }
	}
	if a.cfg.ReadyAddr != "" {
		add(tcp(a.cfg.ReadyAddr), ready)
	}
	if a.cfg.MonitoringAddr != "" {
		add(tcp(a.cfg.MonitoringAddr), metrics)
	}
	if a.cfg.AdminAddr != "" {
		add(tcp(a.cfg.AdminAddr), all)
	}
	if a.cfg.AdminSocket != "" {
		add(func() (net.Listener, error) { return listenUnix(a.cfg.AdminSocket) }, all)
	}
	return out
}

func (a *Agent) readyz(w http.ResponseWriter, _ *http.Request) {
	if !a.ready.Load() {
		http.Error(w, "not ready: the first look at all pods of the node is not over", http.StatusServiceUnavailable)
		return
	}
	if i := a.parts.Installer; i != nil && i.Err() != nil {
		http.Error(w, "not ready: new pods start without the mesh: "+i.Err().Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// dump lists the pods of the node and what the agent did for them.
func (a *Agent) dump(w http.ResponseWriter, _ *http.Request) {
	type row struct {
		Pod, UID, Netns, Reason string
		Enrolled, Captured      bool
		TakenByProxy            bool
	}
	var rows []row
	a.mu.Lock()
	for k, p := range a.pods {
		d := a.cfg.Policy.Decide(p, a.namespaces[k.Namespace])
		r := row{Pod: k.String(), UID: p.UID, Reason: d.Reason, Enrolled: d.Enrolled}
		if rec := a.records[k]; rec != nil {
			r.Captured, r.Netns = true, rec.ns.ID().String()
			r.TakenByProxy = a.proxies.Acked(p.UID, rec.ns.ID())
			if rec.open > 0 {
				r.Reason += fmt.Sprintf("; %d of its connections still go through the proxy", rec.open)
			}
		}
		rows = append(rows, r)
	}
	a.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(rows)
}

// Counts are the pods of a node.
type Counts struct {
	// Desired run, and belong to the mesh; Captured of them are redirected; Taken of those have a proxy listening.
	Desired, Captured, Taken int
}

func (a *Agent) counts() Counts {
	a.mu.Lock()
	defer a.mu.Unlock()
	var c Counts
	for k, p := range a.pods {
		rec := a.records[k]
		// A pod without a sandbox has nothing to capture.
		if p.Phase != "Running" && rec == nil || !a.cfg.Policy.Decide(p, a.namespaces[k.Namespace]).Enrolled {
			continue
		}
		c.Desired++
		if rec == nil {
			continue
		}
		c.Captured++
		if a.proxies.Acked(p.UID, rec.ns.ID()) {
			c.Taken++
		}
	}
	return c
}

// Status is what /status says, for tools.
type Status struct {
	Node, Version, Redirection string
	Ready                      bool
	Pods                       Counts
	// Proxies is how many node proxies are connected.
	Proxies int
	// Plugin is empty while the runtime calls the plugin for new pods, and says what is wrong otherwise.
	Plugin string
	// PluginWarning is what is not as it should be of the plugin and keeps nobody from calling it.
	PluginWarning string `json:",omitempty"`
	// Waiting says of pods that are not where they should be why.
	Waiting map[string]string
}

func (a *Agent) status(w http.ResponseWriter, _ *http.Request) {
	s := Status{Node: a.cfg.Node, Version: a.cfg.Version, Redirection: a.backend.Name(), Ready: a.ready.Load(), Pods: a.counts(), Proxies: a.proxies.Proxies(), Waiting: map[string]string{}}
	if i := a.parts.Installer; i != nil {
		if err := i.Err(); err != nil {
			s.Plugin = err.Error()
		}
		if err := i.Warning(); err != nil {
			s.PluginWarning = err.Error()
		}
	}
	a.mu.Lock()
	for k, why := range a.complaints {
		s.Waiting[k.String()] = why
	}
	a.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(s)
}
