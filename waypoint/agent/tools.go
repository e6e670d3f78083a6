package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ambit-mesh/ambit/waypoint/agent/render"
	"github.com/ambit-mesh/ambit/waypoint/explain"
)

// serveTools answers scrapes, lifecycle hooks, people and tools until ctx ends.
//
//	MetricsAddress (everybody)    /stats/prometheus /metrics /healthz/ready, and from loopback POST /quitquitquit /healthcheck/fail
//	ToolsAddress, AdminSocket     all of that, /facts /problems /readyz /synced /explain /debug/pprof, and Envoy's /config_dump /clusters …
func (a *agent) serveTools(ctx context.Context) error {
	public := http.NewServeMux()
	public.HandleFunc("GET /stats/prometheus", a.serveMetrics)
	public.HandleFunc("GET /metrics", a.serveMetrics)
	public.HandleFunc("GET /healthz/ready", a.serveReady)
	public.HandleFunc("POST /quitquitquit", fromLoopback(a.serveQuit))
	public.HandleFunc("POST /healthcheck/fail", fromLoopback(a.serveEnvoyAdmin))

	tools := http.NewServeMux()
	tools.HandleFunc("GET /{$}", a.serveIndex)
	tools.HandleFunc("GET /facts", a.serveFacts)
	tools.HandleFunc("GET /problems", a.serveProblems)
	tools.HandleFunc("GET /readyz", a.serveReady)
	tools.HandleFunc("GET /synced", a.serveSynced)
	tools.HandleFunc("GET /explain", a.serveExplain)
	tools.HandleFunc("POST /explain", a.serveExplain)
	tools.HandleFunc("GET /healthz/ready", a.serveReady)
	tools.HandleFunc("GET /stats/prometheus", a.serveMetrics)
	tools.HandleFunc("GET /metrics", a.serveMetrics)
	tools.HandleFunc("POST /quitquitquit", a.serveQuit)
	for _, path := range []string{"config_dump", "clusters", "listeners", "stats", "certs", "server_info", "init_dump", "memory", "runtime"} {
		tools.HandleFunc("GET /"+path, a.serveEnvoyAdmin)
	}
	for _, path := range []string{"logging", "healthcheck/fail", "healthcheck/ok", "reset_counters"} {
		tools.HandleFunc("POST /"+path, a.serveEnvoyAdmin)
	}
	tools.HandleFunc("GET /debug/pprof/", pprof.Index)
	tools.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	tools.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)

	g, ctx := errgroup.WithContext(ctx)
	serve := func(l net.Listener, err error, h http.Handler) {
		g.Go(func() error {
			if err != nil {
				return err
			}
			return serveHTTP(ctx, l, h)
		})
	}
	if a.cfg.MetricsAddress != "" {
		l, err := net.Listen("tcp", a.cfg.MetricsAddress)
		serve(l, wrap(err, "listen for scrapes (--metrics-address)"), public)
	}
	if a.cfg.ToolsAddress != "" {
		l, err := net.Listen("tcp", a.cfg.ToolsAddress)
		serve(l, wrap(err, "listen for tools (--tools-address)"), fromLoopback(tools.ServeHTTP))
	}
	if a.cfg.AdminSocket != "" {
		l, err := listenUnix(a.cfg.AdminSocket)
		serve(l, wrap(err, "listen for tools (AMBIT_ADMIN_SOCKET)"), tools)
	}
	return g.Wait()
}

func wrap(err error, what string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10, IdleTimeout: 2 * time.Minute}
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// fromLoopback refuses callers from outside the pod, and Envoy: what it dials for others, it dials from the pod's address.
// That it can only do for one family, so the other does not count.
func fromLoopback(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil || !from.Addr().Unmap().Is4() || !from.Addr().Unmap().IsLoopback() {
			http.Error(w, "only from inside the pod, at 127.0.0.1", http.StatusForbidden)
			return
		}
		h(w, r)
	}
}

func (a *agent) serveIndex(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintf(w, `waypoint %s/%s
GET  /facts             what the control plane has told
GET  /problems          what is not in force as it was written, and why
GET  /readyz            what keeps this instance from being ready
GET  /synced            whether Envoy has everything that was told
GET  /explain           what would become of a request, described in JSON in the body or in ?request=
GET  /metrics           metrics of Envoy and of the agent
GET  /config_dump /clusters /listeners /stats /certs /server_info /init_dump /memory /runtime   as Envoy has them
POST /logging /healthcheck/fail /healthcheck/ok                                                 as Envoy has them
POST /quitquitquit      drain and stop
`, a.cfg.PodNamespace, a.cfg.GatewayName)
}

func (a *agent) serveFacts(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if err := a.facts.Current().WriteJSON(w); err != nil {
		a.log.Debug("facts not written", "err", err)
	}
}

func (a *agent) serveProblems(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	if err := enc.Encode(a.problems()); err != nil {
		a.log.Debug("problems not written", "err", err)
	}
}

// serveReady answers with what is missing. Envoy's own readiness port is the one for probes; this adds the reasons.
func (a *agent) serveReady(w http.ResponseWriter, r *http.Request) {
	blockers := a.blockers()
	if len(blockers) == 0 {
		if err := a.admin.ready(r.Context()); err != nil {
			blockers = append(blockers, err.Error())
		}
	}
	if len(blockers) > 0 {
		http.Error(w, "not ready: "+strings.Join(blockers, ", "), http.StatusServiceUnavailable)
		return
	}
	io.WriteString(w, "ready\n")
}

// serveSynced answers with what Envoy has not got yet of the facts received so far.
func (a *agent) serveSynced(w http.ResponseWriter, _ *http.Request) {
	if behind := a.behind(); len(behind) > 0 {
		http.Error(w, "waiting for: "+strings.Join(behind, ", "), http.StatusServiceUnavailable)
		return
	}
	io.WriteString(w, "synced\n")
}

// serveExplain says what would become of a request.
func (a *agent) serveExplain(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if q := r.URL.Query().Get("request"); q != "" {
		body = []byte(q)
	}
	var req explain.Request
	if err == nil {
		err = json.Unmarshal(body, &req)
	}
	if err != nil {
		http.Error(w, "the request to explain is no JSON: "+err.Error(), http.StatusBadRequest)
		return
	}
	snapshot := a.facts.Current()
	if snapshot.Gateway() == nil {
		http.Error(w, "the Gateway is not known yet", http.StatusServiceUnavailable)
		return
	}
	if req.Ejected, err = a.admin.ejected(r.Context()); err != nil {
		a.log.Debug("explained without what Envoy knows of failing endpoints", "err", err)
	}
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	if err := enc.Encode(explain.Explain(render.Env(snapshot, a.opts, a.wasm.File, nil), req)); err != nil {
		a.log.Debug("explanation not written", "err", err)
	}
}

func (a *agent) serveQuit(w http.ResponseWriter, _ *http.Request) {
	io.WriteString(w, "draining\n")
	a.log.Info("asked to stop", "by", "/quitquitquit")
	a.quit()
}

// serveEnvoyAdmin passes a request on to Envoy's admin port.
func (a *agent) serveEnvoyAdmin(w http.ResponseWriter, r *http.Request) {
	resp, err := a.admin.do(r.Context(), r.Method, r.URL.RequestURI())
	if err != nil {
		http.Error(w, "Envoy's admin port: "+err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	if t := resp.Header.Get("Content-Type"); t != "" {
		w.Header().Set("Content-Type", t)
	}
	w.WriteHeader(resp.StatusCode)
	io.Copy(w, resp.Body)
}
