package envoy

import (
	"fmt"
	"strconv"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// hostRoutes is what the routes of one host are made of.
type hostRoutes struct {
	target target
	// name is of the virtual host, domains are the hosts it is for.
	name    string
	domains []string
	// protocol is the port's; it says whether gRPC may be spoken here.
	protocol waypoint.Protocol
	rules    []*waypoint.HTTPRule
	// routed: there are routes, and what matches none is answered 404 even when rules is empty.
	routed bool
	// self is where requests go when there are no routes at all; nil: 404.
	self *waypoint.Backend
}

const (
	// maxRoutesPerRule bounds what matches, namespaces and trust domains multiply to.
	maxRoutesPerRule = 2000
	// maxDirectBody is the largest body of a direct response. Istio API, HTTPBody: at most 1 MB.
	maxDirectBody = 1 << 20
	// metaOrigin is route metadata: the object a route was made from.
	metaOrigin = "ambit.origin"
)

// draft is an Envoy route in the making, and the path match it came from: what a prefix rewrite replaces.
type draft struct {
	route *routev3.Route
	path  *waypoint.PathMatch
}

func (d draft) clone() draft { return draft{route: proto.CloneOf(d.route), path: d.path} }

// virtualHost is the routes of one host. Its typed_per_filter_config is the caller's to set (hostConfig).
func (e *Env) virtualHost(h hostRoutes) (*routev3.VirtualHost, []Problem) {
	v := &routev3.VirtualHost{Name: h.name, Domains: h.domains}
	var problems []Problem
	for _, rule := range h.rules {
		routes, p := e.ruleRoutes(h, rule)
		problems = append(problems, p...)
		v.Routes = append(v.Routes, routes...)
	}
	if len(h.rules) == 0 && !h.routed && h.self != nil {
		self := proto.CloneOf(h.self)
		self.Weight = 1
		routes, p := e.ruleRoutes(h, &waypoint.HTTPRule{Action: &waypoint.HTTPRule_Forward{
			Forward: &waypoint.Forward{Backends: []*waypoint.Backend{self}},
		}})
		problems = append(problems, p...)
		v.Routes = append(v.Routes, routes...)
		return v, problems
	}
	v.Routes = append(v.Routes, noRoute(h))
	return v, problems
}

// noRoute answers what no rule matches. Envoy would answer 404 by itself, but then without the filters of the virtual
// host: a token would not be looked at, and a match on its claims could never hold.
func noRoute(h hostRoutes) *routev3.Route {
	r := &routev3.Route{
		Name:  "no-route",
		Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: ""}},
	}
	setRefusal(r, 404, "no route matches", "no rule of the routes for "+h.name+" matches this request")
	return r
}

// routeConfiguration puts virtual hosts under a name.
func routeConfiguration(name string, hosts ...*routev3.VirtualHost) *routev3.RouteConfiguration {
	return &routev3.RouteConfiguration{
		Name:         name,
		VirtualHosts: hosts,
		// A cluster that is not there yet fails the requests that need it and nothing else.
		ValidateClusters:                wrapperspb.Bool(false),
		MaxDirectResponseBodySizeBytes:  uint32Value(maxDirectBody),
		MostSpecificHeaderMutationsWins: false,
	}
}

// ruleRoutes are the routes of one rule. A match that cannot be expressed matches nothing; whatever else cannot be
// carried out makes the rule answer with an error, and its requests never reach a later rule instead.
func (e *Env) ruleRoutes(h hostRoutes, rule *waypoint.HTTPRule) ([]*routev3.Route, []Problem) {
	drafts, problems := e.drafts(h, rule)
	// Who wrote the fact knows what is broken in it; that is no news.
	if reason := rule.GetBroken(); reason != "" {
		return refuse(drafts, rule.GetBrokenStatus(), reason), problems
	}
	if b := rule.GetForward().GetBackends(); len(b) == 1 && b[0].GetBroken() != "" {
		return refuse(drafts, 0, b[0].GetBroken()), problems
	}
	made, more, err := e.carryOut(h, rule, drafts)
	problems = append(problems, more...)
	if err != nil {
		problems = append(problems, Problem{Object: h.object(rule), Text: err.Error()})
		return refuse(drafts, 0, err.Error()), problems
	}
	routes := make([]*routev3.Route, 0, len(made))
	for _, d := range made {
		routes = append(routes, d.route)
	}
	return routes, problems
}

// drafts are the matches of a rule, with name and origin and nothing else.
func (e *Env) drafts(h hostRoutes, rule *waypoint.HTTPRule) ([]draft, []Problem) {
	matches := rule.GetMatches()
	if len(matches) == 0 {
		matches = []*waypoint.HTTPMatch{nil}
	}
	var drafts []draft
	var problems []Problem
	for i, m := range matches {
		expanded, err := e.routeMatches(m)
		if err == nil && len(drafts)+len(expanded) > maxRoutesPerRule {
			err = fmt.Errorf("the rule has more than %d combinations of matches and namespaces: use fewer", maxRoutesPerRule)
		}
		if err != nil {
			problems = append(problems, Problem{
				Object: h.object(rule),
				Text:   fmt.Sprintf("match %d of rule %d matches nothing: %v", i, rule.GetOrigin().GetRule(), err),
			})
			continue
		}
		for _, match := range expanded {
			drafts = append(drafts, draft{path: m.GetPath(), route: &routev3.Route{
				Name:     routeName(rule.GetOrigin()),
				Match:    match,
				Metadata: originMetadata(rule.GetOrigin()),
			}})
		}
	}
	return drafts, problems
}

// carryOut gives drafts their action and everything around it.
func (e *Env) carryOut(h hostRoutes, rule *waypoint.HTTPRule, drafts []draft) ([]draft, []Problem, error) {
	var problems []Problem
	filters, problems, err := e.ruleFilters(h, rule)
	if err != nil {
		return nil, problems, err
	}
	drafts = preflights(rule, drafts)
	var more []Problem
	switch action := rule.GetAction().(type) {
	case *waypoint.HTTPRule_Redirect:
		drafts, err = redirect(rule, action.Redirect, drafts)
	case *waypoint.HTTPRule_Direct:
		err = direct(action.Direct, drafts)
	default:
		drafts, more, err = e.forward(h, rule, drafts)
	}
	problems = append(problems, more...)
	if err != nil {
		return nil, problems, err
	}
	request, err := headerEdits(rule.GetRequestHeaders(), true)
	if err != nil {
		return nil, problems, fmt.Errorf("request headers: %w", err)
	}
	response, err := headerEdits(rule.GetResponseHeaders(), false)
	if err != nil {
		return nil, problems, fmt.Errorf("response headers: %w", err)
	}
	for _, d := range drafts {
		r := d.route
		r.RequestHeadersToAdd, r.RequestHeadersToRemove = request.add, request.remove
		r.ResponseHeadersToAdd = append(r.ResponseHeadersToAdd, response.add...)
		r.ResponseHeadersToRemove = append(r.ResponseHeadersToRemove, response.remove...)
		if action := r.GetRoute(); action != nil && request.authority != "" && action.HostRewriteSpecifier == nil {
			action.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: request.authority}
		}
		for name, config := range filters {
			if r.TypedPerFilterConfig == nil {
				r.TypedPerFilterConfig = map[string]*anypb.Any{}
			}
			r.TypedPerFilterConfig[name] = config
		}
	}
	return drafts, problems, nil
}

// ruleFilters is what the HTTP filters do for this rule only.
func (e *Env) ruleFilters(h hostRoutes, rule *waypoint.HTTPRule) (map[string]*anypb.Any, []Problem, error) {
	out := map[string]*anypb.Any{}
	more, problems := e.ruleConfig(h.target, rule)
	for name, config := range more {
		out[name] = config
	}
	fault, err := faultConfig(rule.GetFault())
	if err != nil {
		return nil, problems, err
	}
	if fault != nil {
		out[filterFault] = toAny(fault)
	}
	cors, err := corsConfig(rule.GetCors())
	if err != nil {
		return nil, problems, err
	}
	if cors != nil {
		out[filterCORS] = toAny(cors)
	}
	session, err := sessionConfig(rule.GetSession())
	if err != nil {
		return nil, problems, err
	}
	if session != nil {
		out[filterSession] = toAny(session)
	}
	return out, problems, nil
}

// object is what to mend when a rule is wrong.
func (h hostRoutes) object(rule *waypoint.HTTPRule) string {
	if o := rule.GetOrigin(); o != nil {
		return objectName(o)
	}
	return "Service " + h.target.key
}

func objectName(o *waypoint.Origin) string {
	return o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
}

// routeName is for access logs: namespace/name and the rule's own name or its index.
func routeName(o *waypoint.Origin) string {
	if o == nil {
		return "default"
	}
	rule := o.GetRuleName()
	if rule == "" {
		rule = strconv.FormatUint(uint64(o.GetRule()), 10)
	}
	return o.GetNamespace() + "/" + o.GetName() + "/" + rule
}

func originMetadata(o *waypoint.Origin) *corev3.Metadata {
	if o == nil {
		return nil
	}
	s := stringStruct("kind", o.GetKind(), "namespace", o.GetNamespace(), "name", o.GetName(), "rule_name", o.GetRuleName())
	s.Fields["rule"] = structpb.NewNumberValue(float64(o.GetRule()))
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{metaOrigin: s}}
}
