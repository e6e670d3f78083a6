package model

import (
	"slices"
	"strconv"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// gatewayName names a Gateway.
type gatewayName struct{ ns, name string }

// accountName names a service account.
type accountName struct{ ns, name string }

func (g gatewayName) String() string { return g.ns + "/" + g.name }

// waypoint is a Gateway that exists or that somebody refers to.
type waypoint struct {
	id   gatewayName
	obj  *object.Gateway // nil while it is only referred to
	fact waypointFact
	// sel selects the pods that are instances of it.
	sel *selector
	// Who refers to it: objects by their own labels, and namespaces for what is in them.
	services   set[*service]
	sources    set[*source]
	namespaces set[*namespace]
	// allow is of the implied policy that lets it through.
	allow uint64
}

// waypointFact is what a Gateway means to those that refer to it.
type waypointFact struct {
	ready bool
	// isWaypoint is set for a Gateway that exists and is not one at the edge.
	isWaypoint bool
	address    *workload.GatewayAddress
	services   bool
	workload   bool
	traffic    string
	from       object.RouteNamespaces
	selector   object.LabelSelector
	// tunnel is how node proxies hand traffic to the instances when not as it came.
	tunnel *workload.ApplicationTunnel
	// why says what is missing when it is not ready.
	why string
	// accounts are those of its instances, identities the SPIFFE ids that it has or is to have.
	accounts, identities []string
}

// takes reports whether the Gateway is a waypoint at all.
func (f *waypointFact) takes() bool { return f.isWaypoint }

// references are the Gateways that labels speak of: the waypoint asked for, its canary, and the Gateway the labelled
// object is a part of.
func references(labels object.Labels, ns string) []gatewayName {
	var refs []gatewayName
	if r, ok := reference(labels, ns, mesh.LabelUseWaypoint, mesh.LabelUseWaypointNS); ok && r.name != "" {
		refs = append(refs, r)
	}
	if r, ok := reference(labels, ns, mesh.LabelUseWaypointCanary, mesh.LabelUseWaypointCanaryNS); ok && r.name != "" && !slices.Contains(refs, r) {
		refs = append(refs, r)
	}
	if name, ok := labels.Lookup(mesh.LabelGatewayName); ok && !slices.Contains(refs, gatewayName{ns, name}) {
		refs = append(refs, gatewayName{ns, name})
	}
	return refs
}

// reference reads one label. ok is false without the label; the name is empty when it says "none".
func reference(labels object.Labels, ns, nameLabel, nsLabel string) (r gatewayName, ok bool) {
	v, ok := labels.Lookup(nameLabel)
	if !ok || v == "none" || v == "" {
		return gatewayName{}, ok
	}
	if o, has := labels.Lookup(nsLabel); has {
		ns = o
	}
	return gatewayName{ns, v}, true
}

func (m *Model) waypoint(id gatewayName) *waypoint {
	w := m.waypoints[id]
	if w == nil {
		w = &waypoint{id: id, services: set[*service]{}, sources: set[*source]{}, namespaces: set[*namespace]{}}
		m.waypoints[id] = w
		m.dirty.waypoints.add(w)
		m.dirty.idle.add(w)
	}
	return w
}

// moveRefs takes one who refers out of the waypoints from and into the waypoints to.
func moveRefs[T comparable](m *Model, who T, from, to []gatewayName, users func(*waypoint) set[T]) {
	for _, id := range from {
		if !slices.Contains(to, id) {
			if w := m.waypoints[id]; w != nil {
				delete(users(w), who)
				m.dirty.reports.add(w)
				m.dirty.idle.add(w)
			}
		}
	}
	for _, id := range to {
		w := m.waypoint(id)
		users(w).add(who)
		m.dirty.reports.add(w)
	}
}

func (m *Model) moveServiceRefs(s *service, from, to []gatewayName) {
	moveRefs(m, s, from, to, func(w *waypoint) set[*service] { return w.services })
}

func (m *Model) moveSourceRefs(s *source, from, to []gatewayName) {
	moveRefs(m, s, from, to, func(w *waypoint) set[*source] { return w.sources })
}

func (m *Model) moveNamespaceRefs(n *namespace, from, to []gatewayName) {
	moveRefs(m, n, from, to, func(w *waypoint) set[*namespace] { return w.namespaces })
}

func (m *Model) putGateway(ns, name string, o *object.Gateway) {
	id := gatewayName{ns, name}
	w := m.waypoint(id)
	was, old := w.forAccount(), w.obj
	w.obj = o
	switch now := w.forAccount(); {
	case was != now:
		m.moveAccount(w, was, now)
	case now != "" && !old.Created.Equal(o.Created):
		m.touchAccounts(ns) // the oldest of several counts
	}
	m.dirty.waypoints.add(w)
	m.touchTargetsOf(object.Key{Kind: object.KindGateway, Namespace: ns, Name: name})
	switch {
	case o == nil:
		m.discard(w.sel)
		w.sel = nil
		m.dirty.idle.add(w)
	case w.sel == nil:
		w.sel = m.choose(m.in(ns), false, object.LabelsOf(mesh.LabelGatewayName, name), of(object.KindPod, object.KindWorkloadEntry), w)
	}
	m.dirty.reports.add(w)
}

// forAccount is the account whose workloads the waypoint is for, "" for none in particular.
func (w *waypoint) forAccount() string {
	if w.obj == nil {
		return ""
	}
	return w.obj.Annotations.Get(mesh.AnnotationForAccount)
}

// moveAccount makes a waypoint that of another account.
func (m *Model) moveAccount(w *waypoint, from, to string) {
	if from != "" {
		dropFrom(m.forAccount, accountName{w.id.ns, from}, w)
	}
	if to != "" {
		addTo(m.forAccount, accountName{w.id.ns, to}, w)
	}
	m.touchAccounts(w.id.ns)
}

// touchAccounts marks the workloads of a namespace that has waypoints for accounts.
func (m *Model) touchAccounts(ns string) {
	n := m.namespaces[ns]
	if n == nil {
		return
	}
	m.touchWorkloadsOf(n)
	for _, s := range n.entries {
		m.dirty.reports.add(s)
	}
}

func (m *Model) putGatewayClass(name string, o *object.GatewayClass) {
	if o == nil {
		delete(m.classes, name)
	} else {
		m.classes[name] = o
	}
	m.touchTargetsOf(object.Key{Kind: object.KindGatewayClass, Name: name})
	// Classes change when a mesh is installed or upgraded; looking at every Gateway then is nothing.
	for _, w := range m.waypoints {
		if w.obj != nil && w.obj.Class == name {
			m.dirty.waypoints.add(w)
		}
	}
}

// settleWaypoints works out again what marked Gateways mean and marks whoever that touches.
func (m *Model) settleWaypoints() {
	for w := range m.dirty.waypoints {
		was := w.fact
		w.fact = m.waypointFact(w)
		m.dirty.allow.add(w)
		m.dirty.reports.add(w)
		if m.cfg.AllowWaypoints && (len(was.accounts) == 0) != (len(w.fact.accounts) == 0) {
			m.touchBehind(w)
		}
		if was.equal(&w.fact) {
			continue
		}
		m.touchTargetsOf(object.Key{Kind: object.KindGateway, Namespace: w.id.ns, Name: w.id.name})
		m.touchSelected(w.sel)
		m.touchUsers(w, was.workload || w.fact.workload)
	}
	m.dirty.waypoints.empty()
}

// touchUsers marks everything that asks for the waypoint. workloads says that namespaces ask for their workloads too.
func (m *Model) touchUsers(w *waypoint, workloads bool) {
	if w.forAccount() != "" {
		m.touchAccounts(w.id.ns)
	}
	for s := range w.services {
		for _, c := range s.slots {
			m.dirty.slots.add(c)
		}
		m.dirty.reports.add(s.ns) // which counts what asks for its waypoint, and a waypoint's own Service does not
	}
	for s := range w.sources {
		m.touch(s)
		if s.kind == object.KindWorkloadEntry {
			m.dirty.reports.add(s)
		}
	}
	for n := range w.namespaces {
		m.dirty.reports.add(n)
		m.touchServicesOf(n)
		if workloads {
			m.touchWorkloadsOf(n)
		}
		for _, s := range n.entries {
			m.dirty.reports.add(s)
		}
	}
}

// touchBehind marks every workload that traffic may reach through the waypoint.
func (m *Model) touchBehind(w *waypoint) {
	for s := range w.services {
		m.touchMembers(s)
	}
	for s := range w.sources {
		m.touch(s)
	}
	for n := range w.namespaces {
		m.touchWorkloadsOf(n)
	}
}

func (f *waypointFact) equal(o *waypointFact) bool {
	return f.ready == o.ready && f.services == o.services && f.workload == o.workload && f.traffic == o.traffic &&
		f.from == o.from && f.why == o.why && f.isWaypoint == o.isWaypoint &&
		slices.Equal(f.identities, o.identities) && sameAddress(f.address, o.address) &&
		f.tunnel.GetProtocol() == o.tunnel.GetProtocol() && f.tunnel.GetPort() == o.tunnel.GetPort() && (f.tunnel == nil) == (o.tunnel == nil) &&
		f.selector.MatchLabels == o.selector.MatchLabels && slices.EqualFunc(f.selector.Expressions, o.selector.Expressions, sameRequirement)
}

func sameRequirement(a, b object.Requirement) bool {
	return a.Key == b.Key && a.Operator == b.Operator && slices.Equal(a.Values, b.Values)
}

func sameAddress(a, b *workload.GatewayAddress) bool {
	return (a == nil) == (b == nil) && a.GetHostname().GetNamespace() == b.GetHostname().GetNamespace() &&
		a.GetHostname().GetHostname() == b.GetHostname().GetHostname() &&
		a.GetAddress().GetNetwork() == b.GetAddress().GetNetwork() &&
		string(a.GetAddress().GetAddress()) == string(b.GetAddress().GetAddress())
}

// report of a Gateway: what keeps a waypoint from working.
func (w *waypoint) report(m *Model) (object.Key, Report) {
	var r Report
	k := object.Key{Kind: object.KindGateway, Namespace: w.id.ns, Name: w.id.name}
	if w.obj == nil || !isWaypoint(w.obj, m.classes[w.obj.Class]) {
		return k, r
	}
	r.About(w.obj)
	if t := w.fact.traffic; t != "none" && !w.fact.services && !w.fact.workload {
		r.warn(status.WaypointForOthers, "metadata.labels", "label istio.io/waypoint-for is "+strconv.Quote(t)+": the waypoint takes no traffic", "set it to service, workload, all or none")
	}
	if len(w.services)+len(w.sources)+len(w.namespaces) > 0 && !w.fact.ready {
		r.warn(status.WaypointNotReady, "status.addresses", "the waypoint is asked for but not ready: "+w.fact.why, "see to it that its pods run")
	}
	return k, r
}
