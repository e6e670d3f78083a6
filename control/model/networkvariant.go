package model

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/control/object"
)

// variant is what the same NetworkPolicies come to for pods that give the same meaning to named ports and are behind the
// same waypoints.
type variant struct {
	ns       *namespace
	name     string
	policies []*networkPolicy
	ports    map[string]uint16 // of names
	through  []string          // principals of waypoints
	users    int
	sum      uint64
	// whole is how many of the policies, from the first, are in the rule; the others admit nothing, see maxRule.
	whole int
}

// key is how the variant is called in Workloads.
func (v *variant) key() string { return v.ns.name + "/" + v.name }

// chosenBy are the NetworkPolicies about connections to a pod, in order of name.
func chosenBy(s *source) (all []*networkPolicy) {
	for _, p := range s.ns.networkPolicies {
		if p.obj != nil && p.obj.Ingress && p.obj.Pods.Matches(s.obj.Metadata().Labels) {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b *networkPolicy) int { return cmp.Compare(a.name, b.name) })
	return all
}

// setNetworkPolicies has a pod's workload name what enforces its NetworkPolicies. trusted are the SPIFFE ids of the
// waypoints before it.
func (m *Model) setNetworkPolicies(w *workload.Workload, s *source, trusted []string) {
	if !m.cfg.NetworkPolicies {
		return
	}
	policies := chosenBy(s)
	p := s.obj.(*object.Pod)
	// A waypoint passes connections on to pods, and there they are asked for. Pods of the node's network are the node.
	if len(policies) == 0 || p.HostNetwork || m.isWaypointInstance(s.ns, p.Labels) {
		m.useVariant(s, nil)
		m.noteBeyond(s, nil)
		return
	}
	v := m.variantOf(s, p, policies, trusted)
	m.useVariant(s, v)
	w.AuthorizationPolicies = append(w.AuthorizationPolicies, v.key())
	if w.TunnelProtocol == workload.TunnelProtocol_HBONE && !w.NativeTunnel || w.Status != workload.WorkloadStatus_HEALTHY {
		policies = nil
	}
	m.noteBeyond(s, policies)
}

// variantOf finds or makes the variant for a pod.
func (m *Model) variantOf(s *source, p *object.Pod, policies []*networkPolicy, trusted []string) *variant {
	v := &variant{ns: s.ns, policies: policies, ports: map[string]uint16{}}
	var names, detail []string
	for _, np := range policies {
		names = append(names, np.name)
		for i := range np.obj.Rules {
			for _, port := range np.obj.Rules[i].Ports {
				if n, ok := p.NamedPort(port.Name, object.TCP); ok && port.Name != "" && port.Protocol == object.TCP {
					v.ports[port.Name] = n
				}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(v.ports)) {
		detail = append(detail, fmt.Sprintf("%s=%d", name, v.ports[name]))
	}
	for _, id := range trusted {
		v.through = append(v.through, strings.TrimPrefix(id, "spiffe://"))
	}
	detail = append(detail, v.through...)
	v.name = mesh.NetworkPolicyPrefix + strings.Join(names, "+")
	if len(detail) > 0 || len(v.name) > 200 {
		// What Kubernetes lets nobody call an object by, so that no other policy has this name.
		sum := sha256.Sum256([]byte(strings.Join(append(names, detail...), "\n")))
		v.name = fmt.Sprintf("%s:%s", v.name[:min(len(v.name), 200)], hex.EncodeToString(sum[:4]))
	}
	if known := m.networks.variants[v.key()]; known != nil {
		return known
	}
	m.networks.variants[v.key()] = v
	for _, np := range policies {
		np.variants.add(v)
	}
	m.networks.fresh = append(m.networks.fresh, v)
	return v
}

// useVariant counts who names a variant. One that nobody names is taken back at the end of the flush.
func (m *Model) useVariant(s *source, v *variant) {
	if s.variant == v {
		return
	}
	if s.variant != nil {
		s.variant.users--
	}
	if v != nil {
		v.users++
	}
	s.variant = v
}

// noteBeyond keeps account of pods for which nobody enforces policies that are about them.
func (m *Model) noteBeyond(s *source, now []*networkPolicy) {
	for _, p := range s.beyond {
		if !slices.Contains(now, p) {
			delete(p.outside, s)
			m.dirty.reports.add(p)
		}
	}
	for _, p := range now {
		if !p.outside.has(s) {
			p.outside.add(s)
			m.dirty.reports.add(p)
		}
	}
	s.beyond = now
}

// introduceVariants hands out variants that the next workload may be the first to name.
func (m *Model) introduceVariants(out Output) {
	for _, v := range m.networks.fresh {
		v.sum = out.Policy(m.networkRule(v), v.sum)
	}
	m.networks.fresh = m.networks.fresh[:0]
}

// flushNetworks hands out what has changed, and takes back what nobody needs.
func (m *Model) flushNetworks(out Output) {
	n := &m.networks
	for p := range n.dirty {
		m.dirty.reports.add(p)
		for v := range p.variants {
			if v.users > 0 {
				v.sum = out.Policy(m.networkRule(v), v.sum)
			}
		}
	}
	for p := range n.dirty {
		if p.obj == nil {
			delete(p.ns.networkPolicies, p.name)
			m.dirty.emptied.add(p.ns)
		}
	}
	n.dirty.empty()
	for key, v := range n.variants {
		if v.users > 0 {
			continue
		}
		if v.sum != 0 {
			out.RemovePolicy(key)
		}
		delete(n.variants, key)
		for _, p := range v.policies {
			delete(p.variants, v)
		}
	}
}
