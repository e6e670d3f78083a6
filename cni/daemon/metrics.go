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

// countPods adds gauges of how many pods should be in the mesh and how many are: "N of N".
func (a *Agent) countPods(r *prometheus.Registry) {
	gauge := func(name, help string, of func(Counts) int) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(of(a.counts())) }))
	}
	gauge("ambit_cni_pods_desired", "running pods of the node that belong to the mesh", func(c Counts) int { return c.Desired })
	gauge("ambit_cni_pods_captured", "those of them whose traffic is redirected", func(c Counts) int { return c.Captured })
	gauge("ambit_cni_pods_taken", "those of them that a node proxy has taken as well", func(c Counts) int { return c.Taken })
	if a.parts.Installer != nil {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "istio_cni_install_ready", Help: "whether the runtime calls the plugin for new pods",
		}, func() float64 {
			if a.parts.Installer.Err() != nil {
				return 0
			}
			return 1
		}))
	}
}
