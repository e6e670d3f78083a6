package intake

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/durationpb"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/object"
)

// The Gateway API's own bounds, from its CRDs.
const (
	maxRouteRules     = 16
	maxRouteMatches   = 64
	maxRouteAll       = 128
	maxRouteItems     = 16
	maxParents        = 32
	maxRouteHostnames = 16
)

// httpRoute converts an HTTPRoute. Values that the CRD's schema forbids refuse the document; what is valid and cannot be
// carried out breaks its rule, which then answers with an error: the other rules stand.
func (r *reader) httpRoute(m object.Meta, spec *gatewayv1.HTTPRouteSpec) *object.HTTPRoute {
	out := &object.HTTPRoute{Meta: m, Parents: r.parents(&spec.CommonRouteSpec, m.Namespace), Hostnames: r.hostnames(spec.Hostnames, maxRouteHostnames)}
	rules := spec.Rules
	if nodeAt(r.root, at("spec", "rules")) == nil && rules == nil {
		rules = []gatewayv1.HTTPRouteRule{{}} // the schema's default
	}
	if len(rules) == 0 {
		r.refuse(at("spec", "rules"), "a route needs a rule", "add one, or remove the field")
	}
	if !r.fewer(len(rules), maxRouteRules, at("spec", "rules"), "rule") {
		return nil
	}
	all := 0
	names := map[string]bool{}
	for i := range rules {
		in, path := &rules[i], at("spec", "rules", i)
		all += max(1, len(in.Matches))
		rule := r.newRule("HTTPRoute", m, i, in.Name, names, path)
		if r.fewer(len(in.Matches), maxRouteMatches, sub(path, "matches"), "match") {
			for j := range in.Matches {
				rule.Rule.Matches = append(rule.Rule.Matches, r.routeMatch(&in.Matches[j], sub(path, "matches", j)))
			}
		}
		r.routeBackends(in.BackendRefs, path, m.Namespace, rule)
		r.filters(in.Filters, path, m.Namespace, rule, in)
		r.timeouts(in.Timeouts, sub(path, "timeouts"), rule.Rule)
		rule.Rule.Retry = r.routeRetry(in.Retry, sub(path, "retry"))
		rule.Rule.Session = r.session(in.SessionPersistence, sub(path, "sessionPersistence"))
		r.goesNowhere(rule)
		out.Rules = append(out.Rules, *rule)
	}
	if all > maxRouteAll {
		r.refuse(at("spec", "rules"), fmt.Sprintf("there are %d matches, at most %d are allowed in a route", all, maxRouteAll), "split the route")
	}
	return out
}

// newRule starts a rule of a route and checks its name.
func (r *reader) newRule(kind string, m object.Meta, i int, name *gatewayv1.SectionName, names map[string]bool, path []any) *object.RouteRule {
	out := &object.RouteRule{}
	if name != nil {
		out.Name = string(*name)
		switch {
		case !isSubdomain(out.Name):
			r.refuse(sub(path, "name"), fmt.Sprintf("%q is not a valid name", clip(out.Name)), nameFix(out.Name))
		case names[out.Name]:
			r.refuse(sub(path, "name"), fmt.Sprintf("the rule %q stands twice", out.Name), "choose another name")
		}
		names[out.Name] = true
	}
	out.Rule = &waypoint.HTTPRule{Origin: origin(kind, m, uint32(i), out.Name)}
	return out
}

// breakRule makes a rule answer with an error and says so. The first reason stays.
func (r *reader) breakRule(rule *waypoint.HTTPRule, path []any, problem, fix string) {
	r.warn(path, problem+": requests that match the rule are answered with status 500", fix)
	if rule.Broken == "" {
		rule.Broken = pathString(path) + ": " + problem
		rule.BrokenStatus = 500
	}
}

// goesNowhere breaks a rule that neither forwards nor redirects. Gateway API: such requests get status 500.
func (r *reader) goesNowhere(rule *object.RouteRule) {
	if rule.Rule.Action == nil && rule.Rule.Broken == "" {
		rule.Rule.Broken, rule.Rule.BrokenStatus = "the rule has no backend", 500
	}
}

func (r *reader) parents(in *gatewayv1.CommonRouteSpec, namespace string) []object.ParentRef {
	path := at("spec", "parentRefs")
	if !r.fewer(len(in.ParentRefs), maxParents, path, "parent") {
		return nil
	}
	if in.UseDefaultGateways != "" && in.UseDefaultGateways != gatewayv1.GatewayDefaultScopeNone {
		r.warn(at("spec", "useDefaultGateways"), "the field is not carried out", "name the Gateway in parentRefs")
	}
	var out []object.ParentRef
	for i, p := range in.ParentRefs {
		ref := object.ParentRef{Ref: r.ref(p.Group, p.Kind, p.Namespace, p.Name, groupGateway, "Gateway", namespace, sub(path, i))}
		if p.SectionName != nil {
			ref.Section = r.d.words.one(string(*p.SectionName))
		}
		if p.Port != nil {
			ref.Port, _ = r.port(int64(*p.Port), sub(path, i, "port"))
		}
		if slices.Contains(out, ref) {
			r.refuse(sub(path, i), "the parent stands twice", "remove one, or give each a sectionName or port")
		}
		out = append(out, ref)
	}
	return out
}

// ref completes a reference with what the API has for defaults.
func (r *reader) ref(group *gatewayv1.Group, kind *gatewayv1.Kind, ns *gatewayv1.Namespace, name gatewayv1.ObjectName, defaultGroup, defaultKind, defaultNamespace string, path []any) object.Ref {
	out := object.Ref{Group: defaultGroup, Kind: defaultKind, Namespace: defaultNamespace, Name: string(name)}
	if group != nil {
		out.Group = string(*group)
	}
	if kind != nil {
		out.Kind = string(*kind)
	}
	if ns != nil {
		out.Namespace = string(*ns)
	}
	switch {
	case name == "":
		r.refuse(sub(path, "name"), "the field is missing", "write the name of the object")
	case len(name) > 253:
		r.refuse(sub(path, "name"), "the name is too long", "use at most 253 characters")
	}
	if out.Group != "" && !isSubdomain(out.Group) {
		r.refuse(sub(path, "group"), fmt.Sprintf("%q is not an API group", clip(out.Group)), "write it without a version, like gateway.networking.k8s.io")
	}
	if out.Kind == "" || len(out.Kind) > 63 || strings.Trim(out.Kind, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") != "" {
		r.refuse(sub(path, "kind"), fmt.Sprintf("%q is not a kind", clip(out.Kind)), "write it like "+defaultKind)
	}
	if out.Namespace != "" && !isLabel(out.Namespace) {
		r.refuse(sub(path, "namespace"), fmt.Sprintf("%q is not a valid namespace", clip(out.Namespace)), nameFix(out.Namespace))
	}
	one := r.d.words.one
	return object.Ref{Group: one(out.Group), Kind: one(out.Kind), Namespace: one(out.Namespace), Name: one(out.Name)}
}

func (r *reader) hostnames(in []gatewayv1.Hostname, most int) []string {
	path := at("spec", "hostnames")
	if !r.fewer(len(in), most, path, "hostname") {
		return nil
	}
	var out []string
	for i, h := range in {
		s := string(h)
		_, ip := address(s)
		switch {
		case ip:
			r.refuse(sub(path, i), fmt.Sprintf("%q is an address and not a name", clip(s)), "write a name, or remove it: without hostnames every one is meant")
		case !isHost(s, true) || lower(s) != s || strings.Contains(s, "_") || strings.HasSuffix(s, "."):
			r.refuse(sub(path, i), fmt.Sprintf("%q is not a host name", clip(s)), hostFix(s))
		case slices.Contains(out, s):
			r.warn(sub(path, i), "the name stands twice", "remove one of the two")
			continue
		}
		out = append(out, s)
	}
	return out
}

// backend converts where to and how much of the traffic.
func (r *reader) backend(in *gatewayv1.BackendObjectReference, path []any, namespace string) object.BackendRef {
	out := object.BackendRef{Ref: r.ref(in.Group, in.Kind, in.Namespace, in.Name, groupCore, "Service", namespace, path)}
	if in.Port != nil {
		out.Port, _ = r.port(int64(*in.Port), sub(path, "port"))
	} else if out.Group == groupCore && out.Kind == "Service" {
		r.refuse(sub(path, "port"), "the field is missing", "write the port of the Service")
	}
	return out
}

// share is the weight of a backend; 1 without one.
func (r *reader) share(w *int32, path []any) uint32 {
	if w == nil {
		return 1
	}
	if *w < 0 || *w > 1_000_000 {
		r.refuse(sub(path, "weight"), fmt.Sprintf("%d is not a weight", *w), "write a number from 0 to 1000000")
		return 0
	}
	return uint32(*w)
}

func (r *reader) routeBackends(in []gatewayv1.HTTPBackendRef, path []any, namespace string, rule *object.RouteRule) {
	path = sub(path, "backendRefs")
	if len(in) == 0 || !r.fewer(len(in), maxRouteItems, path, "backend") {
		return
	}
	to := &waypoint.Forward{}
	for i := range in {
		p := sub(path, i)
		rule.Backends = append(rule.Backends, r.backend(&in[i].BackendObjectReference, p, namespace))
		b := &waypoint.Backend{Weight: r.share(in[i].Weight, p)}
		r.backendFilters(in[i].Filters, p, rule, b)
		to.Backends = append(to.Backends, b)
	}
	rule.Rule.Action = &waypoint.HTTPRule_Forward{Forward: to}
}

// span reads the Gateway API's durations (GEP-2257): up to four numbers with units, of five digits each.
func (r *reader) span(in *gatewayv1.Duration, path []any) *durationpb.Duration {
	if in == nil {
		return nil
	}
	d, ok := gepDuration(string(*in))
	if !ok {
		r.refuse(path, fmt.Sprintf("%q is not a duration", clip(string(*in))), "write whole numbers with h, m, s or ms, like 1m30s")
		return nil
	}
	return durationpb.New(d)
}

func (r *reader) timeouts(in *gatewayv1.HTTPRouteTimeouts, path []any, out *waypoint.HTTPRule) {
	if in == nil {
		return
	}
	out.Timeout = r.span(in.Request, sub(path, "request"))
	out.BackendTimeout = r.span(in.BackendRequest, sub(path, "backendRequest"))
	if out.Timeout != nil && out.BackendTimeout != nil {
		if t := out.Timeout.AsDuration(); t != 0 && out.BackendTimeout.AsDuration() > t {
			r.refuse(sub(path, "backendRequest"), "one try may not take longer than the whole request", "write a time that is at most that of request")
		}
	}
}

func (r *reader) routeRetry(in *gatewayv1.HTTPRouteRetry, path []any) *waypoint.Retry {
	if in == nil {
		return nil
	}
	out := &waypoint.Retry{Attempts: 1, Backoff: r.span(in.Backoff, sub(path, "backoff"))}
	if in.Attempts != nil {
		if *in.Attempts < 1 || *in.Attempts > maxAttempts {
			r.refuse(sub(path, "attempts"), fmt.Sprintf("%d attempts are not possible", *in.Attempts), fmt.Sprintf("write a number from 1 to %d", maxAttempts))
		} else {
			out.Attempts = uint32(*in.Attempts)
		}
	}
	for i, c := range in.Codes {
		out.Statuses = append(out.Statuses, r.httpStatus(int64(c), 400, sub(path, "codes", i)))
	}
	r.fewer(len(in.Codes), maxValues, sub(path, "codes"), "status code")
	return out
}

// defaultSession is the name of cookies and headers that say no name.
const defaultSession = "ambit-session"

func (r *reader) session(in *gatewayv1.SessionPersistence, path []any) *waypoint.SessionPersistence {
	if in == nil {
		return nil
	}
	out := &waypoint.SessionPersistence{}
	name := defaultSession
	if in.SessionName != nil {
		name = *in.SessionName
		if !isHeader(name) || len(name) > 128 {
			r.refuse(sub(path, "sessionName"), fmt.Sprintf("%q is not a name for a cookie or header", clip(name)), "use letters, digits and dashes")
		}
	}
	lifetime := r.span(in.AbsoluteTimeout, sub(path, "absoluteTimeout"))
	kind := "Cookie"
	if in.Type != nil {
		kind = string(*in.Type)
		r.oneOf(kind, sub(path, "type"), "Cookie", "Header")
	}
	permanent := false
	if c := in.CookieConfig; c != nil {
		if kind == "Header" {
			r.refuse(sub(path, "cookieConfig"), "a header has no cookie", "write type: Cookie, or remove the field")
		}
		if c.LifetimeType != nil {
			r.oneOf(string(*c.LifetimeType), sub(path, "cookieConfig", "lifetimeType"), "Session", "Permanent")
			permanent = *c.LifetimeType == gatewayv1.PermanentCookieLifetimeType
		}
		if permanent && lifetime == nil {
			r.refuse(sub(path, "absoluteTimeout"), "a permanent cookie needs a lifetime", "write one, like 24h")
		}
	}
	if kind == "Header" {
		out.By = &waypoint.SessionPersistence_Header{Header: name}
	} else {
		out.By = &waypoint.SessionPersistence_Cookie{Cookie: name}
	}
	if permanent {
		out.Lifetime = lifetime
	} else if lifetime != nil {
		r.warn(sub(path, "absoluteTimeout"), "the end of the session is left to the client", "write cookieConfig.lifetimeType: Permanent")
	}
	return out
}
