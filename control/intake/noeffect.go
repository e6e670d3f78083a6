package intake

import (
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// readNoEffect reads a kind that means nothing without sidecars, to say so.
func readNoEffect(kind object.Kind, why string, fix func(spec *yaml.Node) string) func(*reader) object.Object {
	return func(r *reader) object.Object {
		var in custom
		r.object(&in)
		m := r.meta(&in.ObjectMeta, true, isSubdomain)
		if r.refused > 0 {
			return nil
		}
		r.warnAs(status.KindWithoutEffect, at("kind"), why, fix(in.Spec))
		if out := child(in.Spec, "outboundTrafficPolicy"); kind == object.KindSidecar && scalar(out, "mode") == "REGISTRY_ONLY" {
			r.warnAs(status.NotCarriedOut, at("spec", "outboundTrafficPolicy"), "nothing keeps connections in: those to hosts that the mesh does not know go out", keepIn)
		}
		return &object.NoEffect{Meta: m, Kind: kind}
	}
}

func sidecarFix(*yaml.Node) string {
	return "remove it; a client may reach what there is, and who may connect is said by an AuthorizationPolicy at the server. " + keepInShort
}

// What there is instead of control of egress at the client, which the mesh has not.
const (
	keepInShort = "Egress is bounded by NetworkPolicies, not by the mesh"
	keepIn      = "bound egress by a NetworkPolicy that admits an egress gateway alone: a waypoint, and a ServiceEntry with that waypoint and an AuthorizationPolicy for each host that may be reached"
)

// patches are the things that EnvoyFilters are mostly written for, and what there is for them here.
var patches = [...]struct{ word, fix string }{
	{"local_ratelimit", "write a LocalRateLimitPolicy of policy.ambit.io"},
	{"LocalRateLimit", "write a LocalRateLimitPolicy of policy.ambit.io"},
	{"filters.http.lua", "write an ExtensionPolicy of policy.ambit.io with lua"},
	{"filters.http.ext_proc", "write an ExtensionPolicy of policy.ambit.io with extProc"},
	{"filters.http.wasm", "write a WasmPlugin"},
	{"filters.http.ext_authz", "write an AuthorizationPolicy with action CUSTOM"},
	{"filters.http.jwt_authn", "write a RequestAuthentication"},
	{"filters.http.fault", "write a VirtualService with fault"},
	{"filters.http.cors", "write a VirtualService with corsPolicy"},
	{"idle_timeout", "write a DestinationRule with connectionPool"},
}

// maxPatchNodes bounds how far an EnvoyFilter is looked through for advice.
const maxPatchNodes = 2000

func envoyFilterFix(spec *yaml.Node) string {
	left := maxPatchNodes
	var find func(n *yaml.Node, depth int) string
	find = func(n *yaml.Node, depth int) string {
		left--
		if n == nil || left < 0 || depth > maxDepth {
			return ""
		}
		n = follow(n)
		if n.Kind == yaml.ScalarNode && len(n.Value) < 256 {
			for _, p := range patches {
				if strings.Contains(n.Value, p.word) {
					return p.fix
				}
			}
		}
		for _, c := range n.Content {
			if fix := find(c, depth+1); fix != "" {
				return fix
			}
		}
		return ""
	}
	if fix := find(spec, 0); fix != "" {
		return fix
	}
	return "say it with a VirtualService, DestinationRule, WasmPlugin, or an ExtensionPolicy or LocalRateLimitPolicy of policy.ambit.io"
}
