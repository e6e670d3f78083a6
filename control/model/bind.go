package model

import (
	"fmt"
	"strconv"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// binding is what came of an object's wish for a waypoint.
type binding struct {
	to     *waypoint // nil: none asked for, or not granted
	canary *waypoint
	weight uint32
	// ingress says that ingress gateways use the waypoint too; ingressSaid that a label speaks of it.
	ingress, ingressSaid bool
	// inherited says that the labels of the namespace ask, not the object's own.
	inherited bool
	// byNamespace says that nothing but the label of the namespace asks.
	byNamespace bool
	// problem is why there is no waypoint, or no canary when there is one.
	problem *problem
}

// problem has a reason from Istio's list.
type problem struct {
	reason, message string
	// missing says that there is no such Gateway.
	missing bool
}

// reasonNotReady is Istio's for a waypoint that is missing or has no address.
const reasonNotReady = "WaypointIsNotReady"

// fix is what to do about it.
func (p *problem) fix() string {
	switch p.reason {
	case reasonNotReady:
		return "make the waypoint ready, or take label " + mesh.LabelUseWaypoint + " away"
	case "AttachmentDenied":
		return "admit the namespace in the Gateway's listener, or use a waypoint of the namespace itself"
	case "UnsupportedTrafficType":
		return "set label " + mesh.LabelWaypointFor + " on the Gateway, or use another waypoint"
	}
	return "use a waypoint of the same namespace"
}

// code is what the problem is called.
func (p *problem) code() status.Code {
	switch p.reason {
	case reasonNotReady:
		if p.missing {
			return status.WaypointMissing
		}
		return status.WaypointNotReady
	case "AttachmentDenied":
		return status.WaypointNotAllowed
	case "UnsupportedTrafficType":
		return status.WaypointForOthers
	case "CrossNamespaceWaypointForbidden":
		return status.WaypointNotAllowed
	}
	return status.CanaryUnusable
}

// wish is the waypoint an object asks for: by its own label, else by its account, else by the label of its namespace.
// inherited is set when it is not its own label. account is empty for services, which have none.
func (m *Model) wish(ns *namespace, labels object.Labels, account string) (id gatewayName, inherited bool) {
	if id, said := reference(labels, ns.name, mesh.LabelUseWaypoint, mesh.LabelUseWaypointNS); said {
		return id, false
	}
	if w := m.waypointOf(ns.name, account); w != nil {
		return w.id, true
	}
	id, _ = reference(ns.labels(), ns.name, mesh.LabelUseWaypoint, mesh.LabelUseWaypointNS)
	return id, true
}

// waypointOf is the waypoint for the workloads of an account, the oldest of several, nil without.
func (m *Model) waypointOf(ns, account string) *waypoint {
	var first *waypoint
	for w := range m.forAccount[accountName{ns, account}] {
		if first == nil || older(&w.obj.Meta, &first.obj.Meta, 0, 0) {
			first = w
		}
	}
	return first
}

// resolve finds the waypoint an object asks for; see wish.
func (m *Model) resolve(ns *namespace, labels object.Labels, account string) (w *waypoint, inherited bool, p *problem) {
	id, inherited := m.wish(ns, labels, account)
	if id.name == "" {
		return nil, inherited, nil
	}
	w, p = m.attach(ns, id)
	return w, inherited, p
}

// attach finds a waypoint and asks whether the namespace may use it.
func (m *Model) attach(ns *namespace, id gatewayName) (*waypoint, *problem) {
	w := m.waypoints[id]
	if w == nil || w.obj == nil {
		return nil, &problem{reasonNotReady, fmt.Sprintf("waypoint %q is not ready: there is no such Gateway", id), true}
	}
	if !w.fact.ready {
		return nil, &problem{reasonNotReady, fmt.Sprintf("waypoint %q is not ready: %s", id, w.fact.why), false}
	}
	if !w.fact.admits(ns, id.ns) {
		return nil, &problem{"AttachmentDenied", fmt.Sprintf("waypoint %q does not admit namespace %q; see allowedRoutes.namespaces of its HBONE listener", id, ns.name), false}
	}
	return w, nil
}

func (f *waypointFact) admits(ns *namespace, home string) bool {
	switch f.from {
	case object.FromAll:
		return true
	case object.FromSelector:
		return f.selector.Matches(ns.labels())
	case object.FromNone:
		return false
	}
	return ns.name == home
}

// bindService finds the waypoint of a Service or ServiceEntry.
func (m *Model) bindService(s *service) binding {
	meta := s.obj.Metadata()
	// What a gateway controller rendered for a gateway is the gateway.
	if v := meta.Labels.Get(mesh.LabelGatewayManaged); v == managedWaypoint || v == managedEastWest {
		return binding{}
	}
	if m.isWaypointInstance(s.ns, meta.Labels) {
		return binding{}
	}
	w, inherited, p := m.resolve(s.ns, meta.Labels, "")
	if w != nil && !w.fact.services {
		w, p = nil, unsupported(w, "service")
	}
	if w != nil && m.forbidden(s, w) {
		w, p = nil, abroad(w)
	}
	if w == nil {
		return binding{problem: p, inherited: inherited, byNamespace: inherited}
	}
	b := binding{to: w}
	b.ingress, b.ingressSaid = ingressUse(meta.Labels, s.ns.labels())
	m.bindCanary(&b, s)
	return b
}

// forbidden says whether a waypoint may not be a service's because it is in a namespace that does not see the service.
func (m *Model) forbidden(s *service, w *waypoint) bool {
	return w.id.ns != s.ns.name && m.visibility(s) == NamespaceOnly
}

func abroad(w *waypoint) *problem {
	return &problem{"CrossNamespaceWaypointForbidden", fmt.Sprintf("waypoint %q is in another namespace, which a ServiceEntry visible in its own namespace only may not use", w.id), false}
}

func unsupported(w *waypoint, want string) *problem {
	return &problem{"UnsupportedTrafficType", fmt.Sprintf("waypoint %q handles traffic of type %q, not %q; set label %s on the Gateway", w.id, w.fact.traffic, want, mesh.LabelWaypointFor), false}
}

// bindCanary adds the second waypoint. It is taken from where the first one was asked for: the namespace is only looked
// at for objects that do not name a waypoint themselves. Without a good canary the first waypoint has it all.
func (m *Model) bindCanary(b *binding, s *service) {
	meta := s.obj.Metadata()
	own, _ := reference(meta.Labels, s.ns.name, mesh.LabelUseWaypoint, mesh.LabelUseWaypointNS)
	inherit := own.name == ""
	id, said := reference(meta.Labels, s.ns.name, mesh.LabelUseWaypointCanary, mesh.LabelUseWaypointCanaryNS)
	if !said && inherit {
		id, _ = reference(s.ns.labels(), s.ns.name, mesh.LabelUseWaypointCanary, mesh.LabelUseWaypointCanaryNS)
	}
	if id.name == "" {
		return
	}
	if id == b.to.id {
		b.problem = &problem{"CanarySameAsPrimary", fmt.Sprintf("canary waypoint %q is the waypoint itself; name another Gateway", id), false}
		return
	}
	v, ok := meta.Annotations.Lookup(mesh.AnnotationCanaryWeight)
	if !ok && inherit {
		v, ok = s.ns.annotations().Lookup(mesh.AnnotationCanaryWeight)
	}
	weight := 0
	if ok {
		var err error
		if weight, err = strconv.Atoi(v); err != nil || weight < 0 || weight > 100 {
			b.problem = &problem{"CanaryInvalidWeight", fmt.Sprintf("weight %q of canary waypoint %q is not a number from 0 to 100", v, id), false}
			return
		}
	}
	w, p := m.attach(s.ns, id)
	if w != nil && !w.fact.services {
		w, p = nil, unsupported(w, "service")
	}
	if w != nil && m.forbidden(s, w) {
		w, p = nil, abroad(w)
	}
	if w == nil {
		b.problem = p
		return
	}
	b.canary, b.weight = w, uint32(weight)
}

// isWaypointInstance reports whether labels are those of a waypoint's own pods or Service.
func (m *Model) isWaypointInstance(ns *namespace, labels object.Labels) bool {
	return m.instanceOf(ns, labels) != nil
}

func (m *Model) instanceOf(ns *namespace, labels object.Labels) *waypoint {
	name, ok := labels.Lookup(mesh.LabelGatewayName)
	if !ok {
		return nil
	}
	if w := m.waypoints[gatewayName{ns.name, name}]; w != nil && w.obj != nil && isWaypoint(w.obj, m.classes[w.obj.Class]) {
		return w
	}
	return nil
}

// bindWorkload finds the waypoint of a workload with these labels and this account.
func (m *Model) bindWorkload(ns *namespace, labels object.Labels, account string) binding {
	if v := labels.Get(mesh.LabelGatewayManaged); v == managedWaypoint || v == managedEastWest || m.isWaypointInstance(ns, labels) {
		return binding{}
	}
	w, inherited, p := m.resolve(ns, labels, account)
	if w != nil && !w.fact.workload {
		// A namespace's waypoint is usually meant for its services; that is no reason to complain about its workloads.
		if inherited {
			return binding{}
		}
		return binding{problem: unsupported(w, "workload")}
	}
	return binding{to: w, problem: p, inherited: inherited, byNamespace: inherited && m.waypointOf(ns.name, account) == nil}
}

// setWaypoint fills in how traffic reaches a workload: through its waypoint, or, when it is an instance of one, by the
// tunnel that waypoint asks for.
func (m *Model) setWaypoint(w *workload.Workload, s *source, labels object.Labels) {
	var to *waypoint
	if inst := m.instanceOf(s.ns, labels); inst != nil {
		if s.kind != object.KindServiceEntry {
			w.ApplicationTunnel = inst.fact.tunnel
		}
	} else {
		to = m.bindWorkload(s.ns, labels, w.ServiceAccount).to
	}
	if to != nil {
		w.Waypoint = to.fact.address
		m.scratch.scopes = append(m.scratch.scopes, to.id.String())
	}
	m.setGuards(w, s, labels)
	if m.cfg.AllowWaypoints {
		m.allowWaypoints(w, to)
	}
}
