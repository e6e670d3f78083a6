package model

import (
	"maps"
	"slices"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

func (m *Model) putWorkloadEntry(ns *namespace, name string, e *object.WorkloadEntry) {
	s := m.ensure(ns, object.KindWorkloadEntry, name)
	old, _ := s.obj.(*object.WorkloadEntry)
	if old == nil && e == nil {
		m.unknown(s)
		return
	}
	m.touch(s)
	m.dirty.reports.add(s)
	m.dirty.reports.add(ns)
	m.moveSourceRefs(s, entryRefs(old), entryRefs(e))
	if e == nil {
		s.obj = nil
		m.regroup(s, object.Labels{}, true)
		return
	}
	s.obj = e
	m.regroup(s, entryLabels(e), false)
}

// entryLabels are the labels of a WorkloadEntry's object and spec together; the spec's win.
func entryLabels(e *object.WorkloadEntry) object.Labels {
	if e.Workload.Labels.Empty() || e.Labels.Contains(e.Workload.Labels) {
		return e.Labels
	}
	if e.Labels.Empty() {
		return e.Workload.Labels
	}
	all := e.Labels.Map()
	maps.Copy(all, e.Workload.Labels.Map())
	return object.MakeLabels(all)
}

func entryRefs(e *object.WorkloadEntry) []gatewayName {
	if e == nil {
		return nil
	}
	return references(entryLabels(e), e.Namespace)
}

// entryWorkload fills in the workload of a WorkloadEntry.
func (m *Model) entryWorkload(s *source, w *workload.Workload) bool {
	e := s.obj.(*object.WorkloadEntry)
	labels := s.group.labels
	w.Name, w.Namespace = e.Name, e.Namespace
	if !m.setEndpoint(w, &e.Workload) {
		return false
	}
	setName(w, labels, firstLabel(labels, e.Name, mesh.LabelWorkloadName))
	setTunnel(w, labels, e.Annotations)
	for _, sel := range s.group.matches {
		svc, ok := sel.owner.(*service)
		if !ok || !sel.kinds.has(object.KindWorkloadEntry) {
			continue
		}
		ports := svc.portsOfEndpoint(&e.Workload)
		for _, c := range svc.slots {
			if c.winner == svc {
				w.Services[c.name] = ports
			}
		}
	}
	m.setPolicies(w, s.group)
	m.setWaypoint(w, s, labels)
	return true
}

// setEndpoint fills in what a WorkloadEntry and an inline endpoint have in common. It returns false for endpoints that
// cannot be reached over a network.
func (m *Model) setEndpoint(w *workload.Workload, e *object.Workload) bool {
	switch {
	case e.Address.IsValid():
		w.Addresses = append(w.Addresses, rawAddress(e.Address))
	case e.Host != "":
		w.Hostname = e.Host
	default:
		return false
	}
	if e.Network != "" {
		w.Network = e.Network
	}
	w.ServiceAccount = e.ServiceAccount
	w.Locality = splitLocality(e.Locality)
	m.setCapacity(w, e.Weight)
	return true
}

// address is what tells the endpoints of one ServiceEntry apart.
func address(e *object.Workload) string {
	if e.Address.IsValid() {
		return e.Address.String()
	}
	return e.Host
}

// putEndpoints keeps the source of the workloads that a ServiceEntry itself describes.
func (m *Model) putEndpoints(ns *namespace, name string, e *object.ServiceEntry) {
	s := m.ensure(ns, object.KindServiceEntry, name)
	old, _ := s.obj.(*object.ServiceEntry)
	m.touch(s)
	m.moveSourceRefs(s, endpointRefs(old), endpointRefs(e))
	if e == nil {
		s.obj = nil
		m.regroup(s, object.Labels{}, true)
		return
	}
	s.obj = e
	m.regroup(s, e.Labels, false)
}

func endpointRefs(e *object.ServiceEntry) []gatewayName {
	if e == nil {
		return nil
	}
	var refs []gatewayName
	for i := range e.Endpoints {
		for _, r := range references(e.Endpoints[i].Labels, e.Namespace) {
			if !slices.Contains(refs, r) {
				refs = append(refs, r)
			}
		}
	}
	return refs
}

// externalWorkloads yields the workloads of a ServiceEntry: its endpoints, or each of its hosts when those are to be
// resolved. Only hosts that are not taken by somebody else count; without any there is nothing to be an endpoint of.
func (m *Model) externalWorkloads(s *source, yield func(*workload.Workload)) {
	e := s.obj.(*object.ServiceEntry)
	svc := s.ns.serviceEntries[s.name]
	if svc == nil || svc.hidden || e.WorkloadSelector.Present {
		return
	}
	won := svc.won()
	if len(won) == 0 {
		return
	}
	if len(e.Endpoints) == 0 {
		if !resolves(e.Resolution) {
			return
		}
		for _, c := range won {
			ep := object.Workload{Host: c.hostname}
			m.externalWorkload(s, e, &ep, c.hostname, []*slot{c}, yield)
		}
		return
	}
	seen := map[string]bool{}
	for i := range e.Endpoints {
		ep := &e.Endpoints[i]
		if a := address(ep); a != "" && !seen[a] {
			seen[a] = true
			m.externalWorkload(s, e, ep, a, won, yield)
		}
	}
}

func resolves(r object.Resolution) bool {
	return r == object.ResolutionDNS || r == object.ResolutionDNSRoundRobin || r == object.ResolutionDynamicDNS
}

func (m *Model) externalWorkload(s *source, e *object.ServiceEntry, ep *object.Workload, addr string, of []*slot, yield func(*workload.Workload)) {
	w := m.newWorkload()
	w.Uid = mesh.ServiceEntryUID(m.cfg.ClusterID, e.Namespace, e.Name, addr)
	w.Name, w.Namespace = e.Name, e.Namespace
	if !m.setEndpoint(w, ep) {
		return
	}
	setName(w, e.Labels, e.Name)
	setTunnel(w, e.Labels, e.Annotations)
	if w.TunnelProtocol == workload.TunnelProtocol_NONE {
		// An inline endpoint has labels of its own.
		setTunnel(w, ep.Labels, object.Labels{})
	}
	svc := s.ns.serviceEntries[s.name]
	ports := svc.portsOfEndpoint(ep)
	for _, c := range of {
		w.Services[c.name] = ports
	}
	m.setPolicies(w, s.group)
	m.setWaypoint(w, s, ep.Labels)
	yield(w)
}

// report of a source: what is odd about a pod, a WorkloadEntry or an EndpointSlice.
func (s *source) report(m *Model) (object.Key, Report) {
	var r Report
	if s.obj == nil {
		return s.key(), r
	}
	r.About(s.obj)
	switch o := s.obj.(type) {
	case *object.Pod:
		for _, a := range ownIPs(o) {
			if first := m.podAt(a); first != nil && first != s {
				r.warn(status.AddressConflict, "status.podIP", "address "+a.String()+" also belongs to pod "+first.ns.name+"/"+first.name,
					"delete the pod that no longer runs; until then traffic to the address is ambiguous")
			}
		}
	case *object.EndpointSlice:
		m.reportSlice(&r, s, o)
	case *object.WorkloadEntry:
		if e := &o.Workload; address(e) == "" {
			r.warn(status.EndpointUnusable, "spec.address", "the workload has no address the mesh could reach", "give an IP address or a hostname")
		}
		r.bound(m.bindWorkload(s.ns, s.group.labels, o.Workload.ServiceAccount), nil)
	}
	return s.key(), r
}
