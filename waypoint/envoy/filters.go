package envoy

import (
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	chainv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/filter_chain/v3"
	grpcstatsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	sessionv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/stateful_session/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	netrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// The filters of a connection manager are the same for every target, and what they do is in the routes: the settings of
// a virtual host (hostConfig) and of a route (ruleConfig) reach open connections with their next request, while another
// list of filters would be another filter chain. What has a shape of its own, authorizers, extensions and rate limits,
// is a list of filters inside a filter_chain filter, which takes it from the route. Wasm modules are the exception.
const (
	filterClient    = "ambit.client"
	filterCustom    = "ambit.custom"
	filterAudit     = "ambit.audit"
	filterDeny      = "ambit.deny"
	filterAllow     = "ambit.allow"
	filterRateLimit = "ambit.ratelimit"
)

// httpFilters is the ordered list for a target's connection manager, the router last. The order is Istio's:
// pilot/pkg/networking/core/listener_builder.go. External authorizers see the request as it came, with its token;
// what looks at claims comes after the token was verified; rate limits count what is permitted.
func (e *Env) httpFilters(t target) ([]*hcmv3.HttpFilter, []Problem) {
	slot := func(name string) *hcmv3.HttpFilter { return httpFilter(name, &chainv3.FilterChainConfig{}) }
	// Envoy takes names of statistics from here, and those of metadata from the routes.
	rbac := func(name, prefix, dry string) *hcmv3.HttpFilter {
		return httpFilter(name, &httprbacv3.RBAC{RulesStatPrefix: prefix, ShadowRulesStatPrefix: dry})
	}
	phase := func(p waypoint.Extension_Phase) []*hcmv3.HttpFilter {
		return append([]*hcmv3.HttpFilter{slot(extensionSlots[p])}, moduleFilters(t, p)...)
	}
	return slices.Concat([]*hcmv3.HttpFilter{
		httpFilter(filterClient, clientHeaders(t)),
		slot(filterCustom),
	}, phase(waypoint.Extension_AUTHN), []*hcmv3.HttpFilter{
		slot(filterTokens),
	}, phase(waypoint.Extension_AUTHZ), []*hcmv3.HttpFilter{
		rbac(filterAudit, prefixAudit, ""),
		rbac(filterDeny, prefixDeny, prefixDryDeny),
		rbac(filterAllow, prefixAllow, prefixDryAllow),
		slot(filterRateLimit),
		httpFilter("envoy.filters.http.grpc_stats", &grpcstatsv3.FilterConfig{EmitFilterState: true}),
		httpFilter(filterFault, &faultv3.HTTPFault{}),
		httpFilter(filterCORS, &corsv3.Cors{}),
	}, phase(waypoint.Extension_STATS), phase(waypoint.Extension_UNSPECIFIED), []*hcmv3.HttpFilter{
		httpFilter(filterSession, &sessionv3.StatefulSession{}),
		httpFilter("envoy.filters.http.router", &routerv3.Router{SuppressEnvoyHeaders: true}),
	}), nil
}

// discovered is a configuration that comes by name, of the type of m.
func discovered(m proto.Message) *corev3.ExtensionConfigSource {
	return &corev3.ExtensionConfigSource{ConfigSource: fromADS(), TypeUrls: []string{toAny(m).GetTypeUrl()}}
}

// hostConfig is a target's part of the HTTP filters: the typed_per_filter_config of its virtual host.
func (e *Env) hostConfig(t target) (map[string]*anypb.Any, []Problem) {
	out := map[string]*anypb.Any{}
	if names := reservedHeaders(t); len(names) > 0 {
		out[filterClient] = toAny(removeHeaders(names))
	}
	a := e.authorize(t, false)
	problems := a.problems
	custom, p := e.customFilters(a)
	problems = append(problems, p...)
	fill(out, filterCustom, custom)
	verify, p := e.tokenFilters(t)
	problems = append(problems, p...)
	fill(out, filterTokens, verify)
	for name, v := range map[string]*verdicts{filterAudit: &a.audit, filterDeny: &a.deny, filterAllow: &a.allow} {
		if !v.empty() {
			out[name] = toAny(&httprbacv3.RBACPerRoute{Rbac: v.http()})
		}
	}
	limits, p := e.rateLimitFilters(t, rateLimits(t))
	problems = append(problems, p...)
	fill(out, filterRateLimit, limits)
	extensions, p := e.extensionFilters(inSlots(hostExtensions(t)))
	for slot, filters := range extensions {
		fill(out, slot, filters)
	}
	return out, append(problems, p...)
}

// fill puts filters into a slot.
func fill(config map[string]*anypb.Any, slot string, filters []*corev3.TypedExtensionConfig) {
	if len(filters) > 0 {
		config[slot] = toAny(&chainv3.FilterChainConfigPerRoute{FilterChain: &chainv3.FilterChain{Filters: filters}})
	}
}

func rateLimits(t target) []*waypoint.RateLimit {
	var out []*waypoint.RateLimit
	for _, p := range t.policies {
		out = append(out, p.GetRateLimits()...)
	}
	return out
}

// inSlots are the extensions that run inside slots.
func inSlots(all []*waypoint.Extension) []*waypoint.Extension {
	return slices.DeleteFunc(slices.Clone(all), func(x *waypoint.Extension) bool { return x.GetWasm() != nil })
}

func hostExtensions(t target) []*waypoint.Extension {
	var out []*waypoint.Extension
	for _, p := range t.policies {
		out = append(out, p.GetExtensions()...)
	}
	return out
}

// ruleConfig is one rule's part of the HTTP filters: added to the typed_per_filter_config of its routes. A route's slot
// takes the place of the host's, so that it has both lists.
func (e *Env) ruleConfig(t target, rule *waypoint.HTTPRule) (map[string]*anypb.Any, []Problem) {
	if len(rule.GetExtensions()) == 0 {
		return nil, nil
	}
	var problems []Problem
	own := map[string]bool{}
	for _, x := range rule.GetExtensions() {
		own[ExtensionObject(x)] = true
		if asksClaims([]*waypoint.HTTPRule{rule}) {
			problems = append(problems, Problem{Object: ExtensionObject(x), Text: "it is not run for a rule that is chosen by " +
				"claims of a token: extensions are chosen before tokens are verified; attach it to the service"})
		}
	}
	filters, p := e.extensionFilters(slices.Concat(rule.GetExtensions(), inSlots(hostExtensions(t))))
	for _, problem := range p {
		if own[problem.Object] { // the others' are the host's
			problems = append(problems, problem)
		}
	}
	out := map[string]*anypb.Any{}
	for slot, list := range filters {
		fill(out, slot, list)
	}
	return out, problems
}

// networkFilters go before the TCP proxy of a target. Their policies come by name, for connections to come; one that is
// open keeps what it was opened under, and its ends are watched by the node proxies.
func (e *Env) networkFilters(t target) ([]*listenerv3.Filter, []Problem) {
	a := e.authorize(t, true)
	out := e.customNetworkFilters(a)
	for _, kind := range []string{filterAudit, filterDeny, filterAllow} {
		out = append(out, &listenerv3.Filter{
			Name:       networkPolicy(kind, t),
			ConfigType: &listenerv3.Filter_ConfigDiscovery{ConfigDiscovery: discovered(&netrbacv3.RBAC{})},
		})
	}
	return out, a.problems
}

// networkPolicy is the name of a target's TCP policies of one kind, as a resource.
func networkPolicy(kind string, t target) string { return kind + "|" + portText(t.port) + "|" + t.key }

// Extensions are the filter configurations Envoy fetches by name (ECDS): one for each Wasm module, two for CONNECTs, and
// three for each target of TCP connections. Problems of the latter are reported with the chains.
func Extensions(e *Env) ([]*corev3.TypedExtensionConfig, []Problem) {
	out, problems := e.moduleConfigs()
	deny, allow := e.connectPolicies()
	out = append(out, typedExtension(filterConnectDeny, deny), typedExtension(filterConnectAllow, allow))
	for _, t := range e.streamTargets() {
		a := e.authorize(t, true)
		for _, v := range []struct {
			kind string
			*verdicts
		}{{filterAudit, &a.audit}, {filterDeny, &a.deny}, {filterAllow, &a.allow}} {
			out = append(out, typedExtension(networkPolicy(v.kind, t), v.network()))
		}
	}
	return out, problems
}

// streamTargets are the targets that may have connections that are not HTTP.
func (e *Env) streamTargets() []target {
	var out []target
	for _, svc := range e.services() {
		for _, port := range svc.GetPorts() {
			if kindOf(port.GetProtocol()) == kindTCP || port.GetProtocol() == waypoint.Protocol_AUTO {
				out = append(out, e.serviceTarget(svc, port))
			}
		}
	}
	if e.Gateway.GetWorkloads() {
		out = append(out, e.directTarget())
	}
	if e.VirtualHosts != nil {
		for _, h := range sortedHosts(e.VirtualHosts()) {
			if len(h.GetStream()) > 0 {
				out = append(out, e.edgeTarget(h))
			}
		}
	}
	return out
}
