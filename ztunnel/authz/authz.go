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
	// Client and ClientIP are for whom the peer says it speaks, when it is a waypoint. They count as long as the waypoint is
	// bound to the destination; what is missing is taken to be the peer's own.
	Client   identity.ID
	ClientIP netip.Addr
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
//
// Behind a waypoint there are two sources, the peer (the waypoint) and the original client. A rule is looked at once for
// each, all of its source fields being those of the one or of the other, never mixed:
//
//   - DENY matches if the rule matches either. So a DENY that names the client cannot be slipped past through a waypoint,
//     and one that spares only some ("not...") has to spare the waypoint as well as the client.
//   - ALLOW matches if the rule matches either, and none of its negative fields names the other. So an ALLOW for the waypoint
//     or for the client lets the connection in, but one for everybody except a client keeps that client out behind a waypoint
//     too, and one for everybody except the waypoint keeps the waypoint out.
//
// Hence what is allowed with both would be allowed to the peer alone or to the client alone, and what is denied to one is
// denied.
func Check(s *state.Snapshot, dst *state.Workload, c Connection) Verdict {
	e := evaluation{s: s, dst: dst, destIP: state.Unmapped(c.DestIP), destPort: c.DestPort}
	e.sources[peer] = source{id: c.Source, ip: state.Unmapped(c.SourceIP)}
	e.sources[client] = e.sources[peer]
	if dst.Guards.Trusts(c.Source) && (!c.Client.IsZero() || c.ClientIP.IsValid()) {
		e.waypoint = true
		if !c.Client.IsZero() {
			e.sources[client].id = c.Client
		}
		if c.ClientIP.IsValid() {
			e.sources[client].ip = state.Unmapped(c.ClientIP)
		}
	}
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

// Allows lists the ALLOW policies of a workload, one of which must match: namespace/name, in the order they are asked.
func Allows(s *state.Snapshot, dst *state.Workload) []string {
	e := evaluation{s: s, dst: dst, global: s.GlobalPolicies(), namespace: s.NamespacePolicies(dst.Namespace)}
	var out []string
	e.each(allow, func(p *state.Policy) bool {
		out = append(out, p.Key())
		return true
	})
	return out
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
	sources           [2]source // of peer and client
	waypoint          bool      // the client is another than the peer
	destIP            netip.Addr
	destPort          uint16
}

// The sources of a connection.
const (
	peer = iota
	client
)

// source is what policies see of one side that a connection comes from.
type source struct {
	id   identity.ID
	ip   netip.Addr
	name string // made when the first policy asks
}

// principal is the identity without the scheme, as policies write it.
func (s *source) principal() string {
	if s.name == "" {
		s.name = s.id.Principal()
	}
	return s.name
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
		if e.rule(r, peer, p.Deny) || e.waypoint && e.rule(r, client, p.Deny) {
			return true
		}
	}
	return false
}

func (e *evaluation) rule(r state.Rule, of int, deny bool) bool {
	for _, clause := range r {
		if !e.clause(clause, of, deny) {
			return false
		}
	}
	return true
}

func (e *evaluation) clause(c state.Clause, of int, deny bool) bool {
	for i := range c {
		if e.match(&c[i], of, deny) {
			return true
		}
	}
	return false
}

// match holds when every condition that is set holds: one of the positives, and none of the negatives. A connection
// without identity has no principal, namespace or account, so that no positive about them can hold and every negative does.
func (e *evaluation) match(m *state.Match, of int, deny bool) bool {
	if m.Empty() {
		return false
	}
	s := &e.sources[of]
	switch {
	case m.DestinationIPs != nil && !m.DestinationIPs.Match(e.destIP),
		m.NotDestinationIPs != nil && m.NotDestinationIPs.Match(e.destIP),
		m.DestinationPorts != nil && !m.DestinationPorts.Match(e.destPort),
		m.NotPorts != nil && m.NotPorts.Match(e.destPort):
		return false
	case !s.included(m), s.excluded(m):
		return false
	case e.waypoint && !deny && e.sources[1-of].excluded(m):
		return false
	}
	return true
}

// included reports whether all positive source fields hold.
func (s *source) included(m *state.Match) bool {
	known := !s.id.IsZero()
	switch {
	case m.Namespaces != nil && !(known && m.Namespaces.Match(s.id.Namespace)),
		m.Principals != nil && !(known && m.Principals.Match(s.principal())),
		m.ServiceAccounts != nil && !(known && m.ServiceAccounts.Match(s.account())),
		m.SourceIPs != nil && !m.SourceIPs.Match(s.ip):
		return false
	}
	return true
}

// excluded reports whether a negative source field names the source.
func (s *source) excluded(m *state.Match) bool {
	if m.NotSourceIPs != nil && m.NotSourceIPs.Match(s.ip) {
		return true
	}
	if s.id.IsZero() {
		return false
	}
	return m.NotNamespaces != nil && m.NotNamespaces.Match(s.id.Namespace) ||
		m.NotPrincipals != nil && m.NotPrincipals.Match(s.principal()) ||
		m.NotServiceAccounts != nil && m.NotServiceAccounts.Match(s.account())
}

func (s *source) account() state.ServiceAccount {
	return state.ServiceAccount{Namespace: s.id.Namespace, Name: s.id.ServiceAccount}
}
