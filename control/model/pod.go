package model

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/control/object"
)

func (m *Model) putPod(ns *namespace, name string, p *object.Pod) {
	s := m.ensure(ns, object.KindPod, name)
	old, _ := s.obj.(*object.Pod)
	if old == nil && p == nil {
		m.unknown(s)
		return
	}
	m.touch(s)
	if m.hasReport(s) {
		m.dirty.reports.add(s)
	}
	m.touchInstances(s)
	m.moveSourceRefs(s, podRefs(old), podRefs(p))
	m.movePodIPs(s, ownIPs(old), ownIPs(p))
	if old != nil && p != nil && !old.Created.Equal(p.Created) {
		for _, a := range ownIPs(p) {
			m.touchAddress(a) // the oldest pod has the address
		}
	}
	if was, is := nodeOf(old), nodeOf(p); was != is {
		m.movePodNode(s, was, is)
	}
	if p == nil {
		s.obj = nil
		m.regroup(s, object.Labels{}, true)
		return
	}
	s.obj = p
	m.regroup(s, p.Labels, false)
	m.touchInstances(s)
}

func podRefs(p *object.Pod) []gatewayName {
	if p == nil {
		return nil
	}
	return references(p.Labels, p.Namespace)
}

func nodeOf(p *object.Pod) string {
	if p == nil {
		return ""
	}
	return p.Node
}

// ownIPs are the addresses that mean this pod and no other: none for pods that share their node's.
func ownIPs(p *object.Pod) []netip.Addr {
	if p == nil || p.HostNetwork || p.Phase.Terminal() {
		return nil
	}
	return p.IPs
}

func (m *Model) movePodNode(s *source, from, to string) {
	if n := m.nodes[from]; n != nil {
		delete(n.pods, s)
		m.dropNode(from, n)
	}
	if to != "" {
		m.node(to).pods.add(s)
	}
}

// movePodIPs keeps the index of pod addresses and marks what depends on an address being a pod's: EndpointSlices that
// list it, and services that use it as a virtual address.
func (m *Model) movePodIPs(s *source, from, to []netip.Addr) {
	for _, a := range from {
		if slices.Contains(to, a) {
			continue
		}
		m.podIPs[a] = slices.DeleteFunc(m.podIPs[a], func(o *source) bool { return o == s })
		if len(m.podIPs[a]) == 0 {
			delete(m.podIPs, a)
		}
		m.touchAddress(a)
	}
	for _, a := range to {
		if slices.Contains(from, a) {
			continue
		}
		if !slices.Contains(m.podIPs[a], s) {
			m.podIPs[a] = append(m.podIPs[a], s)
		}
		m.touchAddress(a)
	}
}

func (m *Model) touchAddress(a netip.Addr) {
	for s := range m.sliceIPs[a] {
		m.touch(s)
	}
	holders := m.podIPs[a]
	for _, s := range holders {
		m.touch(s)
		if len(holders) > 1 || m.hasReport(s) {
			m.dirty.reports.add(s)
		}
	}
	for s := range m.vips[netip.PrefixFrom(a, a.BitLen())] {
		m.touchReports(s)
	}
}

// hasReport reports whether there is anything said about a source. Pods rarely have anything said about them, so they are
// only looked at when there is a reason.
func (m *Model) hasReport(s *source) bool {
	_, ok := m.reports[s.key()]
	return ok
}

// podAt returns the pod that an address belongs to, nil when there is none. When several claim it the oldest counts.
func (m *Model) podAt(a netip.Addr) *source {
	var first *source
	for _, s := range m.podIPs[a] {
		if first == nil || older(s.obj.Metadata(), first.obj.Metadata(), 0, 0) {
			first = s
		}
	}
	return first
}

// podWorkload fills in the workload of a pod.
func (m *Model) podWorkload(s *source, w *workload.Workload) bool {
	p := s.obj.(*object.Pod)
	if p.Phase.Terminal() || len(p.IPs) == 0 {
		return false
	}
	w.Name, w.Namespace = p.Name, p.Namespace
	for _, a := range p.IPs {
		w.Addresses = append(w.Addresses, rawAddress(a))
	}
	if n, ok := p.Labels.Lookup(mesh.LabelNetwork); ok {
		w.Network = n
	}
	w.ServiceAccount = p.ServiceAccount
	w.Node = p.Node
	if n := m.nodes[p.Node]; n != nil && p.Node != "" {
		w.Locality = n.locality
	}
	// From the moment deletion is asked for nothing new may be sent here: the process ends sooner than news of its end
	// would arrive.
	if !p.Ready || p.Deleting {
		w.Status = workload.WorkloadStatus_UNHEALTHY
	}
	if p.HostNetwork {
		w.NetworkMode = workload.NetworkMode_HOST_NETWORK
	}
	setName(w, p.Labels, workloadName(p))
	setTunnel(w, p.Labels, p.Annotations)
	m.setPodServices(w, s, p)
	m.setPolicies(w, s.group)
	m.setWaypoint(w, s, p.Labels)
	m.setNetworkPolicies(w, s, m.scratch.trusted)
	return true
}

// workloadName is the name of what made the pod, as far as its owner's name tells.
func workloadName(p *object.Pod) string {
	if v, ok := p.Labels.Lookup(mesh.LabelWorkloadName); ok {
		return v
	}
	o := p.Owner
	switch o.Kind {
	case "", "Node": // a static pod belongs to its node, which says nothing about it
		return p.Name
	case "ReplicaSet":
		for _, l := range [...]string{"pod-template-hash", "rollouts-pod-template-hash"} {
			if h := p.Labels.Get(l); h != "" {
				if name, ok := strings.CutSuffix(o.Name, "-"+h); ok {
					return name
				}
			}
		}
	case "ReplicationController":
		if v := p.Labels.Get("deploymentconfig"); v != "" {
			return v
		}
	case "Job":
		return cronJobName(o.Name)
	}
	return o.Name
}

// cronJobName strips the minute a CronJob appends to the names of its Jobs: a dash and eight to ten digits.
func cronJobName(job string) string {
	i := strings.LastIndexByte(job, '-')
	if digits := len(job) - i - 1; i <= 0 || digits < 8 || digits > 10 || strings.Trim(job[i+1:], "0123456789") != "" {
		return job
	}
	return job[:i]
}

// setPodServices lists the services the pod is an endpoint of: those whose selector matches, and those without a
// selector whose EndpointSlices name the pod or one of its addresses.
func (m *Model) setPodServices(w *workload.Workload, s *source, p *object.Pod) {
	for _, sel := range s.group.matches {
		svc, ok := sel.owner.(*service)
		if !ok {
			continue
		}
		ports := svc.portsOfPod(p)
		for _, c := range svc.slots {
			if c.winner == svc {
				w.Services[c.name] = ports
			}
		}
	}
	var listed []*source
	for slice := range s.ns.targetedBy[s.name] {
		listed = append(listed, slice)
	}
	for _, a := range ownIPs(p) {
		if m.podAt(a) == s {
			for slice := range m.sliceIPs[a] {
				listed = append(listed, slice)
			}
		}
	}
	m.joinSlices(w, listed)
}
