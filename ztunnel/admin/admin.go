// Package admin lets operators look into a running proxy: its configuration, connections, certificates, log levels,
// profiles, metrics and readiness.
//
// It reads what others own through the functions in Sources and changes nothing but the log filter; quitting is asked for,
// not done. It does not know who asks: the admin port is loopback only, the socket is for root. Serve owns its listeners
// and waits for the requests in flight. Start reading at Handler, then dump.go.
package admin

import (
	"fmt"
	"html"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/ambit-mesh/ambit/ca/client"
	"github.com/ambit-mesh/ambit/ztunnel/explain"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

// Sources are where the answers come from. Functions may be nil when there is nothing of the kind.
type Sources struct {
	Version string
	// Config is printed as it is under "config"; it must not hold secrets.
	Config any
	// State returns the snapshot that routes.
	State func() *state.Snapshot
	// Mesh is what explanations need besides.
	Mesh explain.Mesh
	// Static returns what the proxy was given besides (LOCAL_XDS). Nil: nothing.
	Static func() *state.Snapshot
	// Certificates lists the identities held.
	Certificates func() []client.Status
	// Pods lists the pods this proxy serves.
	Pods   func() []Pod
	Levels *telemetry.Levels
	// Metrics is what /metrics shows.
	Metrics prometheus.Gatherer
	// Blockers names what readiness waits for; empty means ready.
	Blockers func() []string
	// Quit asks the process to stop as a signal would.
	Quit func()
}

// Pod is one pod as workloadState shows it.
type Pod struct {
	UID               string // the uid the CNI agent uses
	State             string // "Up", "Pending", "Draining"
	Name, Namespace   string
	ServiceAccount    string
	Inbound, Outbound []Connection
}

// Connection is one open connection as config_dump shows it.
type Connection struct {
	Src         string `json:"src"`
	OriginalDst string `json:"originalDst"`
	ActualDst   string `json:"actualDst"`
	Protocol    string `json:"protocol"`
}

type page struct {
	path, about string
	post        bool
	handle      http.HandlerFunc
}

// Handler serves everything, for the admin port and the unix socket.
func Handler(s Sources) http.Handler {
	mux := http.NewServeMux()
	pages := []page{
		{path: "/config_dump", about: "workloads, services, policies, certificates and connections as JSON", handle: s.configDump},
		{path: "/explain/outbound", about: "where a connection of a pod would go: ?workload=NAMESPACE/NAME&host=NAME&port=80", handle: s.explainOutbound},
		{path: "/explain/inbound", about: "whether a pod would take a connection: ?workload=NAMESPACE/NAME&port=8080&peer=SPIFFE_ID", handle: s.explainInbound},
		{path: "/logging", about: "log filter: GET shows it, POST ?level=info,access=debug changes it, POST ?reset restores it", handle: s.logging, post: true},
		{path: "/quitquitquit", about: "POST: drain and stop", handle: s.quit, post: true},
		{path: "/debug/pprof/profile", about: "CPU profile, ?seconds=10", handle: pprof.Profile},
		{path: "/debug/pprof/heap", about: "heap profile", handle: pprof.Handler("heap").ServeHTTP},
		{path: "/debug/pprof/", about: "other profiles", handle: pprof.Index},
	}
	for _, p := range pages {
		mux.HandleFunc(p.path, p.guard)
	}
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	for path, h := range map[string]http.Handler{"/metrics": s.metrics(), "/stats/prometheus": s.metrics(), "/healthz/ready": http.HandlerFunc(s.ready)} {
		mux.Handle(path, h)
	}
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, "<!DOCTYPE html><title>ztunnel</title><h1>ztunnel %s</h1><table>\n", html.EscapeString(s.Version))
		for _, p := range append(pages, page{path: "/metrics", about: "metrics"}, page{path: "/healthz/ready", about: "readiness"}) {
			fmt.Fprintf(w, "<tr><td><a href=\"%[1]s\">%[1]s</a><td>%[2]s\n", p.path, html.EscapeString(p.about))
		}
		fmt.Fprint(w, "</table>\n")
	})
	return mux
}

// guard refuses methods a page has no use for.
func (p page) guard(w http.ResponseWriter, r *http.Request) {
	allowed := []string{http.MethodGet, http.MethodHead}
	if p.post {
		allowed = append(allowed, http.MethodPost)
	}
	if !slices.Contains(allowed, r.Method) {
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	p.handle(w, r)
}

// MetricsHandler serves the metrics port.
func MetricsHandler(s Sources) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", s.metrics())
	mux.Handle("/stats/prometheus", s.metrics())
	return mux
}

// ReadinessHandler serves the readiness port.
func ReadinessHandler(s Sources) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz/ready", s.ready)
	return mux
}

func (s Sources) metrics() http.Handler {
	if s.Metrics == nil {
		return http.NotFoundHandler()
	}
	return hurried(promhttp.HandlerFor(s.Metrics, promhttp.HandlerOpts{
		EnableOpenMetrics: true, ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: maxScrapes,
	}))
}

// The metrics port is open to the network, and a page of metrics may take tens of megabytes while it is made: few at a
// time, and none for a reader that does not read.
const (
	maxScrapes    = 4
	scrapeTimeout = 30 * time.Second
)

func hurried(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Writers that know no deadline are tests' own.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(scrapeTimeout))
		h.ServeHTTP(w, r)
	})
}

// ready answers in Istio's words: what probes and people search for.
func (s Sources) ready(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if s.Blockers != nil {
		if pending := s.Blockers(); len(pending) > 0 {
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprintf(w, "not ready, pending: %s", strings.Join(pending, ", "))
			return
		}
	}
	fmt.Fprint(w, "ready")
}

func (s Sources) quit(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "this stops the proxy: use POST", http.StatusMethodNotAllowed)
		return
	}
	fmt.Fprintln(w, "shutdown now")
	if s.Quit != nil {
		s.Quit()
	}
}

func (s Sources) logging(w http.ResponseWriter, r *http.Request) {
	if s.Levels == nil {
		http.NotFound(w, r)
		return
	}
	query := r.URL.Query()
	if r.Method == http.MethodPost {
		switch {
		case query.Has("reset"):
			s.Levels.Reset()
		case !query.Has("level"):
			http.Error(w, "say ?level=info, ?level=info,access=debug or ?reset", http.StatusBadRequest)
			return
		}
	}
	if r.Method == http.MethodPost && query.Has("level") {
		if err := s.Levels.Set(query.Get("level")); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	fmt.Fprintf(w, "current log level is %s\n", s.Levels)
}
