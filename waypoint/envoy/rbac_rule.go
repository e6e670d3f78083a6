package envoy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// Why a field cannot be evaluated where it is asked. An ALLOW rule then never matches; every other rule is evaluated
// without the field, which makes it match more: what was meant to be refused, recorded or asked about still is.
// Istio pilot/pkg/security/authz/model/model.go checkError.
var (
	errNeedsHTTP  = errors.New("connections that are not HTTP have no such thing")
	errNeedsToken = errors.New("an external authorizer is asked before tokens are verified")
	// errNotYet is the other way round: the rule is asked again later, and until then nothing is refused for it.
	errNotYet = errors.New("it is not known when the CONNECT comes")
)

// ruleMaker makes RBAC policies of the rules of one AuthorizationPolicy, for one place they apply to.
type ruleMaker struct {
	// trustDomains are those whose certificates are accepted.
	trustDomains []string
	// port and addresses are those of the service; zero and empty if it can be any.
	port      uint32
	addresses []netip.Prefix
	// tcp: there are connections and no requests.
	tcp bool
	// edge: peers are clients outside; who they are is in their TLS certificates, if anywhere.
	edge bool
	// early: there is a CONNECT, and no connection yet.
	early bool
	// tokens are verified before this is evaluated.
	tokens bool
	// widen leaves out what cannot be evaluated instead of never matching.
	widen bool
	// skipped collects the fields that were left out.
	skipped map[string]error
}

// policy is one rule. Nil: it never matches here.
func (r *ruleMaker) policy(rule *waypoint.AuthorizationRule) (*rbacv3.Policy, error) {
	permissions, ids, err := r.conditions(rule.GetWhen())
	if err != nil {
		return nil, skipRule(err)
	}
	var operations []*rbacv3.Permission
	for _, o := range rule.GetTo() {
		p, err := r.operation(o)
		if err != nil {
			return nil, skipRule(err)
		}
		operations = append(operations, p)
	}
	var sources []*rbacv3.Principal
	for _, s := range rule.GetFrom() {
		p, err := r.source(s)
		if err != nil {
			return nil, skipRule(err)
		}
		sources = append(sources, p)
	}
	if len(operations) > 0 {
		permissions = append(permissions, permission.one(operations))
	}
	if len(sources) > 0 {
		ids = append(ids, principal.one(sources))
	}
	return &rbacv3.Policy{
		Permissions: []*rbacv3.Permission{permission.all(permissions)},
		Principals:  []*rbacv3.Principal{principal.all(ids)},
	}, nil
}

// skipRule drops the errors that only mean that something never matches.
func skipRule(err error) error {
	if errors.Is(err, errNeedsHTTP) || errors.Is(err, errNeedsToken) || errors.Is(err, errNotYet) {
		return nil
	}
	return err
}

// leaveOut decides what becomes of a field that cannot be evaluated: nil leaves it out.
func (r *ruleMaker) leaveOut(field string, err error) error {
	if skipRule(err) != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	if errors.Is(err, errNotYet) {
		if r.widen {
			return err
		}
		return nil
	}
	if r.skipped == nil {
		r.skipped = map[string]error{}
	}
	r.skipped[field] = err
	if r.widen {
		return nil
	}
	return err
}

// conjunction is the terms that must all hold, gathered field by field.
type conjunction[T any] struct {
	r     *ruleMaker
	logic logic[T]
	terms []T
	err   error
}

// addField adds "one of values, and none of the others". A value is made a term by f.
func addField[T, V any](g *conjunction[T], name string, values, others []V, f func(V) (T, error)) {
	for i, list := range [][]V{values, others} {
		if g.err != nil || len(list) == 0 {
			continue
		}
		terms := make([]T, 0, len(list))
		var err error
		for _, v := range list {
			var term T
			if term, err = f(v); err != nil {
				break
			}
			terms = append(terms, term)
		}
		if err != nil {
			g.err = g.r.leaveOut(name, err)
			continue
		}
		term := g.logic.one(terms)
		if i == 1 {
			term = g.logic.not(term)
		}
		g.terms = append(g.terms, term)
	}
}

func (r *ruleMaker) operation(o *waypoint.Operation) (*rbacv3.Permission, error) {
	g := &conjunction[*rbacv3.Permission]{r: r, logic: permission}
	addField(g, "hosts", o.GetHosts(), o.GetNotHosts(), func(m *waypoint.StringMatch) (*rbacv3.Permission, error) {
		// The port counts as written, letters of either case are the same. Istio pilot/pkg/security/authz/matcher HostMatcher.
		return r.headerPermission(":authority", m, true)
	})
	addField(g, "ports", o.GetPorts(), o.GetNotPorts(), r.portPermission)
	addField(g, "methods", o.GetMethods(), o.GetNotMethods(), func(m *waypoint.StringMatch) (*rbacv3.Permission, error) {
		return r.headerPermission(":method", m, false)
	})
	addField(g, "paths", pathsOf(o.GetPaths(), o.GetPathTemplates()), pathsOf(o.GetNotPaths(), o.GetNotPathTemplates()), r.pathPermission)
	if g.err != nil {
		return nil, g.err
	}
	return permission.all(g.terms), nil
}

// pathValue is a pattern or a template.
type pathValue struct {
	match    *waypoint.StringMatch
	template string
}

func pathsOf(matches []*waypoint.StringMatch, templates []string) []pathValue {
	var out []pathValue
	for _, m := range matches {
		out = append(out, pathValue{match: m})
	}
	for _, t := range templates {
		out = append(out, pathValue{template: t})
	}
	return out
}

func (r *ruleMaker) pathPermission(v pathValue) (*rbacv3.Permission, error) {
	if r.tcp {
		return nil, errNeedsHTTP
	}
	if v.match == nil {
		return templatePermission(v.template)
	}
	// The path without its query. Istio pilot/pkg/security/authz/matcher PathMatcher.
	s, err := textMatcher(v.match, false)
	if err != nil {
		return nil, err
	}
	return &rbacv3.Permission{Rule: &rbacv3.Permission_UrlPath{UrlPath: &matcherv3.PathMatcher{
		Rule: &matcherv3.PathMatcher_Path{Path: s},
	}}}, nil
}

func (r *ruleMaker) headerPermission(name string, m *waypoint.StringMatch, ignoreCase bool) (*rbacv3.Permission, error) {
	h, err := r.header(name, m, ignoreCase)
	if err != nil {
		return nil, err
	}
	return &rbacv3.Permission{Rule: &rbacv3.Permission_Header{Header: h}}, nil
}

func (r *ruleMaker) header(name string, m *waypoint.StringMatch, ignoreCase bool) (*routev3.HeaderMatcher, error) {
	if r.tcp {
		return nil, errNeedsHTTP
	}
	return headerText(name, m, ignoreCase)
}

// portPermission needs no look at the connection where the port is known: the CONNECT may have named a host, and then
// the connection has no address.
func (r *ruleMaker) portPermission(port uint32) (*rbacv3.Permission, error) {
	if port == 0 || port > 65535 {
		return nil, fmt.Errorf("%d is no port", port)
	}
	if r.port != 0 {
		return permission.when(r.port == port), nil
	}
	return &rbacv3.Permission{Rule: &rbacv3.Permission_DestinationPort{DestinationPort: port}}, nil
}

// destinationPermission is about the address dialed. For the same reason, a service's own addresses decide if they agree.
func (r *ruleMaker) destinationPermission(m *waypoint.StringMatch) (*rbacv3.Permission, error) {
	p, err := parseBlock(m.GetExact())
	if err != nil {
		return nil, err
	}
	inside := 0
	for _, a := range r.addresses {
		if a.Bits() >= p.Bits() && p.Contains(a.Addr()) {
			inside++
		}
	}
	outside := !slices.ContainsFunc(r.addresses, p.Overlaps)
	switch {
	case len(r.addresses) > 0 && inside == len(r.addresses):
		return permission.any(), nil
	case len(r.addresses) > 0 && outside:
		return permission.never(), nil
	}
	if r.early {
		return nil, errNotYet
	}
	return &rbacv3.Permission{Rule: &rbacv3.Permission_DestinationIp{DestinationIp: cidr(p)}}, nil
}
