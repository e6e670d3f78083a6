package agent

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/common/expfmt"

	"github.com/ambit-mesh/ambit/waypoint/agent/ads"
	"github.com/ambit-mesh/ambit/waypoint/agent/stats"
	"github.com/ambit-mesh/ambit/waypoint/fetch"
)

// metrics of the agent itself.
type metrics struct {
	reg        *prometheus.Registry
	expansions prometheus.Histogram   // ambit_waypoint_expansion_seconds
	rejected   prometheus.Gauge       // ambit_waypoint_rejected_facts
	refusals   *prometheus.CounterVec // ambit_waypoint_envoy_refusals_total{type}
	responses  *prometheus.CounterVec // ambit_waypoint_envoy_responses_total{type,result}
	scrapes    *prometheus.CounterVec // ambit_waypoint_scrapes_total{result}
}

func newMetrics(reg *prometheus.Registry, version string) metrics {
	m := metrics{
		reg: reg,
		expansions: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "ambit_waypoint_expansion_seconds", Help: "How long it took to turn changed facts into configuration.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 8)}),
		rejected: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ambit_waypoint_rejected_facts", Help: "Facts of the control plane that were refused; see /problems."}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ambit_waypoint_envoy_refusals_total", Help: "Resources Envoy refused, by type."}, []string{"type"}),
		responses: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ambit_waypoint_envoy_responses_total", Help: "Responses Envoy answered, by type and result (ack, nack)."}, []string{"type", "result"}),
		scrapes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ambit_waypoint_scrapes_total", Help: "Merged metrics, by whether Envoy's part was there (ok, error)."}, []string{"result"}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "ambit_build_info", Help: "Always 1.",
		ConstLabels: prometheus.Labels{"component": "waypoint", "version": version, "goversion": runtime.Version(), "envoy": fetch.Version}})
	info.Set(1)
	reg.MustRegister(m.expansions, m.rejected, m.refusals, m.responses, m.scrapes, info,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// follow adds figures that are read when scraped.
func (m *metrics) follow(a *agent) {
	gauge := func(name, help string, read func() float64) {
		m.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, read))
	}
	gauge("ambit_waypoint_ready", "1 while nothing keeps this instance from serving.", func() float64 {
		if len(a.blockers()) == 0 {
			return 1
		}
		return 0
	})
	gauge("ambit_waypoint_problems", "Parts of the facts that could not be expanded, and revocation lists that are not used; see /problems.", func() float64 {
		a.mu.Lock()
		defer a.mu.Unlock()
		n := len(a.renderer.Problems())
		if a.unrevoked != nil {
			n++
		}
		return float64(n)
	})
	gauge("ambit_waypoint_services", "Services behind this Gateway.", func() float64 { return float64(a.facts.Current().Counts().Services) })
	gauge("ambit_waypoint_workloads", "Workloads known.", func() float64 { return float64(a.facts.Current().Counts().Workloads) })
	gauge("ambit_waypoint_refused_resources", "Resources Envoy does not take at present.", func() float64 { return float64(len(a.ads.Refusals())) })
	m.reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "ambit_waypoint_envoy_restarts_total", Help: "Times Envoy ended unasked and was started again."},
		func() float64 { return float64(a.envoy.Restarts()) }))
	m.reg.MustRegister(resources{a.ads, prometheus.NewDesc("ambit_waypoint_resources", "Resources made for Envoy, by type.", []string{"type"}, nil)})
}

// resources counts what Envoy is given.
type resources struct {
	server *ads.Server
	desc   *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (r resources) Describe(ch chan<- *prometheus.Desc) { ch <- r.desc }

// Collect implements prometheus.Collector.
func (r resources) Collect(ch chan<- prometheus.Metric) {
	for t, n := range r.server.Counts() {
		ch <- prometheus.MustNewConstMetric(r.desc, prometheus.GaugeValue, float64(n), shortType(t))
	}
}

// maxScrape bounds what is read of Envoy's metrics.
const maxScrape = 64 << 20

// serveMetrics answers with Envoy's metrics under Istio's names, followed by the agent's own. Without Envoy's, the agent's
// are still worth having.
func (a *agent) serveMetrics(w http.ResponseWriter, r *http.Request) {
	var out bytes.Buffer
	result := "ok"
	if err := a.envoyMetrics(r.Context(), &out); err != nil {
		result = "error"
		out.Reset()
		a.log.Debug("metrics without those of Envoy", "err", err)
	}
	a.own.scrapes.WithLabelValues(result).Inc()
	families, err := a.reg.Gather()
	if err != nil {
		a.log.Warn("some of the metrics could not be gathered", "err", err)
	}
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&out, f); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	w.Header().Set("Content-Type", string(expfmt.NewFormat(expfmt.TypeTextPlain)))
	compressed(w, r, out.Bytes())
}

// compressed answers with gzip for whoever takes it, as Prometheus does: of half a megabyte of metrics, which repeat their
// labels on every line, 2 % are left.
func compressed(w http.ResponseWriter, r *http.Request, body []byte) {
	takes := slices.ContainsFunc(strings.Split(r.Header.Get("Accept-Encoding"), ","), func(c string) bool {
		name, weight, _ := strings.Cut(strings.ReplaceAll(c, " ", ""), ";")
		return name == "gzip" && strings.Trim(weight, "q=.0") != "" || name == "gzip" && weight == ""
	})
	w.Header().Add("Vary", "Accept-Encoding")
	if !takes {
		w.Write(body)
		return
	}
	w.Header().Set("Content-Encoding", "gzip")
	z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // fails for levels that do not exist
	z.Write(body)
	z.Close()
}

func (a *agent) envoyMetrics(ctx context.Context, out io.Writer) error {
	resp, err := a.admin.do(ctx, http.MethodGet, "/stats/prometheus")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the admin port of Envoy answers %s", strings.TrimSpace(resp.Status))
	}
	return stats.Rewrite(out, io.LimitReader(resp.Body, maxScrape))
}
