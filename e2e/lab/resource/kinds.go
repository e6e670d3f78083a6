package resource

import "strings"

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
	case "gtw":
		return k == "gateway"
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
