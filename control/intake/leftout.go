package intake

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/ambit-mesh/ambit/control/status"
)

// notCarriedOut are the fields of Istio's messages that are valid and mean something, and that this mesh does not carry
// out, with what to do instead. Every other field is either converted or about something a mesh without sidecars does not
// have; the test beside this list goes through all of them.
var notCarriedOut = map[protoreflect.FullName]string{
	"istio.networking.v1alpha3.HTTPMatchRequest.stat_prefix":                                                     "remove it; requests are counted by service",
	"istio.networking.v1alpha3.CorsPolicy.allow_origin":                                                          "write allowOrigins; the field is old and works still",
	"istio.networking.v1alpha3.HTTPRoute.mirror_percent":                                                         "write mirrorPercentage; the field is old and works still",
	"istio.networking.v1alpha3.HTTPFaultInjection.Delay.percent":                                                 "write percentage; the field is old and works still",
	"istio.networking.v1alpha3.TrafficPolicy.RetryBudget.budget_interval":                                        "remove it; the budget is of the requests that are active",
	"istio.networking.v1alpha3.LoadBalancerSettings.zone_aware_lb_setting":                                       "use localityLbSetting",
	"istio.networking.v1alpha3.LoadBalancerSettings.ConsistentHashLB.HTTPCookie.attributes":                      "remove it; the cookie has its name, path and lifetime",
	"istio.networking.v1alpha3.ConnectionPoolSettings.HTTPSettings.http2_keep_alive":                             "use tcp.tcpKeepalive",
	"istio.networking.v1alpha3.OutlierDetection.outlier_detection_http_error_codes":                              "use consecutive5xxErrors or consecutiveGatewayErrors",
	"istio.networking.v1alpha3.OutlierDetection.consecutive_errors":                                              "write consecutiveGatewayErrors; the field is old and works still",
	"istio.networking.v1alpha3.LoadBalancerSettings.warmup_duration_secs":                                        "write warmup.duration; the field is old and works still",
	"istio.networking.v1alpha3.LoadBalancerSettings.ConsistentHashLB.minimum_ring_size":                          "write ringHash.minimumRingSize; the field is old and works still",
	"istio.security.v1beta1.JWTRule.space_delimited_claims":                                                      "claims scope and permission are split already; match others as a whole",
	"istio.telemetry.v1alpha1.Tracing.use_request_id_for_trace_sampling":                                         "remove it; the trace decides",
	"istio.telemetry.v1alpha1.Tracing.enable_istio_tags":                                                         "remove it; the tags are always there",
	"istio.telemetry.v1alpha1.Tracing.disable_context_propagation":                                               "remove it; the context is always passed on",
	"istio.telemetry.v1alpha1.Metrics.reporting_interval":                                                        "remove it; metrics are current",
	"istio.extensions.v1alpha1.WasmPlugin.image_pull_policy":                                                     "remove it; the module is fetched once and checked by its hash",
	"istio.extensions.v1alpha1.WasmPlugin.image_pull_secret":                                                     "serve the module by https without a login",
	"istio.extensions.v1alpha1.WasmPlugin.verification_key":                                                      "write sha256",
	"istio.extensions.v1alpha1.WasmConfig.image_pull_policy":                                                     "remove it; the module is fetched once and checked by its hash",
	"istio.extensions.v1alpha1.WasmConfig.image_pull_secret":                                                     "serve the module by https without a login",
	"istio.extensions.v1alpha1.WasmConfig.verification_key":                                                      "write sha256",
	"istio.mesh.v1alpha1.MeshConfig.discovery_selectors":                                                         "remove it; every namespace is read",
	"istio.mesh.v1alpha1.MeshConfig.config_sources":                                                              "put the objects into the folder or cluster the control plane reads",
	"istio.mesh.v1alpha1.MeshConfig.ca_certificates":                                                             "give them to the CA and its clients as roots",
	"istio.mesh.v1alpha1.MeshConfig.ca":                                                                          "configure the CA itself",
	"istio.mesh.v1alpha1.MeshConfig.mesh_mTLS":                                                                   "remove it; TLS 1.3 is used inside the mesh",
	"istio.mesh.v1alpha1.MeshConfig.tls_defaults":                                                                "remove it",
	"istio.mesh.v1alpha1.MeshConfig.zone_aware_lb_setting":                                                       "use localityLbSetting",
	"istio.mesh.v1alpha1.MeshConfig.service_entry_visibility":                                                    "set control.serviceEntryVisibility among the values of a cluster, or ambitd --service-entry-visibility without one, for all namespaces alike",
	"istio.mesh.v1alpha1.MeshConfig.service_settings":                                                            "remove it; there is one cluster",
	"istio.mesh.v1alpha1.MeshConfig.h2_upgrade_policy":                                                           "use a DestinationRule's h2UpgradePolicy",
	"istio.mesh.v1alpha1.MeshConfig.tcp_keepalive":                                                               "use a DestinationRule's tcpKeepalive",
	"istio.mesh.v1alpha1.MeshConfig.hbone_idle_timeout":                                                          "remove it",
	"istio.mesh.v1alpha1.MeshConfig.enable_envoy_access_log_service":                                             "use a provider envoyOtelAls",
	"istio.mesh.v1alpha1.MeshConfig.OutboundTrafficPolicy.tls":                                                   "use a DestinationRule",
	"istio.mesh.v1alpha1.MeshConfig.ExtensionProvider.OpenTelemetryTracingProvider.dynatrace_sampler":            "use randomSamplingPercentage of a Telemetry",
	"istio.mesh.v1alpha1.MeshConfig.ExtensionProvider.OpenTelemetryTracingProvider.resource_detectors":           "remove it",
	"istio.mesh.v1alpha1.MeshConfig.ExtensionProvider.EnvoyFileAccessLogProvider.omit_empty_values":              "remove it",
	"istio.mesh.v1alpha1.MeshConfig.ExtensionProvider.EnvoyExternalAuthorizationHttpProvider.clear_route_cache":  "remove it; the route is chosen before the check",
	"istio.mesh.v1alpha1.MeshConfig.ExtensionProvider.EnvoyExternalAuthorizationGrpcProvider.clear_route_cache":  "remove it; the route is chosen before the check",
	"istio.mesh.v1alpha1.MeshConfig.ExtensionProvider.OpenTelemetryTracingProvider.grpc":                         "remove it; spans are sent without metadata",
	"istio.mesh.v1alpha1.MeshConfig.ExtensionProvider.OpenTelemetryTracingProvider.service_attribute_enrichment": "remove it",
	"istio.mesh.v1alpha1.MeshConfig.ExtensionProvider.HttpService.timeout":                                       "remove it",
	"istio.mesh.v1alpha1.MeshConfig.ExtensionProvider.HttpService.headers":                                       "let the collector do without",
	"istio.mesh.v1alpha1.MeshConfig.ExtensionProvider.ZipkinTracingProvider.headers":                             "let the collector do without",
	"istio.mesh.v1alpha1.MeshConfig.ExtensionProvider.ZipkinTracingProvider.path":                                "let the collector listen at /api/v2/spans",
	"istio.mesh.v1alpha1.MeshConfig.ExtensionProvider.ZipkinTracingProvider.trace_context_option":                "use opentelemetry for the W3C's trace context",
	"istio.mesh.v1alpha1.MeshConfig.ExtensionProvider.ZipkinTracingProvider.timeout":                             "remove it",
	"istio.mesh.v1alpha1.MeshConfig.ExtensionProvider.ZipkinTracingProvider.enable_64bit_trace_id":               "remove it; trace ids have 128 bits",
	"istio.mesh.v1alpha1.MeshConfig.ExtensionProvider.EnvoyOpenTelemetryLogProvider.log_name":                    "remove it; the name of the provider is the log's",
	"istio.mesh.v1alpha1.MeshConfig.service_scope_configs":                                                       "remove it; there is one cluster",
	"istio.mesh.v1alpha1.MeshConfig.protocol_detection_timeout":                                                  "name the protocol of the port: appProtocol, or a name like http-web",
	"istio.mesh.v1alpha1.MeshConfig.certificates":                                                                "configure the CA itself",
	"istio.mesh.v1alpha1.Topology.forward_client_cert_details":                                                   "remove it; the header is always written anew from the client's identity",
	"istio.mesh.v1alpha1.Topology.proxy_protocol":                                                                "let the load balancer use X-Forwarded-For",
	"istio.mesh.v1alpha1.Tracing.tls_settings":                                                                   "use a DestinationRule for the collector",
	"istio.mesh.v1alpha1.Tracing.enable_istio_tags":                                                              "remove it; the tags are always there",
	"istio.mesh.v1alpha1.ProxyConfig.concurrency":                                                                "set the CPU limit of the Gateway's deployment",
	"istio.mesh.v1alpha1.ProxyConfig.connection_settings":                                                        "use a DestinationRule",
	"istio.mesh.v1alpha1.ProxyConfig.proxy_headers":                                                              "edit headers with a VirtualService or HTTPRoute",
	"istio.mesh.v1alpha1.ProxyConfig.proxy_stats_matcher":                                                        "choose metrics with a Telemetry",
	"istio.mesh.v1alpha1.ProxyConfig.extra_stat_tags":                                                            "add tags with a Telemetry",
	"istio.mesh.v1alpha1.ProxyConfig.proxy_metadata":                                                             "remove it",
	"istio.mesh.v1alpha1.ProxyConfig.runtime_values":                                                             "remove it",
	"istio.mesh.v1alpha1.ProxyConfig.image":                                                                      "change the Gateway's deployment with infrastructure.parametersRef",
	"istio.mesh.v1alpha1.ProxyConfig.private_key_provider":                                                       "remove it",
	"istio.mesh.v1alpha1.ProxyConfig.envoy_access_log_service":                                                   "use a provider envoyOtelAls",
	"istio.mesh.v1alpha1.ProxyConfig.envoy_metrics_service":                                                      "scrape the metrics",
	"istio.mesh.v1alpha1.ProxyConfig.statsd_udp_address":                                                         "scrape the metrics",
	"istio.mesh.v1alpha1.ProxyConfig.zipkin_address":                                                             "write tracing.zipkin.address",
	"istio.mesh.v1alpha1.ProxyConfig.drain_duration":                                                             "remove it",
	"istio.mesh.v1alpha1.ProxyConfig.termination_drain_duration":                                                 "set terminationGracePeriodSeconds of the Gateway's deployment",
	"istio.mesh.v1alpha1.ProxyConfig.stats_compression":                                                          "remove it",
	"istio.mesh.v1alpha1.ProxyConfig.custom_config_file":                                                         "remove it",
	"istio.mesh.v1alpha1.ProxyConfig.proxy_bootstrap_template_path":                                              "remove it",
}

// leftOut warns about every field that is set and not carried out.
func (r *reader) leftOut(spec proto.Message, at ...any) {
	path := at
	if len(path) == 0 {
		path = []any{"spec"}
	}
	r.leftOutOf(spec.ProtoReflect(), path)
}

func (r *reader) leftOutOf(m protoreflect.Message, path []any) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		p := sub(path, fd.JSONName())
		if fix, ok := notCarriedOut[fd.FullName()]; ok {
			code, problem := status.NotCarriedOut, "the field is not carried out"
			if strings.Contains(fix, "works still") {
				code, problem = status.OldVersion, "the field is deprecated"
				fix, _, _ = strings.Cut(fix, ";")
			}
			r.warnAs(code, p, problem, fix)
			return true
		}
		if fd.Message() == nil || wellKnownField(fd) {
			return true
		}
		switch {
		case fd.IsList():
			for i := range v.List().Len() {
				r.leftOutOf(v.List().Get(i).Message(), sub(p, i))
			}
		case fd.IsMap():
			v.Map().Range(func(k protoreflect.MapKey, e protoreflect.Value) bool {
				r.leftOutOf(e.Message(), sub(p, fmt.Sprint(k)))
				return true
			})
		default:
			r.leftOutOf(v.Message(), p)
		}
		return true
	})
}

// wellKnownField reports whether a field holds, in a map or not, nothing to look into.
func wellKnownField(fd protoreflect.FieldDescriptor) bool {
	if fd.IsMap() {
		md := fd.MapValue().Message()
		return md == nil || wellKnown(md)
	}
	return wellKnown(fd.Message())
}
