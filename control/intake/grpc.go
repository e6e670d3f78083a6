package intake

import (
	"fmt"
	"regexp"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/object"
)

// grpcRoute converts a GRPCRoute: a method of a gRPC service is the path /service/method.
func (r *reader) grpcRoute(m object.Meta, spec *gatewayv1.GRPCRouteSpec) *object.HTTPRoute {
	out := &object.HTTPRoute{Meta: m, GRPC: true, Parents: r.parents(&spec.CommonRouteSpec, m.Namespace), Hostnames: r.hostnames(spec.Hostnames, maxRouteHostnames)}
	if !r.fewer(len(spec.Rules), maxRouteRules, at("spec", "rules"), "rule") {
		return nil
	}
	all := 0
	names := map[string]bool{}
	for i := range spec.Rules {
		in, path := &spec.Rules[i], at("spec", "rules", i)
		all += max(1, len(in.Matches))
		rule := r.newRule("GRPCRoute", m, i, in.Name, names, path)
		if r.fewer(len(in.Matches), maxRouteMatches, sub(path, "matches"), "match") {
			for j := range in.Matches {
				rule.Rule.Matches = append(rule.Rule.Matches, r.grpcMatch(&in.Matches[j], sub(path, "matches", j)))
			}
		}
		var backends []gatewayv1.HTTPBackendRef
		for j := range in.BackendRefs {
			b := &in.BackendRefs[j]
			backends = append(backends, gatewayv1.HTTPBackendRef{BackendRef: b.BackendRef, Filters: r.asHTTP(b.Filters, sub(path, "backendRefs", j, "filters"))})
		}
		r.routeBackends(backends, path, m.Namespace, rule)
		r.filters(r.asHTTP(in.Filters, sub(path, "filters")), path, m.Namespace, rule, &gatewayv1.HTTPRouteRule{})
		rule.Rule.Session = r.session(in.SessionPersistence, sub(path, "sessionPersistence"))
		r.goesNowhere(rule)
		out.Rules = append(out.Rules, *rule)
	}
	if all > maxRouteAll {
		r.refuse(at("spec", "rules"), fmt.Sprintf("there are %d matches, at most %d are allowed in a route", all, maxRouteAll), "split the route")
	}
	return out
}

// asHTTP turns the filters of a GRPCRoute into those of an HTTPRoute, whose types are more.
func (r *reader) asHTTP(in []gatewayv1.GRPCRouteFilter, path []any) []gatewayv1.HTTPRouteFilter {
	types := []string{"RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", "ExtensionRef"}
	var out []gatewayv1.HTTPRouteFilter
	for i, f := range in {
		if !r.oneOf(string(f.Type), sub(path, i, "type"), types...) {
			return nil
		}
		out = append(out, gatewayv1.HTTPRouteFilter{
			Type: gatewayv1.HTTPRouteFilterType(f.Type), RequestHeaderModifier: f.RequestHeaderModifier,
			ResponseHeaderModifier: f.ResponseHeaderModifier, RequestMirror: f.RequestMirror, ExtensionRef: f.ExtensionRef,
		})
	}
	return out
}

var (
	grpcService = regexp.MustCompile(`^(?i)\.?[a-z_][a-z_0-9]*(\.[a-z_][a-z_0-9]*)*$`)
	grpcMethod  = regexp.MustCompile(`^[A-Za-z_][A-Za-z_0-9]*$`)
)

func (r *reader) grpcMatch(in *gatewayv1.GRPCRouteMatch, path []any) *waypoint.HTTPMatch {
	out := &waypoint.HTTPMatch{}
	if in.Method != nil {
		out.Path = r.methodMatch(in.Method, sub(path, "method"))
	}
	r.fewer(len(in.Headers), maxRouteItems, sub(path, "headers"), "header")
	for i, h := range in.Headers {
		r.addHeader(out, string(h.Name), h.Value, (*string)(h.Type), sub(path, "headers", i))
	}
	return out
}

func (r *reader) methodMatch(in *gatewayv1.GRPCMethodMatch, path []any) *waypoint.PathMatch {
	service, method, kind := "", "", "Exact"
	if in.Service != nil {
		service = *in.Service
	}
	if in.Method != nil {
		method = *in.Method
	}
	if in.Type != nil {
		kind = string(*in.Type)
		r.oneOf(kind, sub(path, "type"), "Exact", "RegularExpression")
	}
	if service == "" && method == "" {
		r.refuse(path, "neither service nor method is named", "write one of them")
	}
	if kind == "RegularExpression" {
		const any = "[^/]+"
		if service == "" {
			service = any
		} else if !r.regex(service, sub(path, "service")) {
			return nil
		}
		if method == "" {
			method = any
		} else if !r.regex(method, sub(path, "method")) {
			return nil
		}
		return &waypoint.PathMatch{Kind: &waypoint.PathMatch_Regex{Regex: "/(?:" + service + ")/(?:" + method + ")"}}
	}
	if service != "" && !grpcService.MatchString(service) || len(service) > 1024 {
		r.refuse(sub(path, "service"), fmt.Sprintf("%q is not the name of a gRPC service", clip(service)), "write it like package.Service")
	}
	if method != "" && !grpcMethod.MatchString(method) || len(method) > 1024 {
		r.refuse(sub(path, "method"), fmt.Sprintf("%q is not the name of a method", clip(method)), "write it like GetBook")
	}
	switch {
	case method == "":
		return &waypoint.PathMatch{Kind: &waypoint.PathMatch_Prefix{Prefix: "/" + service + "/"}}
	case service == "":
		return &waypoint.PathMatch{Kind: &waypoint.PathMatch_Regex{Regex: "/[^/]+/" + regexp.QuoteMeta(method)}}
	}
	return &waypoint.PathMatch{Kind: &waypoint.PathMatch_Exact{Exact: "/" + service + "/" + method}}
}
