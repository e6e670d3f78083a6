package model

import (
	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/security"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// A PeerAuthentication reaches node proxies as DENY policies: plaintext is a connection without a principal.

// peer is a PeerAuthentication.
type peer struct {
	ns   *namespace
	name string
	obj  *object.PeerAuthentication // nil once gone
	sel  *selector                  // of those that choose workloads
	sum  uint64

	arrived uint64
}

func (p *peer) olderThan(o *peer) bool {
	return older(&p.obj.Meta, &o.obj.Meta, p.arrived, o.arrived)
}

func (p *peer) key() object.Key {
	return object.Key{Kind: object.KindPeerAuthentication, Namespace: p.ns.name, Name: p.name}
}

// converted is the name of the policy that one PeerAuthentication comes to.
func (p *peer) converted() string { return "converted_peer_authentication_" + p.name }

func (m *Model) putPeer(ns *namespace, name string, o *object.PeerAuthentication) {
	p := ns.peers[name]
	if p == nil {
		if o == nil {
			return
		}
		p = &peer{ns: ns, name: name, arrived: m.flushes}
		ns.peers[name] = p
	}
	switch {
	case p.obj == nil && o != nil:
		m.peers++
	case p.obj != nil && o == nil:
		m.peers--
	}
	m.dirty.strict = true
	m.dirty.peers.add(p)
	m.dirty.modes.add(ns)
	for _, other := range ns.peers {
		m.dirty.reports.add(other) // which one is the oldest may have changed
	}
	m.touchSelected(p.sel)
	p.obj = o
	sel := object.Selector{}
	if o != nil && !wide(o) && ns.name != m.cfg.RootNamespace {
		sel = o.Selector
	}
	if p.sel != nil && (!sel.Present || p.sel.labels != sel.Labels) {
		m.discard(p.sel)
		p.sel = nil
	}
	if p.sel == nil && sel.Present {
		p.sel = m.choose(ns, false, sel.Labels, policyKinds, p)
	}
}

// policyKinds are the workloads that policies can choose by labels.
var policyKinds = of(object.KindPod, object.KindWorkloadEntry, object.KindServiceEntry)

// wide reports whether a PeerAuthentication is about a whole namespace or mesh.
func wide(o *object.PeerAuthentication) bool { return !o.Selector.Present || o.Selector.Labels.Empty() }

// widest is the PeerAuthentication that counts for the namespace as a whole: the oldest one.
func (n *namespace) widest() *peer {
	var first *peer
	for _, p := range n.peers {
		if p.obj != nil && wide(p.obj) && (first == nil || p.olderThan(first)) {
			first = p
		}
	}
	return first
}

// settleModes works out which namespaces refuse plaintext. The mesh's own mode is the root namespace's.
func (m *Model) settleModes() {
	if len(m.dirty.modes) == 0 {
		return
	}
	for n := range m.dirty.modes {
		n.mode = object.Unset
		if p := n.widest(); p != nil {
			n.mode = p.obj.Mode
		}
		if n.name == m.cfg.RootNamespace {
			for _, o := range m.namespaces {
				m.settleStrict(o)
			}
		}
		m.settleStrict(n)
	}
	m.dirty.modes.empty()
}

func (m *Model) settleStrict(n *namespace) {
	mode := n.mode
	if root := m.namespaces[m.cfg.RootNamespace]; mode == object.Unset && root != nil {
		mode = root.mode
	}
	strict := mode == object.Strict
	if strict == n.strict {
		return
	}
	n.strict = strict
	m.touchWorkloadsOf(n)
	for _, p := range n.peers {
		m.dirty.peers.add(p)
	}
}

// enforcement is how a workload comes to refuse plaintext.
type enforcement uint8

const (
	plaintextAllowed enforcement = iota
	staticStrict                 // by the policy all strict workloads share
	ownPolicy                    // by a policy of its own, because ports differ
)

// enforce says how a PeerAuthentication that chooses workloads is carried out, given what its namespace does.
// istio/istio pilot/pkg/serviceregistry/ambient/authorization.go convertedSelectorPeerAuthentications.
func enforce(o *object.PeerAuthentication, strict bool) enforcement {
	var strictPort, permissivePort, disabledPort bool
	for _, p := range o.Ports {
		strictPort = strictPort || p.Mode == object.Strict
		permissivePort = permissivePort || p.Mode == object.Permissive
		disabledPort = disabledPort || p.Mode == object.Disable
	}
	switch o.Mode {
	case object.Strict:
		if permissivePort || disabledPort {
			return ownPolicy
		}
		return staticStrict
	case object.Permissive, object.Disable:
		if strictPort {
			return ownPolicy
		}
		return plaintextAllowed
	}
	switch {
	case strict && permissivePort, !strict && strictPort:
		return ownPolicy
	case strict:
		return staticStrict
	}
	return plaintextAllowed
}

// peerPolicy is the name of the policy that keeps plaintext from a workload of the namespace, "" when none does. own is
// the oldest PeerAuthentication that chooses the workload, nil without any.
func (m *Model) peerPolicy(ns *namespace, own *peer) string {
	how := plaintextAllowed
	switch {
	case own != nil:
		how = enforce(own.obj, ns.strict)
	case ns.strict:
		how = staticStrict
	}
	switch how {
	case staticStrict:
		return m.cfg.RootNamespace + "/" + mesh.StaticStrictPolicy
	case ownPolicy:
		return ns.name + "/" + own.converted()
	}
	return ""
}

// convertPeer is the policy of a PeerAuthentication whose ports differ, nil when it needs none.
func convertPeer(p *peer) *security.Authorization {
	o := p.obj
	if o == nil || p.sel == nil || enforce(o, p.ns.strict) != ownPolicy {
		return nil
	}
	a := &security.Authorization{
		Name:      p.converted(),
		Namespace: p.ns.name,
		Scope:     security.Scope_WORKLOAD_SELECTOR,
		Action:    security.Action_DENY,
	}
	if o.Mode == object.Strict || o.Mode == object.Unset && p.ns.strict {
		// Everything but the exempt ports: plaintext, and not to this one, and not to that one.
		r := &security.Rule{Clauses: []*security.Clause{clause(plaintext())}}
		for _, e := range o.Ports {
			if e.Mode == object.Permissive || e.Mode == object.Disable {
				r.Clauses = append(r.Clauses, clause(&security.Match{NotDestinationPorts: []uint32{uint32(e.Port)}}))
			}
		}
		a.Rules = []*security.Rule{r}
		return a
	}
	for _, e := range o.Ports {
		if e.Mode == object.Strict {
			match := plaintext()
			match.DestinationPorts = []uint32{uint32(e.Port)}
			a.Rules = append(a.Rules, &security.Rule{Clauses: []*security.Clause{clause(match)}})
		}
	}
	return a
}

func clause(ms ...*security.Match) *security.Clause { return &security.Clause{Matches: ms} }

// plaintext matches connections without a principal.
func plaintext() *security.Match {
	return &security.Match{NotPrincipals: []*security.StringMatch{presence()}}
}

func presence() *security.StringMatch {
	return &security.StringMatch{MatchType: &security.StringMatch_Presence{Presence: &security.Empty{}}}
}

// strictPolicy refuses all plaintext.
func (m *Model) strictPolicy() *security.Authorization {
	return &security.Authorization{
		Name:      mesh.StaticStrictPolicy,
		Namespace: m.cfg.RootNamespace,
		Scope:     security.Scope_WORKLOAD_SELECTOR,
		Action:    security.Action_DENY,
		Rules:     []*security.Rule{{Clauses: []*security.Clause{clause(plaintext())}}},
	}
}

// report says when a PeerAuthentication has no effect.
func (p *peer) report(m *Model) (object.Key, Report) {
	var r Report
	if p.obj == nil {
		return p.key(), r
	}
	r.About(p.obj)
	r.root(m.cfg, p.ns.name)
	root := p.ns.name == m.cfg.RootNamespace
	if root && !wide(p.obj) {
		r.warn(status.WithoutEffect, "spec.selector", "a PeerAuthentication of the root namespace is about the whole mesh and cannot choose workloads: it has no effect",
			"remove the selector, or put it in the namespace of the workloads")
	}
	if wide(p.obj) {
		if first := p.ns.widest(); first != nil && first != p {
			r.warn(status.WithoutEffect, "metadata.name", "namespace "+p.ns.name+" already has PeerAuthentication "+first.name+", which is older: this one has no effect",
				"delete one of them")
		}
		if len(p.obj.Ports) > 0 {
			r.warn(status.WithoutEffect, "spec.portLevelMtls", "ports are only looked at when a selector chooses workloads", "add a selector")
		}
	}
	return p.key(), r
}
