package push

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	events  prometheus.Counter   // object events taken in
	pushes  prometheus.Counter   // pushes that changed anything
	puts    prometheus.Counter   // resources added or changed
	removes prometheus.Counter   // resources removed
	builds  prometheus.Counter   // facts and reports computed for waypoints and gateways
	compute prometheus.Histogram // time one push takes to compute and encode
	delay   prometheus.Histogram // from the first event of a push to the collections
}

func newMetrics(reg prometheus.Registerer) *metrics {
	buckets := []float64{.0001, .0005, .001, .005, .01, .05, .1, .5, 1, 5}
	m := &metrics{
		events:  prometheus.NewCounter(prometheus.CounterOpts{Name: "ambit_control_events_total", Help: "Object events taken in."}),
		pushes:  prometheus.NewCounter(prometheus.CounterOpts{Name: "ambit_control_pushes_total", Help: "Pushes that changed at least one resource."}),
		puts:    prometheus.NewCounter(prometheus.CounterOpts{Name: "ambit_control_resources_put_total", Help: "Resources added or changed."}),
		removes: prometheus.NewCounter(prometheus.CounterOpts{Name: "ambit_control_resources_removed_total", Help: "Resources removed."}),
		builds:  prometheus.NewCounter(prometheus.CounterOpts{Name: "ambit_control_fact_builds_total", Help: "Facts, reports and what leads to them that were computed for waypoints and gateways."}),
		compute: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "ambit_control_push_compute_seconds", Help: "Time to compute and encode one push.", Buckets: buckets}),
		delay:   prometheus.NewHistogram(prometheus.HistogramOpts{Name: "ambit_control_push_delay_seconds", Help: "Time from the first event of a push until streams can send it.", Buckets: buckets}),
	}
	if reg != nil {
		reg.MustRegister(m.events, m.pushes, m.puts, m.removes, m.builds, m.compute, m.delay)
	}
	return m
}

func (m *metrics) observe(begin, since time.Time, put, removed int) {
	now := time.Now()
	m.compute.Observe(now.Sub(begin).Seconds())
	if put+removed == 0 {
		return
	}
	m.pushes.Inc()
	m.puts.Add(float64(put))
	m.removes.Add(float64(removed))
	if !since.IsZero() {
		m.delay.Observe(now.Sub(since).Seconds())
	}
}
