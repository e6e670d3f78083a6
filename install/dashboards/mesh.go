package dashboards

import "strings"

// anyTraffic finds labels in requests and connections alike.
const anyTraffic = `{__name__=~"istio_requests_total|istio_tcp_connections_opened_total"`

func mesh() Dashboard {
	http := []string{"destination_service_name", "destination_service_namespace"}
	by := strings.Join(http, ", ")
	return Dashboard{
		Name: "mesh", Title: "Mesh", Text: "What the mesh carries, and whether all of it is well.",
		Rows: []Row{{"Now", []Panel{
			number("Requests", requests, rate("istio_requests_total", byWaypoint)),
			number("Success", share, success(byWaypoint)),
			number("Connections opened", perSecond, rate("istio_tcp_connections_opened_total", byServer)),
			number("Encrypted", share, rate("istio_tcp_connections_opened_total", byServer+`,connection_security_policy="mutual_tls"`)+" / "+
				rate("istio_tcp_connections_opened_total", byServer)).saying("the share of connections to pods in the mesh that came with mutual TLS"),
			number("Bytes", bytesRate, rate("istio_tcp_sent_bytes_total", byServer)+" + "+rate("istio_tcp_received_bytes_total", byServer)),
			alarm("Failed connections", perSecond, rate("istio_tcp_connections_failed_total", byClient), 1),
		}}, {"Parts", []Panel{
			number("Pods in the mesh", count, "sum(ambit_cni_pods_taken)"),
			alarm("Pods that should be and are not", count, "sum(ambit_cni_pods_desired) - sum(ambit_cni_pods_taken)", 1),
			number("Proxies connected", count, "sum(pilot_xds)"),
			alarm("Objects refused or warned about", count, "max(ambit_control_refusals)", 1).saying("ambitctl config refused says which and why"),
			alarm("Waypoints not ready", count, "count(ambit_waypoint_ready == 0) or vector(0)", 1),
			alarm("Settings a waypoint could not carry out", count, "sum(ambit_waypoint_problems) + sum(ambit_waypoint_refused_resources) or vector(0)", 1).
				saying("ambitctl proxy-config problems says which"),
		}}, {"Requests", []Panel{
			{Title: "Services with a waypoint", Kind: Table, Queries: []Query{
				{rate("istio_requests_total", byWaypoint, http...), "Requests"},
				{success(byWaypoint, http...), "Success"},
				{quantile("0.50", "istio_request_duration_milliseconds", byWaypoint, http...), "p50"},
				{quantile("0.90", "istio_request_duration_milliseconds", byWaypoint, http...), "p90"},
				{quantile("0.99", "istio_request_duration_milliseconds", byWaypoint, http...), "p99"},
			}},
			curves("Answers, by code", requests, Query{rate("istio_requests_total", byWaypoint, "response_code"), "{{response_code}}"}).wide(12),
			curves("Through gateways, by code", requests, Query{rate("istio_requests_total", byClient, "response_code"), "{{response_code}}"}).wide(12),
		}}, {"Connections", []Panel{
			{Title: "Services", Kind: Table, Queries: []Query{
				{rate("istio_tcp_connections_opened_total", byServer, http...), "Connections"},
				{rate("istio_tcp_connections_failed_total", byServer, http...), "Failed"},
				{rate("istio_tcp_sent_bytes_total", byServer, http...), "To clients"},
				{rate("istio_tcp_received_bytes_total", byServer, http...), "To servers"},
			}},
			curves("Failed, by reason", perSecond, Query{rate("istio_tcp_connections_failed_total", byClient, "response_flags"), "{{response_flags}}"}).wide(12),
			curves("Connections that went around a waypoint", perSecond,
				Query{"sum by (gateway, outcome) (rate(ambit_waypoint_bypass_total[$__rate_interval]))", "{{gateway}} {{outcome}}"}).wide(12).
				saying("refused, or let through where the owner said so"),
			curves("Most connections, by service", perSecond, Query{"topk(10, sum by (" + by + ") (rate(istio_tcp_connections_opened_total{" + byServer + "}[$__rate_interval])))",
				"{{destination_service_name}}.{{destination_service_namespace}}"}).wide(24),
		}}},
	}
}

func service() Dashboard {
	sel := `destination_service_namespace=~"$namespace",destination_service=~"$service"`
	return Dashboard{
		Name: "service", Title: "Service", Text: "Who calls a service, and how it answers.",
		Variables: []Variable{
			{Name: "namespace", Title: "Namespace", Query: "label_values(" + anyTraffic + "}, destination_service_namespace)"},
			{Name: "service", Title: "Service", Query: "label_values(" + anyTraffic + `,destination_service_namespace=~"$namespace"}, destination_service)`},
		},
		Rows: []Row{
			{"Now", []Panel{
				number("Requests", requests, rate("istio_requests_total", byWaypoint+","+sel)).wide(6),
				number("Success", share, success(byWaypoint+","+sel)).wide(6),
				number("Time to answer, p99", millis, quantile("0.99", "istio_request_duration_milliseconds", byWaypoint+","+sel)).wide(6),
				number("Connections opened", perSecond, rate("istio_tcp_connections_opened_total", byServer+","+sel)).wide(6),
			}},
			{"Requests, as its waypoint saw them", requestPanels(byWaypoint+","+sel, "source_workload")},
			{"Which version answered", []Panel{
				curves("Requests, by workload", requests, Query{rate("istio_requests_total", byWaypoint+","+sel, "destination_workload", "destination_version"), "{{destination_workload}} {{destination_version}}"}).wide(12),
				curves("Time to answer, p99, by workload", millis, Query{quantile("0.99", "istio_request_duration_milliseconds", byWaypoint+","+sel, "destination_workload"), "{{destination_workload}}"}).wide(12),
			}},
			{"Connections, at the server", connectionPanels(byServer+","+sel, "source_workload")},
			{"Connections, at the client", connectionPanels(byClient+","+sel, "source_workload")},
		},
	}
}

func workload() Dashboard {
	in := `destination_workload_namespace=~"$namespace",destination_workload=~"$workload"`
	out := `source_workload_namespace=~"$namespace",source_workload=~"$workload"`
	return Dashboard{
		Name: "workload", Title: "Workload", Text: "What pods of a workload are asked, and what they ask.",
		Variables: []Variable{
			{Name: "namespace", Title: "Namespace", Query: "label_values(" + anyTraffic + "}, destination_workload_namespace)"},
			{Name: "workload", Title: "Workload", Query: "label_values(" + anyTraffic + `,destination_workload_namespace=~"$namespace"}, destination_workload)`},
		},
		Rows: []Row{
			{"Requests to it", requestPanels(byWaypoint+","+in, "source_workload")},
			{"Connections to it", connectionPanels(byServer+","+in, "source_workload")},
			{"Requests it makes", requestPanels(byWaypoint+","+out, "destination_service")},
			{"Connections it makes", connectionPanels(byClient+","+out, "destination_service")},
			{"Encryption", []Panel{
				curves("Connections to it", perSecond, Query{rate("istio_tcp_connections_opened_total", byServer+","+in, "connection_security_policy"), "{{connection_security_policy}}"}).wide(12),
				curves("Who connects to it", perSecond, Query{rate("istio_tcp_connections_opened_total", byServer+","+in, "source_principal"), "{{source_principal}}"}).wide(12),
			}},
		},
	}
}
