package dashboards

import "slices"

func ztunnel() Dashboard {
	where := `{pod=~"$pod"}`
	only := `workload_manager_active_proxy_count`
	sel := `pod=~"$pod"`
	return Dashboard{
		Name: "ztunnel", Title: "Node proxies", Text: "ztunnel and the CNI agent of every node.",
		Variables: []Variable{{Name: "pod", Title: "Pod", Query: "label_values(workload_manager_active_proxy_count, pod)"}},
		Rows: []Row{
			{"Pods", []Panel{
				curves("Pods served", count, Query{"workload_manager_active_proxy_count" + where, "{{pod}}"}),
				curves("Pods that wait for the proxy", count, Query{"workload_manager_pending_proxy_count" + where, "{{pod}}"}).
					saying("the control plane has not told of them, or their namespace could not be entered"),
				curves("Pods that came and went", perSecond,
					Query{"sum(rate(workload_manager_proxies_started_total" + where + "[$__rate_interval]))", "came"},
					Query{"sum(rate(workload_manager_proxies_stopped_total" + where + "[$__rate_interval]))", "went"}),
			}},
			{"Enrolment by the CNI agent", []Panel{
				curves("Pods that belong to the mesh", count,
					Query{"sum(ambit_cni_pods_desired)", "should be in it"}, Query{"sum(ambit_cni_pods_captured)", "captured"}, Query{"sum(ambit_cni_pods_taken)", "served by a proxy"}),
				curves("Agents with a proxy", count, Query{"sum(ztunnel_connected)", "connections"}, Query{"sum(istio_cni_install_ready)", "plugin in place"}),
				curves("Requests of the plugin", perSecond, Query{rate("istio_cni_plugin_requests_total", "", "response_code"), "{{response_code}}"}).
					saying("anything but 200 is a pod that does not start yet"),
				curves("What made agents look at pods", perSecond, Query{rate("nodeagent_reconcile_events_total", "", "type"), "{{type}}"}),
			}},
			{"Traffic", []Panel{
				curves("Connections open", count, Query{"istio_tcp_sockets_open" + where, "{{pod}}"}),
				curves("Connections opened", perSecond, Query{rate("istio_tcp_connections_opened_total", sel, "pod"), "{{pod}}"}),
				curves("Connections that failed, by reason", perSecond, Query{rate("istio_tcp_connections_failed_total", sel, "response_flags"), "{{response_flags}}"}),
				curves("Bytes", bytesRate, Query{rate("istio_tcp_sent_bytes_total", sel, "pod"), "{{pod}} to clients"}, Query{rate("istio_tcp_received_bytes_total", sel, "pod"), "{{pod}} to servers"}),
				curves("Refused for want of room", perSecond, Query{rate("ambit_tcp_overflow_connections_total", sel, "pod"), "{{pod}}"}).
					saying("connections beyond the limit of a pod"),
				curves("Questions of DNS", perSecond, Query{rate("istio_dns_requests_total", sel, "request_query_type"), "{{request_query_type}}"}),
				curves("Around a waypoint", perSecond, Query{rate("ambit_waypoint_bypass_total", sel, "service", "outcome"), "{{service}} {{outcome}}"}),
			}},
			{"Certificates", certificates(only, where)},
			{"Configuration", []Panel{
				curves("Messages of the control plane", perSecond, Query{rate("istio_xds_message_total", sel, "url"), "{{url}}"}),
				curves("Bytes of the control plane", bytesRate, Query{rate("istio_xds_message_bytes_total", sel, "url"), "{{url}}"}),
				curves("Ends of the connection to it", perSecond, Query{rate("istio_xds_connection_terminations_total", sel, "reason"), "{{reason}}"}),
			}},
			{"Process", process(only, where)},
		},
	}
}

func waypoint() Dashboard {
	where := `{namespace=~"$namespace",pod=~"$pod"}`
	sel := `namespace=~"$namespace",pod=~"$pod"`
	one := func(metric string) Query { return Query{metric + where, "{{pod}}"} }
	return Dashboard{
		Name: "waypoint", Title: "Waypoints and gateways", Text: "The Envoys of the mesh, and the agents beside them.",
		Variables: []Variable{
			{Name: "namespace", Title: "Namespace", Query: "label_values(ambit_waypoint_ready, namespace)"},
			{Name: "pod", Title: "Pod", Query: `label_values(ambit_waypoint_ready{namespace=~"$namespace"}, pod)`},
		},
		Rows: []Row{
			{"Now", []Panel{
				number("Ready", count, "sum(ambit_waypoint_ready"+where+")"),
				alarm("Not ready", count, "count(ambit_waypoint_ready"+where+" == 0) or vector(0)", 1),
				alarm("Settings not carried out", count, "sum(ambit_waypoint_problems"+where+")", 1).saying("ambitctl proxy-config problems says which"),
				alarm("Facts refused", count, "sum(ambit_waypoint_rejected_facts"+where+")", 1),
				alarm("Refused by Envoy", count, "sum(ambit_waypoint_refused_resources"+where+")", 1),
				alarm("Restarts of Envoy", count, "sum(increase(ambit_waypoint_envoy_restarts_total"+where+"[1h]))", 1),
			}},
			{"Requests", []Panel{
				curves("By code", requests, Query{rate("istio_requests_total", sel, "response_code"), "{{response_code}}"}),
				curves("By pod", requests, Query{rate("istio_requests_total", sel, "pod"), "{{pod}}"}),
				curves("Time to answer", millis,
					Query{quantile("0.50", "istio_request_duration_milliseconds", sel), "p50"},
					Query{quantile("0.99", "istio_request_duration_milliseconds", sel), "p99"}),
				curves("Under way", count, Query{"envoy_http_inbound_downstream_rq_active" + where, "{{pod}}"}),
				curves("Denied by policy", requests,
					Query{rate("envoy_http_inbound_rbac_deny__denied", sel), "a DENY policy"}, Query{rate("envoy_http_inbound_rbac_allow__denied", sel), "no ALLOW policy"}),
				curves("Failures, by Envoy's flags", requests, Query{rate("istio_requests_total", sel+`,response_flags!="-"`, "response_flags"), "{{response_flags}}"}),
			}},
			{"Tunnels", []Panel{
				curves("Open from clients", count, one("envoy_http_connect_terminate_downstream_rq_active")),
				curves("Open to pods", count, one("envoy_cluster_connect_originate_upstream_cx_active")),
				curves("Could not be opened", perSecond,
					Query{rate("envoy_cluster_connect_originate_upstream_cx_connect_fail", sel), "connect"},
					Query{rate("envoy_cluster_connect_originate_ssl_connection_error", sel), "TLS"},
					Query{rate("envoy_cluster_connect_originate_ssl_fail_verify_san", sel), "another identity"}),
				curves("Clients that failed TLS", perSecond,
					Query{`sum by (pod) (rate({__name__=~"envoy_listener_.*_15008_ssl_connection_error",` + sel + `}[$__rate_interval]))`, "{{pod}}"}),
			}},
			{"Configuration", []Panel{
				curves("Services", count, one("ambit_waypoint_services")),
				curves("Resources given to Envoy", count, Query{"sum by (type) (ambit_waypoint_resources" + where + ")", "{{type}}"}),
				curves("Time to expand a change, p99", seconds, Query{quantile("0.99", "ambit_waypoint_expansion_seconds", sel, "pod"), "{{pod}}"}),
				curves("Answers of Envoy", perSecond, Query{rate("ambit_waypoint_envoy_responses_total", sel, "type", "result"), "{{type}} {{result}}"}),
				curves("Messages of the control plane", perSecond, Query{"sum by (url) (rate(istio_xds_message_total" + where + "[$__rate_interval]) " + program("ambit_waypoint_ready") + ")", "{{url}}"}),
				curves("Draining", count, one("envoy_listener_manager_total_filter_chains_draining")).saying("chains of services that changed and still have connections"),
			}},
			{"Certificates", certificates("ambit_waypoint_ready", where)},
			{"Envoy and agent", slices.Concat([]Panel{
				curves("Memory of Envoy", bytesUnit, one("envoy_server_memory_heap_size")),
				curves("Worker threads", count, one("envoy_server_concurrency")),
				curves("Scrapes", perSecond, Query{rate("ambit_waypoint_scrapes_total", sel, "result"), "{{result}}"}).saying("error: Envoy did not answer in time"),
			}, process("ambit_waypoint_ready", where))},
		},
	}
}

func controlPlane() Dashboard {
	where := `{pod=~"$pod"}`
	sel := `pod=~"$pod"`
	return Dashboard{
		Name: "control-plane", Title: "Control plane", Text: "ambitd: configuration and certificates.",
		Variables: []Variable{{Name: "pod", Title: "Pod", Query: "label_values(ambit_control_events_total, pod)"}},
		Rows: []Row{
			{"Now", []Panel{
				number("Proxies connected", count, "sum(pilot_xds"+where+")"),
				number("Leaders", count, "sum(ambit_control_leader"+where+")").saying("writes status, Events and what runs for Gateways; there should be one"),
				alarm("Objects refused or warned about", count, "max(ambit_control_refusals"+where+")", 1).saying("ambitctl config refused says which"),
				number("Change to wire, p99", seconds, quantile("0.99", "ambit_control_push_delay_seconds", sel)),
				number("Until the issuer expires", seconds, "min(ambit_ca_issuer_seconds_to_expiry"+where+")"),
				number("Until a root expires", seconds, "min(ambit_ca_root_seconds_to_expiry"+where+")"),
			}},
			{"Configuration", []Panel{
				curves("Events taken in", perSecond, Query{rate("ambit_control_events_total", sel, "pod"), "{{pod}}"}),
				curves("Pushes", perSecond, Query{rate("ambit_control_pushes_total", sel, "pod"), "{{pod}}"}),
				curves("From an event to the wire", seconds,
					Query{quantile("0.50", "ambit_control_push_delay_seconds", sel), "p50"}, Query{quantile("0.99", "ambit_control_push_delay_seconds", sel), "p99"}),
				curves("To compute a push", seconds,
					Query{quantile("0.50", "ambit_control_push_compute_seconds", sel), "p50"}, Query{quantile("0.99", "ambit_control_push_compute_seconds", sel), "p99"}),
				curves("Resources, by type", count, Query{"max by (type) (ambit_control_resources" + where + ")", "{{type}}"}),
				curves("Resources that changed", perSecond,
					Query{rate("ambit_control_resources_put_total", sel), "put"}, Query{rate("ambit_control_resources_removed_total", sel), "removed"}),
			}},
			{"Proxies", []Panel{
				curves("Connected", count, Query{"pilot_xds" + where, "{{pod}}"}),
				curves("Resources sent, by type", perSecond, Query{rate("pilot_xds_pushes", sel, "type"), "{{type}}"}),
				curves("Bytes sent, by type", bytesRate, Query{rate("pilot_xds_push_bytes_total", sel, "type"), "{{type}}"}),
				curves("Refused by proxies", perSecond, Query{rate("pilot_total_xds_rejects", sel, "type"), "{{type}}"}),
			}},
			{"Sources", []Panel{
				curves("Kinds that cannot be read", count, Query{"ambit_control_unreadable_kinds" + where, "{{pod}}"}).
					saying("what the API server refuses to show, for want of a role or of the kind; what was known of them stays"),
				curves("Fetches of key sets", perSecond, Query{rate("ambit_control_jwks_fetches_total", sel, "outcome"), "{{outcome}}"}),
			}},
			{"Certificates", []Panel{
				curves("Issued", perSecond, Query{rate("ambit_ca_certificates_issued_total", sel, "pod"), "{{pod}}"}),
				curves("Requests, by answer", perSecond, Query{rate("ambit_ca_requests_total", sel, "code"), "{{code}}"}),
				curves("Time to answer", seconds,
					Query{quantile("0.50", "ambit_ca_request_seconds", sel), "p50"}, Query{quantile("0.99", "ambit_ca_request_seconds", sel), "p99"}),
			}},
			{"Process", process("ambit_control_events_total", where)},
		},
	}
}
