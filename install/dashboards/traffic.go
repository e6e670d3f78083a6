package dashboards

import (
	"fmt"
	"strings"
)

// Requests are counted once, by the waypoint that carried them; connections by the node proxy of the server, or of the client.
const (
	byWaypoint = `reporter="waypoint"`
	byServer   = `reporter="destination"`
	byClient   = `reporter="source"`
)

// rate of a counter, as a sum over labels.
func rate(metric, selector string, by ...string) string {
	return fmt.Sprintf("sum%s (rate(%s{%s}[$__rate_interval]))", grouping(by), metric, selector)
}

func grouping(by []string) string {
	if len(by) == 0 {
		return ""
	}
	return " by (" + strings.Join(by, ", ") + ")"
}

// quantile of a histogram.
func quantile(q, metric, selector string, by ...string) string {
	return fmt.Sprintf("histogram_quantile(%s, %s)", q, rate(metric+"_bucket", selector, append(by, "le")...))
}

// success is the share of requests that the server did not fail.
func success(selector string, by ...string) string {
	return rate("istio_requests_total", selector+`,response_code!~"5.."`, by...) + " / " + rate("istio_requests_total", selector, by...)
}

// requestPanels are what there is to see of the requests that a selector names, split by labels.
func requestPanels(selector, by string) []Panel {
	legend := "{{" + by + "}}"
	return []Panel{
		curves("Requests, by who "+asked(by), requests, Query{rate("istio_requests_total", selector, by), legend}),
		curves("Answers, by code", requests, Query{rate("istio_requests_total", selector, "response_code"), "{{response_code}}"}),
		curves("Success", share, Query{success(selector, by), legend}).saying("the share of requests that were not answered with 5xx"),
		curves("Time to answer", millis,
			Query{quantile("0.50", "istio_request_duration_milliseconds", selector), "p50"},
			Query{quantile("0.90", "istio_request_duration_milliseconds", selector), "p90"},
			Query{quantile("0.99", "istio_request_duration_milliseconds", selector), "p99"}),
		curves("Time to answer, p99, by who "+asked(by), millis, Query{quantile("0.99", "istio_request_duration_milliseconds", selector, by), legend}),
		curves("Failures, by Envoy's flags", requests, Query{rate("istio_requests_total", selector+`,response_flags!="-"`, "response_flags"), "{{response_flags}}"}).
			saying("UH no healthy upstream, UF connection failed, URX retries used up, UT timeout, NR no route, UAEX and RBAC refusals, DC the client went away"),
		curves("Size of requests", bytesRate, Query{rate("istio_request_bytes_sum", selector, by), legend}),
		curves("Size of answers", bytesRate, Query{rate("istio_response_bytes_sum", selector, by), legend}),
	}
}

func asked(by string) string {
	if strings.HasPrefix(by, "source") {
		return "asked"
	}
	return "was asked"
}

// connectionPanels are what there is to see of the connections that a selector names.
func connectionPanels(selector, by string) []Panel {
	legend := "{{" + by + "}}"
	return []Panel{
		curves("Connections opened", perSecond, Query{rate("istio_tcp_connections_opened_total", selector, by), legend}),
		curves("Connections that failed, by reason", perSecond, Query{rate("istio_tcp_connections_failed_total", selector, "response_flags"), "{{response_flags}}"}).
			saying("DENY a policy, CONNECT could not connect, IDENTITY_ERROR certificates, NETWORK_POLICY port 15008 is blocked; the access log has a sentence for each"),
		curves("Bytes", bytesRate,
			Query{rate("istio_tcp_sent_bytes_total", selector), "to clients"},
			Query{rate("istio_tcp_received_bytes_total", selector), "to servers"}),
	}
}

// program is a selection of process metrics: those of pods that have a metric only that program has.
func program(metric string) string { return "and on (namespace, pod) " + metric }

// process are the panels of a program's own costs.
func process(only, where string) []Panel {
	sel := func(metric string) string { return metric + where + " " + program(only) }
	return []Panel{
		curves("Processor time", processors, Query{"rate(process_cpu_seconds_total" + where + "[$__rate_interval]) " + program(only), "{{pod}}"}).
			saying("cores in use"),
		curves("Memory", bytesUnit, Query{sel("process_resident_memory_bytes"), "{{pod}}"}),
		curves("Goroutines", count, Query{sel("go_goroutines"), "{{pod}}"}),
	}
}

// certificates are the panels of a program that has certificates for others.
func certificates(only, where string) []Panel {
	this := program(only)
	return []Panel{
		curves("Certificates, by state", count, Query{"sum by (state) (ambit_cert_identities" + where + " " + this + ")", "{{state}}"}),
		curves("Until the first certificate expires", seconds, Query{"min by (pod) (ambit_cert_seconds_to_expiry" + where + " " + this + ")", "{{pod}}"}).
			saying("they are renewed at half of their life; what falls to nothing is a node that cannot reach the authority"),
		curves("Requests for certificates", perSecond, Query{"sum by (result) (rate(ambit_ca_client_requests_total" + where + "[$__rate_interval]) " + this + ")", "{{result}}"}),
	}
}
