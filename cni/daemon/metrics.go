package daemon

import "github.com/prometheus/client_golang/prometheus"

// metrics are the agent's own; the hand-off has its gauge.
type metrics struct {
	// events counts what made the agent look at pods. istio/istio cni/pkg/nodeagent/metrics.go.
	events *prometheus.CounterVec
	// requests counts what the plugin asked, by the answer's code.
	requests *prometheus.CounterVec
	// gatherer is what /metrics shows.
	gatherer prometheus.Gatherer
}

func newMetrics(r *prometheus.Registry) *metrics {
	m := &metrics{
		gatherer: r,
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nodeagent_reconcile_events_total", Help: "events that made the agent reconcile, by type",
		}, []string{"type"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "istio_cni_plugin_requests_total", Help: "requests of the CNI plugin, by response code",
		}, []string{"response_code"}),
	}
	r.MustRegister(m.events, m.requests)
	return m
}
