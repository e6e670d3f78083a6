package client

import (
	"cmp"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ambit-mesh/ambit/ca/certs"
	"github.com/ambit-mesh/ambit/ca/identity"
)

// State of one identity in a Dump.
type State string

// States.
const (
	// StateInitializing: no answer of the authority yet.
	StateInitializing State = "Initializing"
	// StateAvailable: a valid certificate is at hand, perhaps one that could not be renewed yet (see Err).
	StateAvailable State = "Available"
	// StateUnavailable: there is no valid certificate, and Err says why.
	StateUnavailable State = "Unavailable"
)

// Status is one identity as Dump sees it.
type Status struct {
	ID    identity.ID
	State State
	// SVID is the last good certificate, nil if there never was one; it may have expired.
	SVID *certs.SVID
	// Err is the outcome of the last attempt when that failed, also while the certificate before it is still valid.
	Err string
	// Held is by how many holders.
	Held int
	// Next is when the next request is planned, zero while one is under way.
	Next time.Time
}

// Dump lists every identity, sorted.
func (m *Manager) Dump() []Status {
	m.mu.RLock()
	out := make([]Status, 0, len(m.entries))
	for _, e := range m.entries {
		s := Status{ID: e.id, SVID: e.svid.Load(), Held: e.holds, State: StateInitializing}
		switch {
		case e.usable() != nil:
			s.State = StateAvailable
		case e.err != nil || s.SVID != nil:
			s.State = StateUnavailable
		}
		if e.err != nil {
			s.Err = e.err.Error()
		}
		if e.job.state == planned {
			s.Next = e.job.due
		}
		out = append(out, s)
	}
	m.mu.RUnlock()
	slices.SortFunc(out, func(a, b Status) int { return cmp.Compare(a.ID.String(), b.ID.String()) })
	return out
}

// metrics of a Manager.
type metrics struct {
	requests *prometheus.CounterVec // ambit_ca_client_requests_total{result}
	duration prometheus.Histogram   // ambit_ca_client_request_seconds
	manager  *Manager               // for the gauges, read when scraped
	expiry   *prometheus.Desc       // ambit_cert_seconds_to_expiry{identity}
	missing  *prometheus.Desc       // ambit_cert_identities{state}
}

// newMetrics registers with reg unless that is nil.
func newMetrics(reg prometheus.Registerer, m *Manager) *metrics {
	x := &metrics{
		manager: m,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ambit_ca_client_requests_total", Help: "Certificate requests made to the authority, by result (ok, error)."}, []string{"result"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "ambit_ca_client_request_seconds", Help: "How long certificate requests took.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 8)}),
		expiry:  prometheus.NewDesc("ambit_cert_seconds_to_expiry", "Seconds until the certificate in use expires; negative when it has.", []string{"identity"}, nil),
		missing: prometheus.NewDesc("ambit_cert_identities", "Identities this process keeps a certificate for, by state.", []string{"state"}, nil),
	}
	if reg != nil {
		reg.MustRegister(x.requests, x.duration, x)
	}
	// From zero: Prometheus sees no increase in a series that begins with one.
	for _, result := range []string{"ok", "error"} {
		x.requests.WithLabelValues(result)
	}
	return x
}

func (x *metrics) signed(err error, took time.Duration) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	x.requests.WithLabelValues(result).Inc()
	x.duration.Observe(took.Seconds())
}

// Describe implements prometheus.Collector.
func (x *metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- x.expiry
	ch <- x.missing
}

// Collect implements prometheus.Collector.
func (x *metrics) Collect(ch chan<- prometheus.Metric) {
	states := map[State]int{StateInitializing: 0, StateAvailable: 0, StateUnavailable: 0}
	for _, s := range x.manager.Dump() {
		states[s.State]++
		if s.SVID != nil {
			ch <- prometheus.MustNewConstMetric(x.expiry, prometheus.GaugeValue, time.Until(s.SVID.NotAfter).Seconds(), s.ID.String())
		}
	}
	for state, n := range states {
		ch <- prometheus.MustNewConstMetric(x.missing, prometheus.GaugeValue, float64(n), string(state))
	}
}
