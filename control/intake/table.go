package intake

import (
	"maps"

	extensionsapi "istio.io/api/extensions/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"
	securityapi "istio.io/api/security/v1beta1"
	telemetryapi "istio.io/api/telemetry/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/control/object"
)

// wholes turn decoded objects into values, of the kinds for which the status matters as much as the spec.
var wholes = map[object.Kind]func(*reader, any) object.Object{
	object.KindNamespace:      whole((*reader).namespaceOf),
	object.KindNode:           whole((*reader).node),
	object.KindServiceAccount: whole((*reader).serviceAccount),
	object.KindPod:            whole((*reader).pod),
	object.KindService:        whole((*reader).service),
	object.KindEndpointSlice:  whole((*reader).endpointSlice),
	object.KindGateway:        whole((*reader).gateway),
	object.KindGatewayClass:   whole((*reader).gatewayClass),
	object.KindNetworkPolicy:  whole((*reader).networkPolicy),
}

// converters turn decoded specs into values.
var converters = map[object.Kind]converter{
	object.KindServiceEntry:          from((*reader).serviceEntry),
	object.KindWorkloadEntry:         from((*reader).workloadEntry),
	object.KindAuthorizationPolicy:   from((*reader).authorizationPolicy),
	object.KindPeerAuthentication:    from((*reader).peerAuthentication),
	object.KindVirtualService:        from((*reader).virtualService),
	object.KindDestinationRule:       from((*reader).destinationRule),
	object.KindHTTPRoute:             from((*reader).httpRoute),
	object.KindGRPCRoute:             from((*reader).grpcRoute),
	object.KindTLSRoute:              from((*reader).tlsRoute),
	object.KindTCPRoute:              from((*reader).tcpRoute),
	object.KindReferenceGrant:        from((*reader).referenceGrant),
	object.KindBackendTLSPolicy:      from((*reader).backendTLSPolicy),
	object.KindListenerSet:           from((*reader).listenerSet),
	object.KindRequestAuthentication: from((*reader).requestAuthentication),
	object.KindTelemetry:             from((*reader).telemetry),
	object.KindWasmPlugin:            from((*reader).wasmPlugin),
	object.KindTrafficExtension:      from((*reader).trafficExtension),
	object.KindLocalRateLimitPolicy:  from((*reader).rateLimitPolicy),
	object.KindExtensionPolicy:       from((*reader).extensionPolicy),
	object.KindSecret:                from((*reader).secret),
	object.KindConfigMap:             from((*reader).configMap),
}

// groups returns the table of what is read. Groups that are not in it belong to others and are left alone, unless their
// name looks like a mistyped one of ours.
func groups() map[string]group {
	out := make(map[string]group)
	for _, some := range []map[string]group{kubernetesGroups(), istioGroups(), gatewayGroups(), ownGroups()} {
		maps.Copy(out, some)
	}
	return out
}

var v1 = []string{"v1"}

func kubernetesGroups() map[string]group {
	return map[string]group{
		groupCore: {
			read: map[string]known{
				"Namespace":      {object.KindNamespace, v1, false, readWhole[corev1.Namespace](object.KindNamespace)},
				"Node":           {object.KindNode, v1, false, readWhole[corev1.Node](object.KindNode)},
				"ServiceAccount": {object.KindServiceAccount, v1, true, readWhole[corev1.ServiceAccount](object.KindServiceAccount)},
				"Pod":            {object.KindPod, v1, true, readWhole[corev1.Pod](object.KindPod)},
				"Service":        {object.KindService, v1, true, readWhole[corev1.Service](object.KindService)},
				"Secret":         {object.KindSecret, v1, true, readSecret},
				"ConfigMap":      {object.KindConfigMap, v1, true, readConfigMap},
			},
			ignored: []string{"Binding", "ComponentStatus", "Endpoints", "Event", "LimitRange", "PersistentVolume",
				"PersistentVolumeClaim", "PodTemplate", "ReplicationController", "ResourceQuota"},
		},
		groupDiscovery: {read: map[string]known{"EndpointSlice": {object.KindEndpointSlice, v1, true, readWhole[discoveryv1.EndpointSlice](object.KindEndpointSlice)}}},
		"networking.k8s.io": {
			read:    map[string]known{"NetworkPolicy": {object.KindNetworkPolicy, v1, true, readWhole[networkingv1.NetworkPolicy](object.KindNetworkPolicy)}},
			ignored: []string{"IPAddress", "Ingress", "IngressClass", "ServiceCIDR"},
		},
		"apps": {ignored: []string{"ControllerRevision", "DaemonSet", "Deployment", "ReplicaSet", "StatefulSet"}},
	}
}

func istioGroups() map[string]group {
	istio := []string{"v1", "v1beta1", "v1alpha3"}
	security := []string{"v1", "v1beta1"}
	return map[string]group{
		groupNetworking: {
			read: map[string]known{
				"ServiceEntry":    {object.KindServiceEntry, istio, true, readServiceEntry},
				"WorkloadEntry":   {object.KindWorkloadEntry, istio, true, istioSpec[networking.WorkloadEntry](object.KindWorkloadEntry)},
				"VirtualService":  {object.KindVirtualService, istio, true, istioSpec[networking.VirtualService](object.KindVirtualService)},
				"DestinationRule": {object.KindDestinationRule, istio, true, istioSpec[networking.DestinationRule](object.KindDestinationRule)},
				"Sidecar":         {object.KindSidecar, istio, true, readNoEffect(object.KindSidecar, "a Sidecar has no effect: no proxy stands beside the application", sidecarFix)},
				"EnvoyFilter":     {object.KindEnvoyFilter, []string{"v1alpha3"}, true, readNoEffect(object.KindEnvoyFilter, "an EnvoyFilter has no effect: the proxies' configuration is not Istio's and has nothing to patch", envoyFilterFix)},
			},
			ignored: []string{"Gateway", "ProxyConfig", "WorkloadGroup"},
		},
		groupSecurity: {
			read: map[string]known{
				"AuthorizationPolicy":   {object.KindAuthorizationPolicy, security, true, istioSpec[securityapi.AuthorizationPolicy](object.KindAuthorizationPolicy)},
				"PeerAuthentication":    {object.KindPeerAuthentication, security, true, istioSpec[securityapi.PeerAuthentication](object.KindPeerAuthentication)},
				"RequestAuthentication": {object.KindRequestAuthentication, security, true, istioSpec[securityapi.RequestAuthentication](object.KindRequestAuthentication)},
			},
		},
		groupTelemetry: {read: map[string]known{
			"Telemetry": {object.KindTelemetry, []string{"v1", "v1alpha1"}, true, istioSpec[telemetryapi.Telemetry](object.KindTelemetry)},
		}},
		groupExtensions: {read: map[string]known{
			"WasmPlugin":       {object.KindWasmPlugin, []string{"v1alpha1"}, true, istioSpec[extensionsapi.WasmPlugin](object.KindWasmPlugin)},
			"TrafficExtension": {object.KindTrafficExtension, []string{"v1alpha1"}, true, istioSpec[extensionsapi.TrafficExtension](object.KindTrafficExtension)},
		}},
	}
}

func gatewayGroups() map[string]group {
	gateway := []string{"v1", "v1beta1"}
	return map[string]group{
		groupGateway: {
			read: map[string]known{
				"Gateway":          {object.KindGateway, gateway, true, readWhole[gatewayv1.Gateway](object.KindGateway)},
				"GatewayClass":     {object.KindGatewayClass, gateway, false, readWhole[gatewayv1.GatewayClass](object.KindGatewayClass)},
				"HTTPRoute":        {object.KindHTTPRoute, gateway, true, plain[gatewayv1.HTTPRouteSpec](object.KindHTTPRoute)},
				"GRPCRoute":        {object.KindGRPCRoute, v1, true, plain[gatewayv1.GRPCRouteSpec](object.KindGRPCRoute)},
				"TLSRoute":         {object.KindTLSRoute, []string{"v1", "v1alpha3", "v1alpha2"}, true, plain[gatewayv1.TLSRouteSpec](object.KindTLSRoute)},
				"TCPRoute":         {object.KindTCPRoute, []string{"v1", "v1alpha2"}, true, plain[gatewayv1.TCPRouteSpec](object.KindTCPRoute)},
				"ReferenceGrant":   {object.KindReferenceGrant, gateway, true, plain[gatewayv1.ReferenceGrantSpec](object.KindReferenceGrant)},
				"BackendTLSPolicy": {object.KindBackendTLSPolicy, []string{"v1", "v1alpha3"}, true, plain[gatewayv1.BackendTLSPolicySpec](object.KindBackendTLSPolicy)},
				"ListenerSet":      {object.KindListenerSet, v1, true, plain[gatewayv1.ListenerSetSpec](object.KindListenerSet)},
			},
			ignored: []string{"BackendLBPolicy", "UDPRoute"},
		},
		// Experiments of the Gateway API.
		"gateway.networking.x-k8s.io": {ignored: []string{"XBackend", "XBackendTrafficPolicy", "XListenerSet", "XMesh"}},
	}
}

func ownGroups() map[string]group {
	return map[string]group{
		groupPolicy: {read: map[string]known{
			"LocalRateLimitPolicy": {object.KindLocalRateLimitPolicy, []string{"v1alpha1"}, true, plain[rateLimitSpec](object.KindLocalRateLimitPolicy)},
			"ExtensionPolicy":      {object.KindExtensionPolicy, []string{"v1alpha1"}, true, plain[extensionSpec](object.KindExtensionPolicy)},
		}},
	}
}
