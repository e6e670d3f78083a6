package waypoint

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/mesh"
	facts "github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/jwks"
	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
)

// bound collects policies that are bound to certain objects, or, at an edge gateway, chosen by labels.
type bound struct {
	authorization  []*object.AuthorizationPolicy
	authentication []*object.RequestAuthentication
	extensions     []*object.Extension
	limits         []*object.LocalRateLimitPolicy
	telemetry      []*object.Telemetry
}

func (b *bound) add(o object.Object) {
	switch o := o.(type) {
	case *object.AuthorizationPolicy:
		b.authorization = appendNew(b.authorization, o)
	case *object.RequestAuthentication:
		b.authentication = appendNew(b.authentication, o)
	case *object.Extension:
		b.extensions = appendNew(b.extensions, o)
	case *object.LocalRateLimitPolicy:
		b.limits = appendNew(b.limits, o)
	case *object.Telemetry:
		b.telemetry = appendNew(b.telemetry, o)
	}
}

func appendNew[T comparable](all []T, v T) []T {
	if slices.Contains(all, v) {
		return all
	}
	return append(all, v)
}

// on adds what is bound to an object by reference. only, when not empty, is the namespace such policies must be of.
func (r *reader) on(b *bound, k object.Key, only string) {
	for _, o := range list[object.Object](r, topic{policiesOn, k}) {
		if (only == "" || o.Metadata().Namespace == only) && r.wholly(o, k) {
			b.add(o)
		}
	}
}

// wholly reports whether one of an object's references is for all of its target: facts know no policies for one port.
func (r *reader) wholly(o object.Object, k object.Key) bool {
	for _, t := range targetsOf(o) {
		if targetKey(o.Metadata().Namespace, t) == k && r.wholeSection(t, k) {
			return true
		}
	}
	return false
}

// wholeSection reports whether a reference is for all of its target: it names no section, or the only one there is.
func (r *reader) wholeSection(t object.TargetRef, k object.Key) bool {
	if t.SectionName == "" {
		return true
	}
	if k.Kind == object.KindGateway {
		g := get[*object.Gateway](r, k)
		return g != nil && len(g.Listeners) == 1 && g.Listeners[0].Name == t.SectionName
	}
	ports := r.ports(k)
	return len(ports) == 1 && ports[0].Name == t.SectionName
}

func targetsOf(o object.Object) []object.TargetRef {
	switch o := o.(type) {
	case *object.AuthorizationPolicy:
		return o.TargetRefs
	case *object.RequestAuthentication:
		return o.TargetRefs
	case *object.Extension:
		return o.TargetRefs
	case *object.LocalRateLimitPolicy:
		return o.TargetRefs
	case *object.Telemetry:
		return o.TargetRefs
	}
	return nil
}

// chosen adds what is bound to nothing by reference but chooses an edge gateway by the labels of its pods, in its own
// namespace and in the root one. Waypoints are never chosen so. Istio pilot/pkg/model/policyattachment.go ShouldAttachPolicy.
func (r *reader) chosen(b *bound, g *object.Gateway) {
	labels := g.Infrastructure.Labels.Map()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[mesh.LabelGatewayName], labels[mesh.LabelGatewayClassName] = g.Name, g.Class
	pods := object.MakeLabels(labels)
	for _, ns := range []string{r.m.cfg.RootNamespace, g.Namespace} {
		for _, o := range list[object.Object](r, named(policiesIn, ns, "")) {
			if s := selectorOf(o); !s.Present || s.Matches(pods) {
				b.add(o)
			}
		}
	}
}

func selectorOf(o object.Object) object.Selector {
	switch o := o.(type) {
	case *object.AuthorizationPolicy:
		return o.Selector
	case *object.RequestAuthentication:
		return o.Selector
	case *object.Extension:
		return o.Selector
	case *object.Telemetry:
		return o.Selector
	}
	return object.Selector{}
}

// gatewayPolicies apply to everything behind a Gateway.
func (m *Model) gatewayPolicies(r *reader, gw gatewayName, g *object.Gateway, kind facts.Gateway_Kind) *facts.Policies {
	var b bound
	r.on(&b, object.Key{Kind: object.KindGatewayClass, Name: g.Class}, m.cfg.RootNamespace)
	r.on(&b, gw.key(), "")
	if kind == facts.Gateway_EDGE {
		r.chosen(&b, g)
	}
	p := m.policies(r, gw, &b)
	// Nothing at all is something to say when the mesh configuration, which would count otherwise, says something.
	if p.Telemetry = r.telemetry(gw, b.telemetry); orNil(r.meshTelemetry(gw)) == nil {
		p.Telemetry = orNil(p.Telemetry)
	}
	return p
}

// servicePolicies apply to one service.
func (m *Model) servicePolicies(r *reader, gw gatewayName, h model.Host) *facts.Policies {
	var b bound
	r.on(&b, h.Object, "")
	ports := r.ports(h.Object)
	b.extensions = slices.DeleteFunc(b.extensions, func(e *object.Extension) bool { return !onPorts(e, ports) })
	p := m.policies(r, gw, &b)
	if len(b.telemetry) > 0 {
		g := get[*object.Gateway](r, gw.key())
		var all bound
		if g != nil {
			r.on(&all, object.Key{Kind: object.KindGatewayClass, Name: g.Class}, m.cfg.RootNamespace)
		}
		r.on(&all, gw.key(), "")
		p.Telemetry = r.telemetry(gw, append(all.telemetry, b.telemetry...))
	}
	if proto.Size(p) == 0 {
		return nil
	}
	return p
}

// policies turns objects into facts, in an order that does not depend on anything but the objects.
func (m *Model) policies(r *reader, gw gatewayName, b *bound) *facts.Policies {
	p := &facts.Policies{}
	for _, a := range b.authorization {
		p.Authorization = append(p.Authorization, m.authorization(r, gw, a))
	}
	for _, a := range b.authentication {
		p.Authentication = append(p.Authentication, r.authentication(a))
	}
	for _, l := range b.limits {
		limit := proto.Clone(l.Spec).(*facts.RateLimit)
		limit.Namespace, limit.Name = l.Namespace, l.Name
		p.RateLimits = append(p.RateLimits, limit)
	}
	extensions := slices.Clone(b.extensions)
	slices.SortStableFunc(extensions, func(a, b *object.Extension) int {
		return cmp.Or(-cmp.Compare(a.Spec.GetPriority(), b.Spec.GetPriority()), byAge(&a.Meta, &b.Meta))
	})
	for _, e := range extensions {
		m.extension(r, gw, e, p)
	}
	slices.SortFunc(p.Authorization, func(a, b *facts.Authorization) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	slices.SortFunc(p.Authentication, func(a, b *facts.Authentication) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return p
}

// authorization is one AuthorizationPolicy.
func (m *Model) authorization(r *reader, gw gatewayName, a *object.AuthorizationPolicy) *facts.Authorization {
	f := &facts.Authorization{
		Namespace: a.Namespace,
		Name:      a.Name,
		Action:    a.Action.WaypointAction(),
		Rules:     a.WaypointRules(),
		DryRun:    a.Annotations.Get(mesh.AnnotationDryRun) == "true",
	}
	domains := r.trustDomains()
	if len(domains) > 1 || domains[0] != mesh.DefaultTrustDomain {
		for _, rule := range f.Rules {
			for _, s := range rule.From {
				s.Principals = aliased(s.Principals, domains)
				s.NotPrincipals = aliased(s.NotPrincipals, domains)
			}
			for _, c := range rule.When {
				if c.Key == "source.principal" {
					c.Values, c.NotValues = aliased(c.Values, domains), aliased(c.NotValues, domains)
				}
			}
		}
	}
	if a.Action == object.Custom {
		authorizer, why := m.authorizer(r, gw, a)
		f.Authorizer, f.Broken = authorizer, why
	}
	return f
}

// aliased adds to principals of one of the mesh's trust domains the same of the others; cluster.local always stands for
// the mesh's own. Istio
// pilot/pkg/security/trustdomain ReplaceTrustDomainAliases.
func aliased(in []*facts.StringMatch, domains []string) []*facts.StringMatch {
	var out []*facts.StringMatch
	for _, match := range in {
		out = append(out, match)
		text, wrap := match.GetExact(), func(s string) *facts.StringMatch {
			return &facts.StringMatch{Kind: &facts.StringMatch_Exact{Exact: s}, IgnoreCase: match.IgnoreCase}
		}
		if text == "" {
			text, wrap = match.GetPrefix(), func(s string) *facts.StringMatch {
				return &facts.StringMatch{Kind: &facts.StringMatch_Prefix{Prefix: s}, IgnoreCase: match.IgnoreCase}
			}
		}
		domain, rest, ok := strings.Cut(text, "/")
		if !ok || domain != mesh.DefaultTrustDomain && !slices.Contains(domains, domain) {
			continue
		}
		for _, d := range domains {
			if d != domain {
				out = append(out, wrap(d+"/"+rest))
			}
		}
	}
	return out
}

// authorizer finds the provider of a CUSTOM policy. Without one nothing can be decided, so everything the policy is about
// is denied.
func (m *Model) authorizer(r *reader, gw gatewayName, a *object.AuthorizationPolicy) (*facts.ExternalAuthorizer, string) {
	p, ok := r.mesh().Provider(a.Provider)
	switch {
	case !ok:
		return nil, fmt.Sprintf("the mesh configuration has no extension provider %q", a.Provider)
	case p.Authorizer == nil:
		return nil, fmt.Sprintf("extension provider %q does not authorize requests", a.Provider)
	}
	out := proto.Clone(p.Authorizer).(*facts.ExternalAuthorizer)
	if out.Service == nil {
		return nil, fmt.Sprintf("extension provider %q names no service", a.Provider)
	}
	r.provided(gw, out.Service)
	return out, out.Service.Broken
}

// provided resolves the service of an extension provider.
func (r *reader) provided(gw gatewayName, b *facts.Backend) {
	if b == nil {
		return
	}
	from := cmp.Or(b.Namespace, r.m.cfg.RootNamespace)
	r.resolveHost(from, b, gw, b.Port)
}

// authentication is one RequestAuthentication with the key sets that are known.
func (r *reader) authentication(a *object.RequestAuthentication) *facts.Authentication {
	f := &facts.Authentication{Namespace: a.Namespace, Name: a.Name}
	for i := range a.Rules {
		rule := proto.Clone(a.Rules[i].Rule).(*facts.JWTRule)
		if rule.Jwks == "" {
			s := jwksSource(&a.Rules[i])
			set := r.keys(s)
			rule.Jwks = set.Keys
			if set.Keys == "" {
				rule.JwksMissing = cmp.Or(set.Problem, "the key set of "+s.String()+" has not been fetched yet")
			}
		}
		f.Rules = append(f.Rules, rule)
	}
	return f
}

func jwksSource(rule *object.JWTRule) jwks.Source {
	s := jwks.Source{URI: rule.JWKSURI, Timeout: rule.Timeout}
	if s.URI == "" {
		s.Issuer = rule.Rule.GetIssuer()
	}
	return s
}

// extension adds a WasmPlugin, TrafficExtension or ExtensionPolicy. What cannot be carried out is left out when it is to
// fail open, and denies everything when not.
func (m *Model) extension(r *reader, gw gatewayName, e *object.Extension, p *facts.Policies) {
	if !serverSide(e) {
		return
	}
	f, why := m.extensionFact(r, gw, e)
	if why == "" {
		p.Extensions = append(p.Extensions, f)
		return
	}
	if !e.Spec.GetFailOpen() {
		p.Authorization = append(p.Authorization, &facts.Authorization{
			// A name that no AuthorizationPolicy can have.
			Namespace: e.Namespace, Name: e.Kind.String() + "/" + e.Name, Action: facts.Authorization_DENY,
			Broken: fmt.Sprintf("%s cannot be carried out: %s", e.Key(), why),
		})
	}
}

func (m *Model) extensionFact(r *reader, gw gatewayName, e *object.Extension) (f *facts.Extension, why string) {
	if e.Broken != "" || e.Spec == nil {
		return nil, cmp.Or(e.Broken, "it says nothing")
	}
	f = proto.Clone(e.Spec).(*facts.Extension)
	f.Namespace, f.Name = e.Namespace, e.Name
	if p := f.GetProcessor(); p != nil {
		if p.Service == nil {
			p.Service = &facts.Backend{}
		}
		if r.resolve(e, &e.Processor, p.Service, gw, true); p.Service.Broken != "" {
			return nil, p.Service.Broken
		}
	}
	return f, ""
}

// serverSide reports whether an extension is about traffic that comes to a service, which is what a proxy here sees.
func serverSide(e *object.Extension) bool {
	return len(e.Scopes) == 0 || slices.ContainsFunc(e.Scopes, func(s object.ExtensionScope) bool { return s.Side != object.ClientSide })
}

// onPorts reports whether an extension is about any of the ports. It is then about all of them, see reportExtension.
func onPorts(e *object.Extension, ports []*facts.ServicePort) bool {
	return len(e.Scopes) == 0 || slices.ContainsFunc(e.Scopes, func(s object.ExtensionScope) bool {
		return len(s.Ports) == 0 || slices.ContainsFunc(s.Ports, func(n uint16) bool { return hasPort(ports, uint32(n)) })
	})
}

// ruleExtension adds a filter of type ExtensionRef to a rule. A filter that does not exist breaks the rule: the Gateway
// API wants an answer with status 500 rather than a request that goes without it.
func (m *Model) ruleExtension(r *reader, o *object.HTTPRoute, rule *facts.HTTPRule, ref object.Ref, gw gatewayName) {
	k := refKey(ref)
	k.Namespace = o.Namespace
	e := get[*object.Extension](r, k)
	if e == nil {
		rule.Broken = fmt.Sprintf("there is no %s %s/%s for the filter of type ExtensionRef", ref.Kind, o.Namespace, ref.Name)
		return
	}
	f, why := m.extensionFact(r, gw, e)
	switch {
	case why == "":
		rule.Extensions = append(rule.Extensions, f)
	case !e.Spec.GetFailOpen():
		rule.Broken = fmt.Sprintf("%s cannot be carried out: %s", e.Key(), why)
	}
}
