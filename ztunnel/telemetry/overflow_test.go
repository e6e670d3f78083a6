package telemetry

import "github.com/prometheus/client_golang/prometheus"

// overflowOnly collects the one metric without labels of a traffic.
type overflowOnly struct{ t *traffic }

func (o overflowOnly) Describe(ch chan<- *prometheus.Desc) { ch <- overflowDesc }

func (o overflowOnly) Collect(ch chan<- prometheus.Metric) {
	all := make(chan prometheus.Metric, 1000)
	o.t.Collect(all)
	close(all)
	for m := range all {
		if m.Desc() == overflowDesc {
			ch <- m
		}
	}
}
