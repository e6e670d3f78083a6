package model

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// EndpointSlices only matter for Services without a selector: for all others the pods themselves say more than the
// slice that Kubernetes derives from them.

func (m *Model) putSlice(ns *namespace, name string, e *object.EndpointSlice) {
	s := m.ensure(ns, object.KindEndpointSlice, name)
	old, _ := s.obj.(*object.EndpointSlice)
	if old == nil && e == nil {
		m.unknown(s)
		return
	}
	m.touch(s)
	m.dirty.reports.add(s)
	if old != nil {
		m.untarget(s, old)
		dropFrom(ns.slicesOf, old.Service, s)
	}
	if e == nil {
		s.obj = nil
		return
	}
	s.obj = e
	if e.Service != "" {
		addTo(ns.slicesOf, e.Service, s)
	}
	m.target(s, e)
}

// serviceOf is the selectorless Service an EndpointSlice belongs to, nil when it has none.
func (s *source) serviceOf() *service {
	e, _ := s.obj.(*object.EndpointSlice)
	if e == nil || e.Service == "" {
		return nil
	}
	svc := s.ns.services[e.Service]
	if svc == nil || svc.sel != nil || len(svc.slots) == 0 {
		return nil
	}
	return svc
}

// target indexes the pods and the addresses a slice lists, and marks those pods.
func (m *Model) target(s *source, e *object.EndpointSlice) {
	if s.serviceOf() == nil || e.Family == 0 {
		return
	}
	m.eachTarget(e, func(ns *namespace, pod string, a netip.Addr) {
		if pod != "" {
			addTo(ns.targetedBy, pod, s)
		} else {
			addTo(m.sliceIPs, a, s)
		}
	})
	m.touchTargets(e)
}

// untarget is the reverse of target. It must work from the same object, whatever became of the Service meanwhile.
func (m *Model) untarget(s *source, e *object.EndpointSlice) {
	m.eachTarget(e, func(ns *namespace, pod string, a netip.Addr) {
		if pod != "" {
			dropFrom(ns.targetedBy, pod, s)
			m.dirty.emptied.add(ns)
		} else {
			dropFrom(m.sliceIPs, a, s)
		}
	})
	m.touchTargets(e)
}

func (m *Model) touchTargets(e *object.EndpointSlice) {
	m.eachTarget(e, func(ns *namespace, pod string, a netip.Addr) {
		if pod != "" {
			if p := ns.pods[pod]; p != nil {
				m.touch(p)
			}
			return
		}
		for _, p := range m.podIPs[a] {
			m.touch(p)
		}
	})
}

// eachTarget visits the endpoints of a slice: by the pod they name, or by their first address.
func (m *Model) eachTarget(e *object.EndpointSlice, visit func(ns *namespace, pod string, a netip.Addr)) {
	for i := range e.Endpoints {
		ep := &e.Endpoints[i]
		switch {
		case ep.TargetPod != (object.Key{}):
			visit(m.in(ep.TargetPod.Namespace), ep.TargetPod.Name, netip.Addr{})
		case len(ep.Addresses) > 0:
			visit(nil, "", ep.Addresses[0])
		}
	}
}

// retarget follows a Service that got or lost its selector, its names or its ports.
func (m *Model) retarget(ns *namespace, name string) {
	for s := range ns.slicesOf[name] {
		e, _ := s.obj.(*object.EndpointSlice)
		if e == nil {
			continue
		}
		m.touch(s)
		m.dirty.reports.add(s)
		m.untarget(s, e)
		m.target(s, e)
	}
}

func (m *Model) reportSlice(r *Report, s *source, e *object.EndpointSlice) {
	if e.Service == "" {
		return
	}
	svc := s.ns.services[e.Service]
	switch {
	case svc == nil || svc.obj == nil:
		r.warn(status.HostNotFound, "metadata.labels", "there is no Service "+s.ns.name+"/"+e.Service+", which label kubernetes.io/service-name speaks of: nobody reaches the endpoints", "create the Service, or correct the label")
	case e.Family == 0 && svc.sel == nil:
		r.warn(status.EndpointUnusable, "addressType", "endpoints with names instead of addresses are not supported", "use a ServiceEntry with resolution DNS")
	}
}

// slicePorts maps the ports of a Service to those of one of its slices: they meet by name.
func slicePorts(svc *service, e *object.EndpointSlice) *workload.PortList {
	l := &workload.PortList{}
	for _, p := range e.Ports {
		if p.Protocol != object.TCP || p.Port == 0 {
			continue
		}
		for i := range svc.ports {
			if svc.ports[i].name == p.Name {
				l.Ports = append(l.Ports, &workload.Port{ServicePort: svc.ports[i].number, TargetPort: uint32(p.Port)})
				break
			}
		}
	}
	return l
}

// sliceWorkloads yields a workload for each endpoint of a slice that is not a pod.
func (m *Model) sliceWorkloads(s *source, yield func(*workload.Workload)) {
	e := s.obj.(*object.EndpointSlice)
	svc := s.serviceOf()
	if svc == nil || e.Family == 0 || svc.slots[0].winner != svc {
		return
	}
	ports := slicePorts(svc, e)
	seen := map[netip.Addr]bool{}
	for i := range e.Endpoints {
		ep := &e.Endpoints[i]
		if ep.TargetPod != (object.Key{}) || len(ep.Addresses) == 0 {
			continue
		}
		first := ep.Addresses[0]
		if seen[first] || m.podAt(first) != nil {
			continue
		}
		seen[first] = true
		w := m.newWorkload()
		w.Uid = mesh.EndpointSliceUID(m.cfg.ClusterID, e.Namespace, e.Name, first.String())
		w.Name, w.Namespace = e.Name, e.Namespace
		for _, a := range ep.Addresses {
			w.Addresses = append(w.Addresses, rawAddress(a))
		}
		if !ep.Ready {
			w.Status = workload.WorkloadStatus_UNHEALTHY
		}
		// Nothing is known of what stands behind the address; it may well be shared.
		w.NetworkMode = workload.NetworkMode_HOST_NETWORK
		w.WorkloadType = workload.WorkloadType_DEPLOYMENT
		w.Services[svc.slots[0].name] = ports
		yield(w)
	}
}

// joinSlices makes a pod an endpoint of the Services whose slices list it. A Service has one slice for each address
// family, so their ports are put together.
func (m *Model) joinSlices(w *workload.Workload, listed []*source) {
	if len(listed) == 0 {
		return
	}
	slices.SortFunc(listed, func(a, b *source) int {
		return cmp.Or(cmp.Compare(a.ns.name, b.ns.name), cmp.Compare(a.name, b.name))
	})
	joined := map[string]*workload.PortList{}
	for _, s := range slices.Compact(listed) {
		svc := s.serviceOf()
		if svc == nil || svc.slots[0].winner != svc {
			continue
		}
		name := svc.slots[0].name
		l := slicePorts(svc, s.obj.(*object.EndpointSlice))
		if have := joined[name]; have != nil {
			for _, p := range l.Ports {
				if !slices.ContainsFunc(have.Ports, func(h *workload.Port) bool { return h.ServicePort == p.ServicePort }) {
					have.Ports = append(have.Ports, p)
				}
			}
			continue
		}
		joined[name] = l
		w.Services[name] = l
	}
}

func addTo[K comparable, V comparable](m map[K]set[V], k K, v V) {
	if m[k] == nil {
		m[k] = set[V]{}
	}
	m[k].add(v)
}

func dropFrom[K comparable, V comparable](m map[K]set[V], k K, v V) {
	delete(m[k], v)
	if len(m[k]) == 0 {
		delete(m, k)
	}
}
