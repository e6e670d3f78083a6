package resource

import "strings"

// IsKnown says whether a word means any kind that a cluster with the mesh has, whether or not there is an object of it.
func IsKnown(word string) bool {
	for _, kind := range []string{
		"Pod", "Service", "Namespace", "Node", "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "ServiceAccount", "ConfigMap",
		"Secret", "EndpointSlice", "HorizontalPodAutoscaler", "PodDisruptionBudget",
		"Gateway", "GatewayClass", "HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "ReferenceGrant", "BackendTLSPolicy", "ListenerSet",
		"ServiceEntry", "WorkloadEntry", "VirtualService", "DestinationRule", "AuthorizationPolicy", "PeerAuthentication",
		"RequestAuthentication", "Telemetry", "WasmPlugin", "LocalRateLimitPolicy",
	} {
		if IsKind(word, kind) {
			return true
		}
	}
	return false
}

// IsKind says whether a word that a person typed means a kind: its name in any case, singular or plural, or its usual
// short form. "policies" and "all" mean several kinds.
func IsKind(word, kind string) bool {
	w, k := strings.ToLower(word), strings.ToLower(kind)
	if w == k || w == k+"s" || w == k+"es" || strings.HasSuffix(k, "y") && w == strings.TrimSuffix(k, "y")+"ies" {
		return true
	}
	switch w {
	case "po":
		return k == "pod"
	case "svc":
		return k == "service"
	case "ns":
		return k == "namespace"
	case "no":
		return k == "node"
	case "deploy":
		return k == "deployment"
	case "sts":
		return k == "statefulset"
	case "ds":
		return k == "daemonset"
	case "rs":
		return k == "replicaset"
	case "sa":
		return k == "serviceaccount"
	case "se":
		return k == "serviceentry"
	case "we":
		return k == "workloadentry"
	case "gtw", "gw":
		return k == "gateway"
	case "gc":
		return k == "gatewayclass"
	case "cm":
		return k == "configmap"
	case "hpa":
		return k == "horizontalpodautoscaler"
	case "pdb":
		return k == "poddisruptionbudget"
	case "vs":
		return k == "virtualservice"
	case "dr":
		return k == "destinationrule"
	case "ra":
		return k == "requestauthentication"
	case "ap":
		return k == "authorizationpolicy"
	case "pa":
		return k == "peerauthentication"
	case "policy", "policies":
		return k == "authorizationpolicy" || k == "peerauthentication"
	case "all":
		return k == "pod" || k == "service" || k == "deployment" || k == "statefulset" || k == "daemonset" || k == "job" || k == "replicaset"
	}
	return false
}
