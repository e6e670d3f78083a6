package model

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/security"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// verdict is what is wrong with a policy for a node proxy.
type verdict struct {
	code                status.Code
	field, message, fix string
}

// convertPolicy turns an AuthorizationPolicy into what a node proxy evaluates. The policy is nil when node proxies have
// nothing to do with it or cannot carry it out; the verdict then says why, if there is anything to say. A policy and a
// verdict together mean that only a part of it is carried out.
func convertPolicy(cfg Config, o *object.AuthorizationPolicy) (*security.Authorization, *verdict) {
	if len(o.TargetRefs) > 0 {
		return nil, nil
	}
	if o.Action != object.Allow && o.Action != object.Deny {
		return nil, &verdict{status.BeyondNodeProxy, "spec.action", "a node proxy cannot carry out action " + o.Action.String(), "bind the policy to a waypoint with targetRefs"}
	}
	dryRun, err := strconv.ParseBool(o.Annotations.Get(mesh.AnnotationDryRun))
	if v, ok := o.Annotations.Lookup(mesh.AnnotationDryRun); ok && err != nil {
		return nil, &verdict{status.WithoutEffect, "metadata.annotations", "annotation " + mesh.AnnotationDryRun + " is " + strconv.Quote(v) + ", neither true nor false", "correct it; the policy is not enforced meanwhile"}
	}
	if dryRun && !cfg.DryRun {
		return nil, &verdict{status.WithoutEffect, "metadata.annotations", "the policy is annotated as dry run, which the control plane was not told to support", "install it with control.dryRunPolicies=true, or start ambitd with --dry-run-policies"}
	}
	a := &security.Authorization{Name: o.Name, Namespace: o.Namespace, DryRun: dryRun}
	switch {
	case o.Selector.Present:
		a.Scope = security.Scope_WORKLOAD_SELECTOR
	case o.Namespace == cfg.RootNamespace:
		a.Scope = security.Scope_GLOBAL
	default:
		a.Scope = security.Scope_NAMESPACE
	}
	if o.Action == object.Deny {
		a.Action = security.Action_DENY
	}
	c := &converter{namespace: o.Namespace}
	for i := range o.Rules {
		c.layer7 = false
		r := c.rule(&o.Rules[i])
		// An ALLOW that asks for more than layer 4 can see must not allow on the rest of what it asks for.
		if !c.layer7 || o.Action == object.Deny {
			a.Rules = append(a.Rules, r)
		}
	}
	if c.bad != "" {
		return nil, &verdict{status.WrongValue, "spec.rules", c.bad, "correct it; the policy is not enforced meanwhile"}
	}
	if len(c.dropped) == 0 {
		return a, nil
	}
	slices.Sort(c.dropped)
	msg := "a node proxy does not see " + strings.Join(slices.Compact(c.dropped), ", ") + ": "
	switch {
	case a.Action == security.Action_ALLOW:
		msg += "rules that ask for it allow nothing, so less is allowed than written"
	case fires(a):
		msg += "the policy denies without looking at it, so more is denied than written"
	default:
		msg += "nothing is left of the policy, it denies nothing"
	}
	return a, &verdict{status.BeyondNodeProxy, "spec.rules", msg, "bind the policy to a waypoint with targetRefs"}
}

// fires reports whether any rule can match at all.
func fires(a *security.Authorization) bool {
	return slices.ContainsFunc(a.Rules, func(r *security.Rule) bool {
		return !slices.ContainsFunc(r.Clauses, func(c *security.Clause) bool {
			return !slices.ContainsFunc(c.Matches, filled)
		})
	})
}

// filled reports whether a match asks for anything; one that does not never matches.
func filled(m *security.Match) bool {
	return len(m.Namespaces)+len(m.NotNamespaces)+len(m.Principals)+len(m.NotPrincipals)+len(m.SourceIps)+len(m.NotSourceIps)+
		len(m.DestinationIps)+len(m.NotDestinationIps)+len(m.DestinationPorts)+len(m.NotDestinationPorts)+
		len(m.ServiceAccounts)+len(m.NotServiceAccounts) > 0
}

// converter carries what is found out on the way through the rules of one policy.
type converter struct {
	namespace string
	layer7    bool     // the rule at hand asks for something above layer 4
	dropped   []string // the names of all such things
	bad       string   // the first value that cannot be read
}

func (c *converter) drop(name string, values ...[]string) {
	for _, v := range values {
		if len(v) > 0 {
			c.layer7 = true
			c.dropped = append(c.dropped, name)
			return
		}
	}
}

func (c *converter) rule(r *object.Rule) *security.Rule {
	out := &security.Rule{}
	if len(r.To) > 0 {
		to := &security.Clause{}
		for i := range r.To {
			o := &r.To[i]
			c.drop("hosts", o.Hosts)
			c.drop("notHosts", o.NotHosts)
			c.drop("methods", o.Methods)
			c.drop("notMethods", o.NotMethods)
			c.drop("paths", o.Paths)
			c.drop("notPaths", o.NotPaths)
			to.Matches = append(to.Matches, &security.Match{
				DestinationPorts:    c.portNumbers(o.Ports),
				NotDestinationPorts: c.portNumbers(o.NotPorts),
			})
		}
		out.Clauses = append(out.Clauses, to)
	}
	if len(r.From) > 0 {
		from := &security.Clause{}
		for i := range r.From {
			s := &r.From[i]
			c.drop("remoteIpBlocks", s.RemoteIPBlocks)
			c.drop("notRemoteIpBlocks", s.NotRemoteIPBlocks)
			c.drop("requestPrincipals", s.RequestPrincipals)
			c.drop("notRequestPrincipals", s.NotRequestPrincipals)
			// The wire format has no field for these; leaving them out of an ALLOW would let other domains in.
			c.drop("trustDomains", s.TrustDomains)
			c.drop("notTrustDomains", s.NotTrustDomains)
			from.Matches = append(from.Matches, &security.Match{
				SourceIps:          c.blocks(s.IPBlocks),
				NotSourceIps:       c.blocks(s.NotIPBlocks),
				Namespaces:         stringMatches(s.Namespaces),
				NotNamespaces:      stringMatches(s.NotNamespaces),
				Principals:         stringMatches(s.Principals),
				NotPrincipals:      stringMatches(s.NotPrincipals),
				ServiceAccounts:    c.accounts(s.ServiceAccounts),
				NotServiceAccounts: c.accounts(s.NotServiceAccounts),
			})
		}
		out.Clauses = append(out.Clauses, from)
	}
	for i := range r.When {
		out.Clauses = append(out.Clauses, clause(c.when(&r.When[i])))
	}
	return out
}

func (c *converter) when(w *object.Condition) *security.Match {
	m := &security.Match{}
	switch w.Key {
	case "source.ip":
		m.SourceIps, m.NotSourceIps = c.blocks(w.Values), c.blocks(w.NotValues)
	case "source.namespace":
		m.Namespaces, m.NotNamespaces = stringMatches(w.Values), stringMatches(w.NotValues)
	case "source.principal":
		m.Principals, m.NotPrincipals = stringMatches(w.Values), stringMatches(w.NotValues)
	case "destination.ip":
		m.DestinationIps, m.NotDestinationIps = c.blocks(w.Values), c.blocks(w.NotValues)
	case "destination.port":
		m.DestinationPorts, m.NotDestinationPorts = c.portNumbers(w.Values), c.portNumbers(w.NotValues)
	default:
		c.layer7 = true
		c.dropped = append(c.dropped, w.Key)
	}
	return m
}

// portNumbers reads ports. One that cannot be read spoils the policy: leaving it out could make a match wider.
func (c *converter) portNumbers(ports []string) []uint32 {
	var out []uint32
	for _, p := range ports {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			c.spoil("port " + strconv.Quote(p) + " is not a number from 0 to 65535")
			continue
		}
		out = append(out, uint32(n))
	}
	return out
}

func (c *converter) blocks(blocks []string) []*security.Address {
	var out []*security.Address
	for _, b := range blocks {
		p, err := netip.ParsePrefix(b)
		if err != nil {
			a, aerr := netip.ParseAddr(b)
			if aerr != nil {
				c.spoil("IP block " + strconv.Quote(b) + " is neither an address nor a CIDR")
				continue
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		out = append(out, &security.Address{Address: rawAddress(p.Addr()), Length: uint32(p.Bits())})
	}
	return out
}

func (c *converter) spoil(msg string) {
	if c.bad == "" {
		c.bad = msg
	}
}

func (c *converter) accounts(names []string) []*security.ServiceAccountMatch {
	var out []*security.ServiceAccountMatch
	for _, n := range names {
		ns, sa, ok := strings.Cut(n, "/")
		if !ok {
			ns, sa = c.namespace, n
		}
		out = append(out, &security.ServiceAccountMatch{Namespace: ns, ServiceAccount: sa})
	}
	return out
}

func stringMatches(values []string) []*security.StringMatch {
	var out []*security.StringMatch
	for _, v := range values {
		m := &security.StringMatch{}
		if v == "*" {
			m = presence()
		} else if rest, ok := strings.CutPrefix(v, "*"); ok {
			m.MatchType = &security.StringMatch_Suffix{Suffix: rest}
		} else if rest, ok := strings.CutSuffix(v, "*"); ok {
			m.MatchType = &security.StringMatch_Prefix{Prefix: rest}
		} else {
			m.MatchType = &security.StringMatch_Exact{Exact: v}
		}
		out = append(out, m)
	}
	return out
}
