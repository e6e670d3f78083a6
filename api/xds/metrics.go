package xds

import "github.com/prometheus/client_golang/prometheus"

// serverMetrics carry the names Istio's control plane uses for the same things.
type serverMetrics struct {
	pushes  *prometheus.CounterVec // responses sent, by type
	bytes   *prometheus.CounterVec // their size
	rejects *prometheus.CounterVec // refusals received, by type
}

func newServerMetrics(reg prometheus.Registerer, s *Server) serverMetrics {
	m := serverMetrics{
		pushes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pilot_xds_pushes", Help: "Responses sent to xDS clients.",
		}, []string{"type"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pilot_xds_push_bytes_total", Help: "Bytes of resources sent to xDS clients.",
		}, []string{"type"}),
		rejects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pilot_total_xds_rejects", Help: "Responses an xDS client refused in part.",
		}, []string{"type"}),
	}
	if reg != nil {
		reg.MustRegister(m.pushes, m.bytes, m.rejects, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "pilot_xds", Help: "Connected xDS clients.",
		}, func() float64 {
			s.mu.Lock()
			defer s.mu.Unlock()
			return float64(len(s.streams))
		}))
	}
	return m
}

// typeMetrics are the server's metrics for one type, looked up once a stream rather than once a message.
type typeMetrics struct {
	pushes, bytes, rejects prometheus.Counter
}

// of counts types that are not served as one: their names are whatever a client says.
func (m *serverMetrics) of(c *Collection) typeMetrics {
	typeURL := "other"
	if c != nil {
		typeURL = c.typeURL
	}
	return typeMetrics{m.pushes.WithLabelValues(typeURL), m.bytes.WithLabelValues(typeURL), m.rejects.WithLabelValues(typeURL)}
}

// clientMetrics are those of Istio's node proxy.
type clientMetrics struct {
	terminations *prometheus.CounterVec // ended connections, by reason
	messages     *prometheus.CounterVec // responses received, by type URL
	bytes        *prometheus.CounterVec // their size
}

func newClientMetrics(reg prometheus.Registerer) clientMetrics {
	m := clientMetrics{
		terminations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "istio_xds_connection_terminations_total", Help: "Connections to the xDS server that ended.",
		}, []string{"reason"}),
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "istio_xds_message_total", Help: "Messages received from the xDS server.",
		}, []string{"url"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "istio_xds_message_bytes_total", Help: "Bytes received from the xDS server.",
		}, []string{"url"}),
	}
	if reg != nil {
		reg.MustRegister(m.terminations, m.messages, m.bytes)
	}
	// From zero: Prometheus sees no increase in a series that begins with one.
	for _, reason := range []string{reasonConnectionError, reasonError, reasonReconnect, reasonComplete} {
		m.terminations.WithLabelValues(reason)
	}
	return m
}
