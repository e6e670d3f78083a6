package envoy

import (
	"maps"
	"slices"
	"strings"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	statsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stats/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// Metrics have the names and labels of Istio's, so that its dashboards and alerts work. Envoy counts them itself, in an
// access logger; what is empty here is "unknown" in the scrape, which the agent sees to.

// metric is one of Istio's standard metrics.
type metric struct {
	// telemetry is its name in the Telemetry API.
	telemetry string
	name      string
	// value is a format; empty counts 1.
	value string
	unit  statsv3.Config_Histogram_Unit
	// histogram, or counter.
	histogram bool
}

var (
	httpMetrics = []metric{
		{telemetry: "REQUEST_COUNT", name: "istio_requests_total"},
		{telemetry: "REQUEST_DURATION", name: "istio_request_duration_milliseconds", value: "%DURATION%", unit: statsv3.Config_Histogram_Milliseconds, histogram: true},
		{telemetry: "REQUEST_SIZE", name: "istio_request_bytes", value: "%BYTES_RECEIVED%", unit: statsv3.Config_Histogram_Bytes, histogram: true},
		{telemetry: "RESPONSE_SIZE", name: "istio_response_bytes", value: "%BYTES_SENT%", unit: statsv3.Config_Histogram_Bytes, histogram: true},
	}
	openedMetrics = []metric{{telemetry: "TCP_OPENED_CONNECTIONS", name: "istio_tcp_connections_opened_total"}}
	closedMetrics = []metric{
		{telemetry: "TCP_CLOSED_CONNECTIONS", name: "istio_tcp_connections_closed_total"},
		{telemetry: "TCP_SENT_BYTES", name: "istio_tcp_sent_bytes_total", value: "%BYTES_SENT%"},
		{telemetry: "TCP_RECEIVED_BYTES", name: "istio_tcp_received_bytes_total", value: "%BYTES_RECEIVED%"},
	}
)

// label is a label and the format of its value.
type label struct{ name, format string }

// labels every metric has. Istio docs/reference/config/metrics has the list.
func (e *Env) metricLabels(t target) []label {
	peer := func(key string) string { return "%UPSTREAM_METADATA(" + metaPeer + ":" + key + ")%" }
	service := e.serviceFormat(t)
	o := e.options()
	reporter, security := "waypoint", "mutual_tls"
	source := []label{
		{"source_workload", state(stateSource + "workload")},
		{"source_workload_namespace", state(stateSource + "namespace")},
		{"source_principal", state(statePeer)},
		{"source_app", state(stateSource + "service")},
		{"source_version", state(stateSource + "revision")},
		{"source_cluster", state(stateSource + "cluster")},
		{"source_canonical_service", state(stateSource + "service")},
		{"source_canonical_revision", state(stateSource + "revision")},
	}
	if t.edge { // an edge gateway is itself the source, as Istio's is
		reporter, security = "source", "unknown"
		source = []label{
			{"source_workload", literal(o.Workload)},
			{"source_workload_namespace", literal(o.Namespace)},
			{"source_principal", literal(spiffeID(o.TrustDomain, o.Namespace, o.ServiceAccount))},
			{"source_app", literal(o.Workload)},
			{"source_cluster", literal(o.Cluster)},
			{"source_canonical_service", literal(o.Workload)},
		}
	}
	return slices.Concat([]label{{"reporter", reporter}}, source, []label{
		{"destination_workload", peer("workload")},
		{"destination_workload_namespace", peer("namespace")},
		{"destination_principal", peer("principal")},
		{"destination_app", peer("service")},
		{"destination_version", peer("revision")},
		{"destination_service", service("host")},
		{"destination_service_name", service("name")},
		{"destination_service_namespace", service("namespace")},
		{"destination_canonical_service", peer("service")},
		{"destination_canonical_revision", peer("revision")},
		{"destination_cluster", peer("cluster")},
		{"response_flags", "%RESPONSE_FLAGS%"},
		{"connection_security_policy", security},
	})
}

// serviceFormat tells where a request went: of what a cluster was chosen for, the cluster knows. What is answered here, such as
// a redirect, a refusal or the 404 of routes, went to the service that was asked.
func (e *Env) serviceFormat(t target) func(key string) string {
	var asked map[string]string
	if svc := e.servedAs(t); svc != nil {
		asked = map[string]string{"host": svc.GetHostname(), "name": e.shortName(svc.GetNamespace(), svc.GetHostname()), "namespace": svc.GetNamespace()}
	}
	return func(key string) string {
		param := "CLUSTER:" + metaService + ":" + key
		if asked[key] == "" || strings.ContainsAny(asked[key], `'"\\%()`) {
			return "%METADATA(" + param + ")%"
		}
		return `%COALESCE({"operators":[{"command":"METADATA","param":"` + param + `"},{"command":"CEL","param":"'` + asked[key] + `'"}]})%`
	}
}

// servedAs is the service of a target; nil where it is not one's.
func (e *Env) servedAs(t target) *waypoint.Service {
	if t.edge || t.hostname == "" || e.Service == nil {
		return nil
	}
	return e.Service(t.namespace, t.hostname)
}

// statsLogs count what happens on a chain.
func (e *Env) statsLogs(t target, kind string) ([]*accesslogv3.AccessLog, []Problem) {
	overrides := e.telemetry(t).GetMetrics()
	problems := checkOverrides(overrides)
	base := e.metricLabels(t)
	var out []*accesslogv3.AccessLog
	add := func(filter *accesslogv3.AccessLogFilter, metrics []metric, more ...label) {
		config := &statsv3.Config{StatsScope: &typev3.Scope{
			MaxCounters:    uint32Value(e.options().MaxMetricSeries),
			MaxHistograms:  uint32Value(e.options().MaxMetricSeries),
			EnableEviction: true,
			SharingName:    "istio",
		}}
		for _, m := range metrics {
			e.addMetric(m, config, slices.Concat(base, more), overrides)
		}
		if len(config.GetCounters())+len(config.GetHistograms()) == 0 {
			return
		}
		out = append(out, &accesslogv3.AccessLog{
			Name:       "envoy.access_loggers.stats",
			Filter:     filter,
			ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: toAny(config)},
		})
	}
	if kind == kindTCP {
		protocol := label{"request_protocol", "tcp"}
		add(ofTypes(datav3.AccessLogType_TcpUpstreamConnected), openedMetrics, protocol)
		add(ofTypes(datav3.AccessLogType_TcpConnectionEnd), closedMetrics, protocol)
		return out, problems
	}
	code := label{"response_code", "%RESPONSE_CODE%"}
	if t.protocol == waypoint.Protocol_HTTP1 {
		add(nil, httpMetrics, label{"request_protocol", "http"}, code)
		return out, problems
	}
	// istio_request_messages_total and istio_response_messages_total are missing: Envoy's grpc_stats filter puts both
	// counts into one string of filter state, and the logger wants one number.
	add(isGRPC(false), httpMetrics, label{"request_protocol", "http"}, code)
	add(isGRPC(true), httpMetrics, label{"request_protocol", "grpc"}, code, label{"grpc_response_status", "%GRPC_STATUS_NUMBER%"})
	return out, problems
}

// addMetric adds a metric, unless an override took it away.
func (e *Env) addMetric(m metric, config *statsv3.Config, labels []label, overrides []*waypoint.MetricOverride) {
	labels, enabled := override(m.telemetry, labels, overrides)
	if !enabled {
		return
	}
	stat := &statsv3.Config_Stat{Name: m.name}
	for _, l := range labels {
		stat.Tags = append(stat.Tags, &statsv3.Config_Tag{Name: l.name, ValueFormat: e.peerFormat(l.format)})
	}
	if m.histogram {
		config.Histograms = append(config.Histograms, &statsv3.Config_Histogram{Stat: stat, Unit: m.unit, ValueFormat: m.value})
		return
	}
	counter := &statsv3.Config_Counter{Stat: stat, ValueFormat: m.value}
	if m.value == "" {
		counter.ValueFixed = wrapperspb.UInt64(1)
	}
	config.Counters = append(config.Counters, counter)
}

// override applies what the Telemetry API says of one metric, in its order: the last that speaks of a label wins.
func override(metric string, labels []label, overrides []*waypoint.MetricOverride) ([]label, bool) {
	enabled, labels := true, slices.Clone(labels)
	for _, o := range overrides {
		if o.GetMetric() != "" && o.GetMetric() != "ALL_METRICS" && o.GetMetric() != metric {
			continue
		}
		if o.GetDisabled() != nil {
			enabled = !o.GetDisabled().GetValue()
		}
		gone := slices.Clone(o.GetRemove())
		for _, name := range slices.Sorted(maps.Keys(o.GetTags())) {
			format, err := tagFormat(o.GetTags()[name])
			switch i := slices.IndexFunc(labels, func(l label) bool { return l.name == name }); {
			case o.GetTags()[name] == "REMOVE":
				gone = append(gone, name)
			case err != nil: // told as a problem once, see checkOverrides
			case i >= 0:
				labels[i].format = format
			default:
				labels = append(labels, label{name, format})
			}
		}
		labels = slices.DeleteFunc(labels, func(l label) bool { return slices.Contains(gone, l.name) })
	}
	return labels, enabled
}

// tagFormat makes a format of what the Telemetry API has for a tag, which is an expression in CEL. A percent sign, which
// says nothing about text there, makes it a format of Envoy's own.
func tagFormat(value string) (string, error) {
	if strings.Contains(value, "%") {
		return value, checkFormat(value)
	}
	value = strings.TrimSpace(value)
	// Everything is written out as text, and Envoy has no string(): string(x) is x.
	if inner, ok := strings.CutPrefix(value, "string("); ok && strings.HasSuffix(inner, ")") && checkCEL(inner[:len(inner)-1]) == nil {
		value = inner[:len(inner)-1]
	}
	return "%CEL(" + value + ")%", checkCEL(value)
}

func checkOverrides(overrides []*waypoint.MetricOverride) []Problem {
	var problems []Problem
	for _, o := range overrides {
		for _, name := range slices.Sorted(maps.Keys(o.GetTags())) {
			if _, err := tagFormat(o.GetTags()[name]); err != nil {
				problems = append(problems, Problem{Object: "Telemetry", Text: "tag " + name + ": " + err.Error() + "; the tag is left as it was"})
			}
		}
	}
	return problems
}

func ofTypes(types ...datav3.AccessLogType) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_LogTypeFilter{
		LogTypeFilter: &accesslogv3.LogTypeFilter{Types: types},
	}}
}

// isGRPC looks at the content type, gRPC over HTTP2 "Requests".
func isGRPC(yes bool) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_HeaderFilter{
		HeaderFilter: &accesslogv3.HeaderFilter{Header: &routev3.HeaderMatcher{
			Name:        "content-type",
			InvertMatch: !yes,
			// Without the header it is not gRPC, and inverting must say so.
			TreatMissingHeaderAsEmpty: true,
			HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
				MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "application/grpc"},
			}},
		}},
	}}
}
