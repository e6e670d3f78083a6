package dashboards

import "sigs.k8s.io/yaml"

// An Alert is a condition that somebody should look at.
type Alert struct {
	Name, Expr string
	// For is how long it has to hold.
	For string
	// Severity is critical where traffic or security suffers now, warning where it will, info where somebody made a mistake.
	Severity string
	// Text says what is wrong, Fix what to do.
	Text, Fix string
}

// Alerts returns what Prometheus should tell an operator.
func Alerts() []Alert {
	return []Alert{
		{"AmbitPodsOutsideMesh", "ambit_cni_pods_desired - ambit_cni_pods_taken > 0", "5m", "critical",
			"{{ $value }} pods on the node of {{ $labels.pod }} belong to the mesh and are not in it", "ambitctl enrolment says which and why"},
		{"AmbitPluginNotInPlace", "istio_cni_install_ready == 0", "2m", "critical",
			"the container runtime on the node of {{ $labels.pod }} does not call the mesh's CNI plugin", "ambitctl check, and the log of {{ $labels.pod }}"},
		{"AmbitNodeWithoutProxy", "ztunnel_connected == 0", "2m", "critical",
			"no ztunnel is connected to {{ $labels.pod }}: new pods of its node do not start, and connections of others fail", "look at the ztunnel of that node"},
		{"AmbitProxiesWithoutControlPlane",
			"count(workload_manager_active_proxy_count) + (count(ambit_waypoint_ready) or vector(0)) - (sum(pilot_xds) or vector(0)) > 0", "10m", "warning",
			"{{ $value }} proxies are connected to no control plane and go on with what they know", "ambitctl proxy-status; check port 15012 of ambitd and NetworkPolicies"},
		{"AmbitCertificateExpires", "min by (namespace, pod) (ambit_cert_seconds_to_expiry) < 3600", "10m", "critical",
			"certificates that {{ $labels.namespace }}/{{ $labels.pod }} uses expire in {{ $value | humanizeDuration }} and were not renewed", "ambitctl ca status, and the log of the pod"},
		{"AmbitIssuerExpires", "min(ambit_ca_issuer_seconds_to_expiry) < 30 * 86400", "1h", "warning",
			"the certificate that signs all others expires in {{ $value | humanizeDuration }}", "replace the Secret cacerts; see docs/kubernetes/authority.md"},
		{"AmbitRootExpires", "min(ambit_ca_root_seconds_to_expiry) < 90 * 86400", "1h", "warning",
			"a trusted root expires in {{ $value | humanizeDuration }}", "add the next root now, so that every proxy has it before it signs; see docs/identity.md"},
		{"AmbitObjectsRefused", "max(ambit_control_refusals) > 0", "10m", "info",
			"{{ $value }} objects are refused or in doubt; what was in force before stays so", "ambitctl config refused"},
		{"AmbitLastGoodNotKept", "max(ambit_control_last_good_not_kept) > 0", "10m", "warning",
			"{{ $value }} policies that are refused, or whose definition is away, are in force by versions that are noted nowhere", "ambitctl config refused; correct them before ambitd is restarted"},
		{"AmbitNoLeader", "sum(ambit_control_leader) != 1", "5m", "warning",
			"{{ $value }} control planes write status and run Gateways; one should", "kubectl -n ambit-system describe lease ambitd"},
		{"AmbitKindsUnreadable", "max by (pod) (ambit_control_unreadable_kinds) > 0", "10m", "warning",
			"{{ $labels.pod }} cannot read {{ $value }} kinds of objects and goes on with what it knew of them", "ambitctl config refused names them; check the ClusterRole ambitd and the CustomResourceDefinitions"},
		{"AmbitWaypointNotReady", "ambit_waypoint_ready == 0", "5m", "critical",
			"{{ $labels.namespace }}/{{ $labels.pod }} serves nobody", "ambitctl waypoint status, and the log of the pod"},
		{"AmbitWaypointIncomplete", "ambit_waypoint_problems + ambit_waypoint_rejected_facts + ambit_waypoint_refused_resources > 0", "5m", "warning",
			"{{ $labels.namespace }}/{{ $labels.pod }} cannot carry out everything it was told; what policies it concerns is closed", "ambitctl proxy-config problems"},
		{"AmbitEnvoyRestarts", "increase(ambit_waypoint_envoy_restarts_total[15m]) > 1", "0m", "critical",
			"Envoy in {{ $labels.namespace }}/{{ $labels.pod }} ended {{ $value }} times in 15 minutes", "the log of the pod has its last words"},
		{"AmbitConnectionsFail", `sum by (destination_service_namespace, destination_service_name) (rate(istio_tcp_connections_failed_total{reporter="source",response_flags!="DENY"}[5m]))` +
			` / sum by (destination_service_namespace, destination_service_name) (rate(istio_tcp_connections_opened_total{reporter="source"}[5m])) > 0.05`, "10m", "warning",
			"{{ $value | humanizePercentage }} of the connections to {{ $labels.destination_service_name }} in {{ $labels.destination_service_namespace }} fail", "the access log of ztunnel has a reason for each"},
		{"AmbitWaypointPassedBy", `sum by (gateway, service) (increase(ambit_waypoint_bypass_total{outcome="refused"}[10m])) > 0`, "10m", "info",
			"clients try to reach {{ $labels.service }} without its waypoint {{ $labels.gateway }} and are refused", "the access log of ztunnel names them (reason waypoint-required)"},
	}
}

// AlertRules returns the alerts as a file of rules for Prometheus, which is also the spec of a PrometheusRule.
func AlertRules() ([]byte, error) {
	var rules []any
	for _, a := range Alerts() {
		rules = append(rules, object{
			"alert": a.Name, "expr": a.Expr, "for": a.For, "labels": object{"severity": a.Severity},
			"annotations": object{"summary": a.Text, "description": a.Fix},
		})
	}
	return yaml.Marshal(object{"groups": []any{object{"name": "ambit", "rules": rules}}})
}
