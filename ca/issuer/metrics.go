package issuer

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of an Issuer.
type metrics struct {
	issued  prometheus.Counter // ambit_ca_certificates_issued_total
	changes prometheus.Counter // ambit_ca_issuer_changes_total
	refused prometheus.Counter // ambit_ca_issuer_files_refused_total
}

// newMetrics registers with reg unless that is nil.
func newMetrics(reg prometheus.Registerer, i *Issuer) *metrics {
	m := &metrics{
		issued:  prometheus.NewCounter(prometheus.CounterOpts{Name: "ambit_ca_certificates_issued_total", Help: "Certificates signed."}),
		changes: prometheus.NewCounter(prometheus.CounterOpts{Name: "ambit_ca_issuer_changes_total", Help: "Times the issuer's certificate or roots were replaced."}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{Name: "ambit_ca_issuer_files_refused_total", Help: "Distinct issuer files that were refused while the last good ones stayed in use."}),
	}
	if reg == nil {
		return m
	}
	reg.MustRegister(m.issued, m.changes, m.refused,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "ambit_ca_issuer_seconds_to_expiry", Help: "Seconds until the issuing certificate, or its path to the root, expires."},
			func() float64 { return time.Until(i.Current().Until).Seconds() }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "ambit_ca_root_seconds_to_expiry", Help: "Seconds until the first of the trusted roots expires."},
			func() float64 {
				var first time.Time
				for _, c := range i.Bundle().Certificates() {
					if first.IsZero() || c.NotAfter.Before(first) {
						first = c.NotAfter
					}
				}
				return time.Until(first).Seconds()
			}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "ambit_ca_trusted_roots", Help: "Roots in the trust bundle."},
			func() float64 { return float64(len(i.Bundle().Certificates())) }))
	return m
}
