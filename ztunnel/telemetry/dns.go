package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ambit-mesh/ambit/ztunnel/state"
)

// DNSMetrics are the metrics of the DNS proxy. The zero number of label sets is bounded by the pods of the node.
type DNSMetrics struct {
	requests, upstream, failures *prometheus.CounterVec
	duration                     *prometheus.HistogramVec
}

func newDNSMetrics(reg prometheus.Registerer) *DNSMetrics {
	names := []string{"request_query_type", "request_protocol", "source_canonical_service", "source_canonical_revision"}
	vec := func(name, help string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, names)
		reg.MustRegister(v)
		return v
	}
	m := &DNSMetrics{
		requests: vec("istio_dns_requests_total", "DNS requests."),
		upstream: vec("istio_dns_upstream_requests_total", "DNS requests forwarded upstream."),
		failures: vec("istio_dns_upstream_failures_total", "DNS requests that failed upstream."),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "istio_dns_upstream_request_duration_seconds",
			Help:    "Time upstream took to answer.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 12),
		}, names),
	}
	reg.MustRegister(m.duration)
	return m
}

func dnsLabels(queryType string, tcp bool, client *state.Workload) []string {
	l := []string{queryType, "udp", unknown, unknown}
	if tcp {
		l[1] = "tcp"
	}
	if client != nil {
		if client.CanonicalName != "" {
			l[2] = client.CanonicalName
		}
		if client.CanonicalRevision != "" {
			l[3] = client.CanonicalRevision
		}
	}
	return l
}

// Request counts one question of a client, which may be nil.
func (m *DNSMetrics) Request(queryType string, tcp bool, client *state.Workload) {
	m.requests.WithLabelValues(dnsLabels(queryType, tcp, client)...).Inc()
}

// Upstream counts one forwarded question and how it went.
func (m *DNSMetrics) Upstream(queryType string, tcp bool, client *state.Workload, took time.Duration, failed bool) {
	l := dnsLabels(queryType, tcp, client)
	m.upstream.WithLabelValues(l...).Inc()
	m.duration.WithLabelValues(l...).Observe(took.Seconds())
	if failed {
		m.failures.WithLabelValues(l...).Inc()
	}
}
