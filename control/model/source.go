package model

import (
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/control/object"
)

// source is an object that workloads come from: a pod or a WorkloadEntry makes one, a ServiceEntry with endpoints or an
// EndpointSlice makes several.
type source struct {
	ns   *namespace
	name string
	kind object.Kind
	// obj is nil once the object is gone; the source itself stays until its workloads were taken back.
	obj   object.Object
	group *group // nil for EndpointSlices
	// sum is of the workload of a pod or a WorkloadEntry, 0 while there is none. sums has those of the other kinds by uid.
	sum  uint64
	sums map[string]uint64
	// outside are the services with guards that it is an endpoint of without being in the mesh.
	outside []*slot
	// variant is what its NetworkPolicies come to, nil without; beyond are those of them that nobody enforces here.
	variant *variant
	beyond  []*networkPolicy
}

// scratch is what is used again from one computation to the next.
type scratch struct {
	workload workload.Workload
	capacity wrapperspb.UInt32Value
	services map[string]*workload.PortList
	names    []string
	// scopes are the Gateways of the workload being built.
	scopes []string
	// trusted are the SPIFFE ids of the waypoints before it.
	trusted []string
}

// home is the map of its namespace a source is in.
func (s *source) home() map[string]*source {
	switch s.kind {
	case object.KindPod:
		return s.ns.pods
	case object.KindWorkloadEntry:
		return s.ns.entries
	case object.KindServiceEntry:
		return s.ns.external
	}
	return s.ns.slices
}

func (s *source) key() object.Key {
	return object.Key{Kind: s.kind, Namespace: s.ns.name, Name: s.name}
}

// ensure returns the source of an object, known or not.
func (m *Model) ensure(ns *namespace, kind object.Kind, name string) *source {
	s := &source{ns: ns, name: name, kind: kind}
	home := s.home()
	if known := home[name]; known != nil {
		return known
	}
	home[name] = s
	return s
}

// unknown is told of the deletion of an object that is not there: the source ensure made for it is of no use, unless it
// still has something to take back.
func (m *Model) unknown(s *source) {
	if !m.dirty.sources.has(s) {
		delete(s.home(), s.name)
		m.dirty.emptied.add(s.ns)
	}
}

// flushSources computes the workloads of everything marked.
func (m *Model) flushSources(out Output) {
	for s := range m.dirty.sources {
		switch s.kind {
		case object.KindPod:
			m.flushOne(out, s, mesh.PodUID(m.cfg.ClusterID, s.ns.name, s.name), m.podWorkload)
		case object.KindWorkloadEntry:
			m.flushOne(out, s, mesh.WorkloadEntryUID(m.cfg.ClusterID, s.ns.name, s.name), m.entryWorkload)
		case object.KindServiceEntry:
			m.flushMany(out, s, m.externalWorkloads)
		case object.KindEndpointSlice:
			m.flushMany(out, s, m.sliceWorkloads)
		}
		if s.obj == nil {
			delete(s.home(), s.name)
			m.dirty.emptied.add(s.ns)
		}
	}
	m.dirty.sources.empty()
}

// flushOne hands out the workload of a source that makes at most one. build returns false when there is none now.
func (m *Model) flushOne(out Output, s *source, uid string, build func(*source, *workload.Workload) bool) {
	w := m.newWorkload()
	w.Uid = uid
	if s.obj != nil && build(s, w) {
		m.introduceVariants(out)
		s.sum = out.Workload(w, m.scratch.scopes, s.sum)
		m.noteOutside(s, w)
		return
	}
	m.noteOutside(s, nil)
	m.useVariant(s, nil)
	m.noteBeyond(s, nil)
	if s.sum != 0 {
		out.RemoveAddress(uid)
		s.sum = 0
	}
}

// flushMany hands out the workloads of a source; build yields each.
func (m *Model) flushMany(out Output, s *source, build func(*source, func(*workload.Workload))) {
	before := s.sums
	s.sums = nil
	if s.obj != nil {
		build(s, func(w *workload.Workload) {
			if s.sums == nil {
				s.sums = map[string]uint64{}
			}
			s.sums[w.Uid] = out.Workload(w, m.scratch.scopes, before[w.Uid])
		})
	}
	for uid := range before {
		if s.sums[uid] == 0 {
			out.RemoveAddress(uid)
		}
	}
}

// newWorkload returns the scratch workload with what all workloads share.
func (m *Model) newWorkload() *workload.Workload {
	w := &m.scratch.workload
	w.Reset()
	if m.scratch.services == nil {
		m.scratch.services = map[string]*workload.PortList{}
	}
	clear(m.scratch.services)
	m.scratch.scopes, m.scratch.trusted = nil, nil
	w.Services = m.scratch.services
	w.Network = m.network
	w.ClusterId = m.cfg.ClusterID
	w.WorkloadType = workload.WorkloadType_POD
	if m.cfg.TrustDomain != mesh.DefaultTrustDomain {
		w.TrustDomain = m.cfg.TrustDomain
	}
	return w
}

func (m *Model) setCapacity(w *workload.Workload, weight uint32) {
	if weight == 0 {
		return
	}
	m.scratch.capacity.Value = weight
	w.Capacity = &m.scratch.capacity
}

// setName sets what a workload is called and of which application it is.
func setName(w *workload.Workload, labels object.Labels, name string) {
	w.WorkloadName = name
	w.CanonicalName = firstLabel(labels, name, mesh.LabelCanonicalName, "app.kubernetes.io/name", "app")
	w.CanonicalRevision = firstLabel(labels, "latest", mesh.LabelCanonicalRevision, "app.kubernetes.io/version", "version")
}

func firstLabel(labels object.Labels, def string, keys ...string) string {
	for _, k := range keys {
		if v, ok := labels.Lookup(k); ok {
			return v
		}
	}
	return def
}

// tunnelled reports whether what a pod sends comes with its identity.
func tunnelled(p *object.Pod) bool {
	var w workload.Workload
	setTunnel(&w, p.Labels, p.Annotations)
	return w.TunnelProtocol == workload.TunnelProtocol_HBONE
}

// setTunnel says how the workload is reached: over HBONE when the node proxy captured its traffic or when it speaks
// HBONE itself.
func setTunnel(w *workload.Workload, labels, annotations object.Labels) {
	if annotations.Get(mesh.AnnotationRedirection) == mesh.RedirectionEnabled {
		w.TunnelProtocol = workload.TunnelProtocol_HBONE
	}
	for t := range strings.SplitSeq(labels.Get(mesh.LabelTunnel), ",") {
		if strings.TrimSpace(t) == "http" {
			w.TunnelProtocol = workload.TunnelProtocol_HBONE
			w.NativeTunnel = true
		}
	}
}

// setPolicies lists the selector policies of a group: first AuthorizationPolicies, then what PeerAuthentications come to.
func (m *Model) setPolicies(w *workload.Workload, g *group) {
	var own *peer
	for _, sel := range g.matches {
		switch o := sel.owner.(type) {
		case *policy:
			w.AuthorizationPolicies = append(w.AuthorizationPolicies, o.ns.name+"/"+o.name)
		case *peer:
			if own == nil || o.olderThan(own) {
				own = o
			}
		}
	}
	slices.Sort(w.AuthorizationPolicies)
	if name := m.peerPolicy(g.ns, own); name != "" {
		w.AuthorizationPolicies = append(w.AuthorizationPolicies, name)
	}
}

// older decides between objects of one kind that claim the same thing: the oldest wins. Objects that do not say when they
// were made, as in a folder of YAML, are ordered by when they were first seen, counted in Flushes: a copy that turns up
// later takes nothing away. Those that were there from the start are told apart by name, so that the answer does not
// depend on the order of reading.
func older(a, b *object.Meta, arrivedA, arrivedB uint64) bool {
	if c := a.Created.Compare(b.Created); c != 0 {
		return c < 0
	}
	if a.Created.IsZero() && arrivedA != arrivedB {
		return arrivedA < arrivedB
	}
	if a.Namespace != b.Namespace {
		return a.Namespace < b.Namespace
	}
	return a.Name < b.Name
}

func rawAddress(a netip.Addr) []byte { return a.Unmap().AsSlice() }

func splitLocality(s string) *workload.Locality {
	if s == "" {
		return nil
	}
	region, rest, _ := strings.Cut(s, "/")
	zone, rest, _ := strings.Cut(rest, "/")
	subzone, _, _ := strings.Cut(rest, "/")
	return &workload.Locality{Region: region, Zone: zone, Subzone: subzone}
}
