package server

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
)

// metrics of a Server.
type metrics struct {
	requests *prometheus.CounterVec // ambit_ca_requests_total{code}
	duration prometheus.Histogram   // ambit_ca_request_seconds
}

// newMetrics registers with reg unless that is nil.
func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ambit_ca_requests_total", Help: "CreateCertificate requests, by gRPC code of the answer."}, []string{"code"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "ambit_ca_request_seconds", Help: "How long CreateCertificate took to answer.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 8)}),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.duration)
	}
	return m
}

func (m *metrics) answered(code codes.Code, took time.Duration) {
	m.requests.WithLabelValues(code.String()).Inc()
	m.duration.Observe(took.Seconds())
}
