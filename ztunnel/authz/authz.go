// Package authz decides who may open a connection to a workload, by the L4 policies the control plane sent.
//
// It is pure: a snapshot, a workload and a connection in, a verdict out. It does not know how policies arrive (package
// state compiles them), keeps nothing and logs nothing; a dry-run policy that would have decided otherwise is reported in
// the verdict. Evaluating allocates nothing unless a dry-run policy matches. Start reading at Check.
package authz

import (
	"net/netip"

	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

// Connection is what a policy may look at.
type Connection struct {
	// Source is the identity the peer proved, zero for plaintext.
	Source   identity.ID
	SourceIP netip.Addr
	DestIP   netip.Addr
	// DestPort is the port the application will see: the target port, not the service's.
	DestPort uint16
}

// Verdict is the outcome for one connection.
type Verdict struct {
	Allow bool
	// Policy is the namespace/name of the policy that decided; empty when none did.
	Policy string
	// Reason is OK, PolicyDenied or PolicyNotAllowed.
	Reason telemetry.Reason
	// DryRun lists the dry-run policies that matched. They decide nothing.
	DryRun []Match
}

// Match is a dry-run policy that matched a connection.
type Match struct {
	Policy string
	Deny   bool
}

// Error returns nil for an allowed connection, else an error in Istio's words.
func (v Verdict) Error() error {
	switch v.Reason {
	case telemetry.PolicyDenied:
		return telemetry.Fail(v.Reason, "explicitly denied by: "+v.Policy, nil)
	case telemetry.PolicyNotAllowed:
		return telemetry.Fail(v.Reason, "allow policies exist, but none allowed", nil)
	}
	return nil
}

// Check decides whether a connection may reach a workload. DENY policies come first; then, if there is any ALLOW policy,
// one of them must match. istio/ztunnel src/state.rs assert_rbac.
func Check(s *state.Snapshot, dst *state.Workload, c Connection) Verdict {
	e := evaluation{s: s, dst: dst, c: c}
	e.c.SourceIP, e.c.DestIP = state.Unmapped(c.SourceIP), state.Unmapped(c.DestIP)
	e.global, e.namespace = s.GlobalPolicies(), s.NamespacePolicies(dst.Namespace)
	var v Verdict
	e.each(dryDeny, func(p *state.Policy) bool {
		if e.matches(p) {
			v.DryRun = append(v.DryRun, Match{p.Key(), true})
		}
		return true
	})
	e.each(deny, func(p *state.Policy) bool {
		if e.matches(p) {
			v.Policy, v.Reason = p.Key(), telemetry.PolicyDenied
		}
		return v.Reason == telemetry.OK
	})
	if v.Reason != telemetry.OK {
		return v
	}
	e.each(dryAllow, func(p *state.Policy) bool {
		if e.matches(p) {
			v.DryRun = append(v.DryRun, Match{p.Key(), false})
		}
		return true
	})
	any := false
	e.each(allow, func(p *state.Policy) bool {
		any = true
		if e.matches(p) {
			v.Policy, v.Allow = p.Key(), true
		}
		return !v.Allow
	})
	switch {
	case v.Allow:
	case any:
		v.Reason = telemetry.PolicyNotAllowed
	default:
		v.Allow = true
	}
	return v
}

type phase uint8

const (
	dryDeny phase = iota
	deny
	dryAllow
	allow
)

type evaluation struct {
	s                 *state.Snapshot
	dst               *state.Workload
	global, namespace *state.PolicySet
	c                 Connection
	principal         string // made when the first policy asks
}

// sourcePrincipal is the peer's identity without the scheme, as policies write it.
func (e *evaluation) sourcePrincipal() string {
	if e.principal == "" {
		e.principal = e.c.Source.Principal()
	}
	return e.principal
}

func of(set *state.PolicySet, ph phase) []*state.Policy {
	switch ph {
	case dryDeny:
		return set.DryDeny
	case deny:
		return set.Deny
	case dryAllow:
		return set.DryAllow
	default:
		return set.Allow
	}
}

// each calls f for the policies of one phase until it returns false: those of the namespace, the global ones, and those
// the workload names. A name nobody sent a policy for is skipped.
func (e *evaluation) each(ph phase, f func(*state.Policy) bool) {
	for _, p := range of(e.namespace, ph) {
		if !f(p) {
			return
		}
	}
	for _, p := range of(e.global, ph) {
		if !f(p) {
			return
		}
	}
	for _, name := range e.dst.AuthorizationPolicies {
		p := e.s.Policy(name)
		if p == nil || p.Deny != (ph <= deny) || p.DryRun != (ph == dryDeny || ph == dryAllow) || e.seen(p) {
			continue
		}
		if !f(p) {
			return
		}
	}
}

// seen reports whether a policy was among the namespace's or the global ones already.
func (e *evaluation) seen(p *state.Policy) bool {
	return p.Scope == state.ScopeGlobal || p.Scope == state.ScopeNamespace && p.Namespace == e.dst.Namespace
}

func (e *evaluation) matches(p *state.Policy) bool {
	for _, r := range p.Rules {
		if e.rule(r) {
			return true
		}
	}
	return false
}

func (e *evaluation) rule(r state.Rule) bool {
	for _, clause := range r {
		if !e.clause(clause) {
			return false
		}
	}
	return true
}

func (e *evaluation) clause(c state.Clause) bool {
	for i := range c {
		if e.match(&c[i]) {
			return true
		}
	}
	return false
}

// match holds when every condition that is set holds: one of the positives, and none of the negatives. A connection
// without identity has no principal, namespace or account, so that no positive about them can hold and every negative does.
func (e *evaluation) match(m *state.Match) bool {
	if m.Empty() {
		return false
	}
	c := &e.c
	known := !c.Source.IsZero()
	account := state.ServiceAccount{Namespace: c.Source.Namespace, Name: c.Source.ServiceAccount}
	switch {
	case m.Namespaces != nil && !(known && m.Namespaces.Match(c.Source.Namespace)),
		m.NotNamespaces != nil && known && m.NotNamespaces.Match(c.Source.Namespace),
		m.Principals != nil && !(known && m.Principals.Match(e.sourcePrincipal())),
		m.NotPrincipals != nil && known && m.NotPrincipals.Match(e.sourcePrincipal()),
		m.ServiceAccounts != nil && !(known && m.ServiceAccounts.Match(account)),
		m.NotServiceAccounts != nil && known && m.NotServiceAccounts.Match(account),
		m.SourceIPs != nil && !m.SourceIPs.Match(c.SourceIP),
		m.NotSourceIPs != nil && m.NotSourceIPs.Match(c.SourceIP),
		m.DestinationIPs != nil && !m.DestinationIPs.Match(c.DestIP),
		m.NotDestinationIPs != nil && m.NotDestinationIPs.Match(c.DestIP),
		m.DestinationPorts != nil && !m.DestinationPorts.Match(c.DestPort),
		m.NotPorts != nil && m.NotPorts.Match(c.DestPort):
		return false
	}
	return true
}
