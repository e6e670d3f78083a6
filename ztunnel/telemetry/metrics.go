package telemetry

import (
	"context"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Options configures a Recorder. The zero value is a Recorder that logs nowhere.
type Options struct {
	Logs      *Logs         // where access-log lines go
	Version   string        // of this build
	IdleAfter time.Duration // series untouched for longer are dropped; default 10 min
	MaxSeries int           // beyond, connections share one series per reporter; default 20,000
}

// Recorder owns the metrics and the access log of one proxy.
type Recorder struct {
	registry *prometheus.Registry
	traffic  *traffic
	log      accessLog

	// Sockets counts open TCP sockets.
	Sockets prometheus.Gauge
	// OnDemandDNS counts look-ups for workloads that are known by hostname only.
	OnDemandDNS prometheus.Counter
	// CRLRejections counts handshakes refused, and CRLUntracked connections that could not be followed, because of the
	// revocation list.
	CRLRejections, CRLUntracked prometheus.Counter
	// ClientHeadersIgnored counts peers that named an original client without being a waypoint of the destination.
	ClientHeadersIgnored prometheus.Counter
	bypassed             *prometheus.CounterVec
	// ActiveProxies, PendingProxies, ProxiesStarted and ProxiesStopped tell of the pods this node proxy serves.
	ActiveProxies, PendingProxies  prometheus.Gauge
	ProxiesStarted, ProxiesStopped prometheus.Counter
	// DNS are the metrics of the DNS proxy.
	DNS *DNSMetrics
}

// New returns a Recorder with a registry of its own.
func New(o Options) *Recorder {
	if o.IdleAfter == 0 {
		o.IdleAfter = 10 * time.Minute
	}
	if o.MaxSeries == 0 {
		o.MaxSeries = 20000
	}
	reg := prometheus.NewRegistry()
	r := &Recorder{
		registry: reg,
		traffic:  newTraffic(o.IdleAfter, o.MaxSeries),
		log:      accessLog{o.Logs, newLimiter()},
		Sockets:  gauge(reg, "istio_tcp_sockets_open", "TCP sockets that are open."),
		OnDemandDNS: counter(reg, "istio_on_demand_dns_total",
			"Look-ups of hostnames for workloads without an address."),
		CRLRejections: counter(reg, "istio_crl_policy_rejections_total",
			"Connections closed because the peer's certificate is revoked."),
		CRLUntracked: counter(reg, "istio_crl_untracked_connections_total",
			"Connections that cannot be checked when the revocation list changes."),
		ClientHeadersIgnored: counter(reg, "ambit_client_headers_ignored_total",
			"Connections whose peer named an original client without being a waypoint of the destination."),
		bypassed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ambit_waypoint_bypass_total", Help: "Connections that went around a waypoint that enforces policy, refused or (open) let through.",
		}, []string{"gateway", "service", "outcome"}),
		ActiveProxies:  gauge(reg, "workload_manager_active_proxy_count", "Pods this proxy serves."),
		PendingProxies: gauge(reg, "workload_manager_pending_proxy_count", "Pods this proxy does not serve yet, though it should."),
		ProxiesStarted: counter(reg, "workload_manager_proxies_started_total", "Pods this proxy began to serve."),
		ProxiesStopped: counter(reg, "workload_manager_proxies_stopped_total", "Pods this proxy stopped serving."),
		DNS:            newDNSMetrics(reg),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "istio_build",
		Help:        "Version of this proxy, as a label; always 1.",
		ConstLabels: prometheus.Labels{"component": "ztunnel", "tag": o.Version},
	})
	build.Set(1)
	reg.MustRegister(build, r.bypassed, r.traffic, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

func gauge(reg prometheus.Registerer, name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	reg.MustRegister(g)
	return g
}

func counter(reg prometheus.Registerer, name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	reg.MustRegister(c)
	return c
}

// Registry is where everything this proxy measures is found; other packages register theirs here too.
func (r *Recorder) Registry() *prometheus.Registry { return r.registry }

// Run drops series nobody has touched for a while, and tells of warnings that were not written, until ctx ends.
func (r *Recorder) Run(ctx context.Context) error {
	tick := time.NewTicker(r.traffic.idle / 2)
	defer tick.Stop()
	summary := time.NewTicker(limitWindow)
	defer summary.Stop()
	for {
		select {
		case <-ctx.Done():
			r.log.summarize(time.Now().Add(limitWindow))
			return nil
		case now := <-tick.C:
			r.traffic.evict(now)
		case now := <-summary.C:
			r.log.summarize(now)
		}
	}
}

// series is one label set with its counters.
type series struct {
	labels labels
	shard  *shard

	opened, closed, failed, received, sent atomic.Int64

	// guarded by shard.mu
	users   int
	touched time.Time
}

// traffic is the table of series. It is a Collector of its own and not five CounterVecs: those would look the label set
// up five times for each connection, and never forget one.
type traffic struct {
	idle     time.Duration
	max      int64
	count    atomic.Int64
	overflow atomic.Int64
	seed     maphash.Seed
	shards   [16]shard
	dropped  prometheus.Counter
}

type shard struct {
	mu     sync.Mutex
	series map[labels]*series
}

func newTraffic(idle time.Duration, max int) *traffic {
	t := &traffic{idle: idle, max: int64(max), seed: maphash.MakeSeed()}
	for i := range t.shards {
		t.shards[i].series = map[labels]*series{}
	}
	return t
}

// acquire finds or makes the series of a label set and holds it. When there are too many the connection counts into one
// that keeps nothing but the reporter and the flags: a mesh with endless names must not take the proxy's memory.
func (t *traffic) acquire(l labels) *series {
	for {
		sh := &t.shards[maphash.Comparable(t.seed, l)%uint64(len(t.shards))]
		sh.mu.Lock()
		s := sh.series[l]
		overflow := l.overflow()
		if s == nil {
			if t.count.Load() >= t.max && l != overflow {
				sh.mu.Unlock()
				t.overflow.Add(1)
				l = overflow
				continue
			}
			s = &series{labels: l, shard: sh}
			sh.series[l] = s
			t.count.Add(1)
		}
		s.users++
		sh.mu.Unlock()
		return s
	}
}

func (l labels) overflow() labels {
	o := labels{}
	for i := range o {
		o[i] = unknown
	}
	o[lReporter], o[lProtocol], o[lFlags] = l[lReporter], l[lProtocol], l[lFlags]
	return o
}

func (t *traffic) release(s *series) {
	s.shard.mu.Lock()
	defer s.shard.mu.Unlock()
	s.users--
	s.touched = time.Now()
}

func (t *traffic) evict(now time.Time) {
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		for l, s := range sh.series {
			if s.users == 0 && now.Sub(s.touched) >= t.idle {
				delete(sh.series, l)
				t.count.Add(-1)
			}
		}
		sh.mu.Unlock()
	}
}

var (
	openedDesc   = trafficDesc("istio_tcp_connections_opened_total", "TCP connections opened.")
	closedDesc   = trafficDesc("istio_tcp_connections_closed_total", "TCP connections closed.")
	failedDesc   = trafficDesc("istio_tcp_connections_failed_total", "TCP connections that failed, with the reason in response_flags.")
	receivedDesc = trafficDesc("istio_tcp_received_bytes_total", "Bytes sent by clients to servers.")
	sentDesc     = trafficDesc("istio_tcp_sent_bytes_total", "Bytes sent by servers to clients.")
	overflowDesc = prometheus.NewDesc("ambit_tcp_overflow_connections_total",
		"Connections counted without labels because there were too many label sets.", nil, nil)
)

func trafficDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, trafficLabels, nil)
}

// Describe implements prometheus.Collector.
func (t *traffic) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{openedDesc, closedDesc, failedDesc, receivedDesc, sentDesc, overflowDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (t *traffic) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(overflowDesc, prometheus.CounterValue, float64(t.overflow.Load()))
	for i := range t.shards {
		for _, s := range t.shards[i].all() {
			s.collect(ch)
		}
	}
}

func (sh *shard) all() []*series {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	out := make([]*series, 0, len(sh.series))
	for _, s := range sh.series {
		out = append(out, s)
	}
	return out
}

func (s *series) collect(ch chan<- prometheus.Metric) {
	values := s.labels[:]
	emit := func(d *prometheus.Desc, n int64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), values...)
	}
	// A series is either one of connections that were opened or one of failures, hardly ever both.
	failed, opened, closed := s.failed.Load(), s.opened.Load(), s.closed.Load()
	if failed > 0 {
		emit(failedDesc, failed)
	}
	if opened > 0 || closed > 0 {
		emit(closedDesc, closed)
	}
	if opened > 0 {
		emit(openedDesc, opened)
		emit(receivedDesc, s.received.Load())
		emit(sentDesc, s.sent.Load())
	}
}
