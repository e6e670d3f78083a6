// Package scrape reads what programs serve to Prometheus, as strictly as its own linter, and holds the queries of
// dashboards to it: every metric exists, every label a query selects, groups by or shows is one that the metric has.
//
// It needs no Prometheus and evaluates nothing: a query that passes may still show an empty panel for want of traffic. It
// fetches nothing and starts no goroutine. Start reading at Metrics.
package scrape

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Metrics are the series of many targets by name: for each label of a metric the values it was seen with.
type Metrics map[string]map[string]map[string]bool

// TargetLabels are those that Prometheus adds to everything it scrapes from a pod, whether by an annotation or a PodMonitor.
var TargetLabels = []string{"namespace", "pod", "instance", "job"}

// OfPrometheus are the metrics that it makes itself for each target.
var OfPrometheus = []string{"up", "scrape_duration_seconds", "scrape_samples_scraped"}

// New returns what Prometheus has before it scraped anything.
func New() Metrics {
	m := Metrics{}
	for _, name := range OfPrometheus {
		m.see(name, nil)
	}
	return m
}

// Add takes one scrape in, and returns what is wrong with it: what does not parse, and what the linter says of it.
func (m Metrics) Add(text []byte) (families int, problems []string) {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	found, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return len(found), []string{fmt.Sprintf("it is not in the format of Prometheus: %v", err)}
	}
	lint, err := promlint.New(bytes.NewReader(text)).Lint()
	if err != nil {
		return len(found), []string{fmt.Sprintf("it is not in the format of Prometheus: %v", err)}
	}
	for _, p := range lint {
		if foreign(p.Metric) {
			continue
		}
		problems = append(problems, p.Metric+": "+p.Text)
	}
	for _, f := range found {
		for _, s := range f.Metric {
			labels := map[string]string{}
			for _, l := range s.Label {
				labels[l.GetName()] = l.GetValue()
			}
			m.family(f, labels)
		}
	}
	return len(found), problems
}

// foreign is true of metrics that have the names of Istio or Envoy, because their dashboards and alerts look for them.
func foreign(name string) bool {
	return strings.HasPrefix(name, "envoy_") || slices.Contains(inherited, name)
}

var inherited = []string{
	"istio_requests_total", "istio_request_duration_milliseconds", "istio_request_bytes", "istio_response_bytes",
	"istio_tcp_connections_opened_total", "istio_tcp_connections_closed_total", "istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total",
	"pilot_total_xds_rejects", "pilot_xds_pushes", "workload_manager_active_proxy_count", "workload_manager_pending_proxy_count",
}

// family adds the names that one sample of a family has as text.
func (m Metrics) family(f *dto.MetricFamily, labels map[string]string) {
	switch f.GetType() {
	case dto.MetricType_HISTOGRAM, dto.MetricType_SUMMARY:
		m.see(f.GetName()+"_sum", labels)
		m.see(f.GetName()+"_count", labels)
		more := maps.Clone(labels)
		if f.GetType() == dto.MetricType_SUMMARY {
			more["quantile"] = ""
			m.see(f.GetName(), more)
			return
		}
		more["le"] = ""
		m.see(f.GetName()+"_bucket", more)
	default:
		m.see(f.GetName(), labels)
	}
}

func (m Metrics) see(name string, labels map[string]string) {
	if m[name] == nil {
		m[name] = map[string]map[string]bool{}
		for _, l := range TargetLabels {
			m[name][l] = map[string]bool{}
		}
	}
	for l, v := range labels {
		if m[name][l] == nil {
			m[name][l] = map[string]bool{}
		}
		m[name][l][v] = true
	}
}

// Promise takes a metric for granted that this place cannot show. Whoever promises says where it is seen.
func (m Metrics) Promise(name string, labels ...string) {
	set := map[string]string{}
	for _, l := range labels {
		set[l] = ""
	}
	m.see(name, set)
}

// Labels of a metric, sorted.
func (m Metrics) Labels(name string) []string { return slices.Sorted(maps.Keys(m[name])) }
