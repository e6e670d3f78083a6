package model

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/ambit-mesh/ambit/api/mesh"
	facts "github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// Condition is a status condition as it would be written to an object.
type Condition struct {
	Type    string `json:"type"`
	Status  bool   `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Warning is something about an object that does not do what its author may think.
type Warning struct {
	Code    status.Code `json:"code,omitempty"`
	Field   string      `json:"field"`
	Problem string      `json:"problem"`
	Fix     string      `json:"fix"`
}

// Report is all there is to say about one object, which About names.
type Report struct {
	Generation int64 `json:"observedGeneration,omitempty"`
	// UID tells an object from one of the same name that it replaced.
	UID        string      `json:"-"`
	Conditions []Condition `json:"conditions,omitempty"`
	// Parents are the conditions of a route towards each of its parents.
	Parents []Part `json:"parents,omitempty"`
	// Listeners are the conditions of each listener of a Gateway.
	Listeners []Part `json:"listeners,omitempty"`
	// Sets is how many ListenerSets add to a Gateway's listeners.
	Sets     int       `json:"attachedListenerSets,omitempty"`
	Warnings []Warning `json:"warnings,omitempty"`
	// Addresses are those a ServiceEntry's hosts were given.
	Addresses []object.HostAddress `json:"addresses,omitempty"`
}

// About says which object the report is about, and which version of it.
func (r *Report) About(o object.Object) {
	m := o.Metadata()
	r.Generation, r.UID = m.Generation, m.UID
}

// Part is what there is to say about one parent of a route or one listener of a Gateway.
type Part struct {
	Name       string      `json:"name"`
	Conditions []Condition `json:"conditions,omitempty"`
	// Attached counts the routes of a listener.
	Attached int      `json:"attachedRoutes,omitempty"`
	Kinds    []string `json:"supportedKinds,omitempty"`
}

func (p Part) equal(o Part) bool {
	return p.Name == o.Name && p.Attached == o.Attached && slices.Equal(p.Conditions, o.Conditions) && slices.Equal(p.Kinds, o.Kinds)
}

// Say adds a condition.
func (p *Part) Say(typ string, status bool, reason, message string) {
	p.Conditions = append(p.Conditions, Condition{typ, status, reason, message})
}

// Empty reports whether there is nothing to say.
func (r Report) Empty() bool {
	return len(r.Conditions)+len(r.Warnings)+len(r.Parents)+len(r.Listeners)+len(r.Addresses) == 0
}

// Equal reports whether two reports say the same.
func (r Report) Equal(o Report) bool {
	if r.Empty() && o.Empty() {
		return true
	}
	return r.Generation == o.Generation && r.UID == o.UID && r.Sets == o.Sets && slices.Equal(r.Conditions, o.Conditions) && slices.Equal(r.Warnings, o.Warnings) && slices.Equal(r.Addresses, o.Addresses) &&
		slices.EqualFunc(r.Parents, o.Parents, Part.equal) && slices.EqualFunc(r.Listeners, o.Listeners, Part.equal)
}

func (r *Report) warn(code status.Code, field, problem, fix string) {
	r.Warnings = append(r.Warnings, Warning{code, field, problem, fix})
}

func (r *Report) say(typ string, status bool, reason, message string) {
	r.Conditions = append(r.Conditions, Condition{typ, status, reason, message})
}

// Condition types.
const (
	WaypointBound     = "istio.io/WaypointBound"
	WaypointMissing   = "istio.io/WaypointMissing"
	VisibilityApplied = "istio.io/VisibilityApplied"
	ZtunnelAccepted   = "ZtunnelAccepted"
	WaypointAccepted  = "WaypointAccepted"
	// WaypointEnforced says whether endpoints refuse what did not come through the waypoint.
	WaypointEnforced = "ambit.io/WaypointEnforced"
)

// istioRoot is where Istio's own installation keeps what is about the whole mesh.
const istioRoot = "istio-system"

// root warns about a policy that was written for the whole mesh of an Istio installation: pasted unchanged, it would be
// about one namespace, and nothing would show that the others go without it.
func (r *Report) root(cfg Config, ns string) {
	if ns == istioRoot && cfg.RootNamespace != istioRoot {
		r.warn(status.OtherRootNamespace, "metadata.namespace", "mesh-wide policies live in namespace "+cfg.RootNamespace+" here: this one is about namespace "+ns+" alone",
			"move it to namespace "+cfg.RootNamespace+", or have it read there: control.rootNamespace="+istioRoot+" among the values of a cluster, ambitd --root-namespace="+istioRoot+" without one")
	}
}

// bound says what came of the wish for a waypoint.
func (r *Report) bound(b binding, guard *facts.Guard) {
	switch {
	case b.to != nil:
		msg := "Successfully attached to waypoint " + b.to.id.String()
		switch {
		case b.ingress:
			msg += ". Ingress traffic goes through the waypoint"
		case b.ingressSaid:
			msg += ". Ingress traffic does not go through the waypoint; label istio.io/ingress-use-waypoint=true changes that"
		}
		if b.problem != nil {
			msg += ". No canary: " + b.problem.message
			r.warn(status.CanaryUnusable, "metadata.labels", b.problem.message, "correct the canary's labels and annotation")
		}
		r.say(WaypointBound, true, "WaypointAccepted", msg)
	case b.problem != nil:
		r.say(WaypointBound, false, b.problem.reason, b.problem.message)
		msg := b.problem.message
		if b.byNamespace && (guard == nil || guard.Open) {
			return // the namespace says it once for all of them
		}
		if b.inherited {
			msg += " (asked for by the labels of the namespace)"
		}
		until := "traffic goes directly, without the waypoint's routes"
		if guard != nil && !guard.Open {
			until = "endpoints refuse all traffic, because of " + strings.Join(guard.Policies, ", ")
		}
		r.warn(b.problem.code(), "metadata.labels", msg+"; until that is mended "+until, b.problem.fix())
	}
}

// guard is what the endpoints of a service guard for it, nil without.
func (s *service) guard() *facts.Guard {
	for _, c := range s.won() {
		if c.watch.guard != nil {
			return c.watch.guard
		}
	}
	return nil
}

// guarded says what becomes of traffic that goes around a waypoint with policies.
func (r *Report) guarded(g *facts.Guard, s *service) {
	if g == nil {
		return
	}
	of := strings.Join(g.Policies, ", ")
	if g.Open {
		r.say(WaypointEnforced, false, "Open", "Traffic that goes around waypoint "+g.Gateway+" is let through and counted, although it escapes "+of)
		r.warn(status.GuardOpen, "metadata.annotations", "traffic that goes around waypoint "+g.Gateway+" escapes "+of, "remove annotation "+mesh.AnnotationEnforcement+"=open to refuse it")
		return
	}
	if n, example := s.outside(); n > 0 {
		text := fmt.Sprintf("%d of its endpoints are not in the mesh, %s for one: what goes around waypoint %s reaches them, and escapes %s", n, example, g.Gateway, of)
		r.say(WaypointEnforced, false, "EndpointsNotInMesh", text)
		r.warn(status.EndpointsNotInMesh, "spec.selector", text, "take the pods into the mesh: label "+mesh.LabelDataplaneMode+"=ambient on their namespace")
		return
	}
	r.say(WaypointEnforced, true, "Closed", "Endpoints refuse what does not come through waypoint "+g.Gateway+", which enforces "+of)
}

// report of a service: names and addresses it did not get, and its waypoint.
func (s *service) report(m *Model) (object.Key, Report) {
	var r Report
	if s.obj == nil {
		return s.key(), r
	}
	r.About(s.obj)
	entry, _ := s.obj.(*object.ServiceEntry)
	bound := m.bindService(s)
	if len(s.slots) > 0 && !s.hidden {
		guard := s.guard()
		r.bound(bound, guard)
		r.guarded(guard, s)
	}
	if v, ok := firstOf(mesh.AnnotationEnforcement, s.obj.Metadata().Annotations); ok && v != mesh.EnforcementOpen && v != mesh.EnforcementClosed {
		r.warn(status.DoubtfulValue, "metadata.annotations", mesh.AnnotationEnforcement+" is "+strconv.Quote(v)+", which counts as closed", "write open or closed")
	}
	for _, c := range s.slots {
		if c.winner != s && c.winner != nil {
			r.warn(status.HostConflict, "spec.hosts", "name "+c.hostname+" is taken by "+c.winner.key().String()+" in the same namespace",
				"use another host, or delete one of the two")
			continue
		}
		m.reportAddresses(&r, c)
	}
	if entry != nil {
		m.reportEntry(&r, entry, s, bound)
	}
	return s.key(), r
}

func (m *Model) reportAddresses(r *Report, c *slot) {
	for _, p := range c.vips {
		if h := m.holder(c, p); h != nil {
			field := "spec.clusterIPs"
			if c.winner.kind == object.KindServiceEntry {
				field = "spec.addresses"
			}
			r.warn(status.AddressConflict, field, "address "+addressText(p)+" belongs to "+h.key().String()+": "+c.hostname+" goes without it",
				"give it an address of its own")
			continue
		}
		if other := m.sharer(c, p); other != nil {
			r.warn(status.AddressConflict, "spec.addresses", "address "+addressText(p)+" is shared with "+other.key().String()+": clients of other namespaces may reach either",
				"give each an address of its own, or leave the addresses out")
		}
		if !p.IsSingleIP() {
			continue
		}
		if pod := m.podAt(p.Addr()); pod != nil {
			r.warn(status.AddressConflict, "spec.clusterIPs", "address "+addressText(p)+" is that of pod "+pod.ns.name+"/"+pod.name+", which gets the traffic",
				"take virtual addresses from a range that pods do not use")
		}
	}
}

// sharer is another service that was given the same address as the slot, nil without one.
func (m *Model) sharer(c *slot, p netip.Prefix) *service {
	var first *service
	for o := range m.vips[p] {
		if o.hostname != c.hostname && o.winner != c.winner && m.holder(o, p) == nil && (first == nil || better(o.winner, first)) {
			first = o.winner
		}
	}
	return first
}

func (m *Model) reportEntry(r *Report, e *object.ServiceEntry, s *service, b binding) {
	wildcard := slices.ContainsFunc(e.Hosts, isWildcard)
	if b.to == nil && wildcard {
		r.say(WaypointMissing, true, "NoWaypointForWildcardService", "A wildcard host takes effect once a waypoint is bound to the ServiceEntry")
	} else if b.to == nil && isRacing(e) {
		r.say(WaypointMissing, true, "NoWaypointForRacingConnectStrategy", "The connect strategy takes effect once a waypoint is bound to the ServiceEntry")
	}
	if len(m.cfg.Visibility) > 0 {
		switch m.visibility(s) {
		case Public:
			r.say(VisibilityApplied, true, "Public", "Every namespace sees the ServiceEntry")
		case NamespaceOnly:
			r.say(VisibilityApplied, true, "Namespace", "Only its own namespace sees the ServiceEntry")
		}
	}
	if len(e.ExportTo) > 0 {
		m.reportExport(r, e, s)
	}
	if !resolves(e.Resolution) && e.Resolution != object.ResolutionNone && len(e.Endpoints) == 0 && !e.WorkloadSelector.Present {
		r.warn(status.EndpointUnusable, "spec.endpoints", "resolution "+e.Resolution.String()+" without endpoints or workloadSelector leaves nothing to connect to", "list endpoints")
	}
	seen := map[string]bool{}
	for i := range e.Endpoints {
		a := address(&e.Endpoints[i])
		switch {
		case a == "":
			r.warn(status.EndpointUnusable, "spec.endpoints", "an endpoint has no address the mesh could reach; unix sockets are not supported", "give an IP address or a hostname")
		case seen[a]:
			r.warn(status.EndpointUnusable, "spec.endpoints", "endpoint "+a+" is listed twice; the first one counts", "remove the second")
		}
		seen[a] = true
	}
	if m.autoAllocates(e) {
		for i, h := range e.Hosts {
			if slices.Contains(e.Hosts[:i], h) {
				continue
			}
			for _, a := range m.assigned(e, h) {
				r.Addresses = append(r.Addresses, object.HostAddress{Host: h, Address: a})
			}
		}
	}
	if m.exhausted(e) {
		r.warn(status.AddressConflict, "spec.addresses", "the range for automatic IPv4 addresses is used up", "set spec.addresses")
	}
}

// reportExport says where exportTo promises something else than there is. The mesh as a whole says who sees ServiceEntries.
func (m *Model) reportExport(r *Report, e *object.ServiceEntry, s *service) {
	own := true // it asks for its own namespace alone
	for _, ns := range e.ExportTo {
		own = own && (ns == "." || ns == e.Namespace)
	}
	switch v := m.visibility(s); {
	case v == Public && !slices.Contains(e.ExportTo, "*"):
		r.warn(status.NotHidden, "spec.exportTo", "node proxies do not read exportTo: every namespace sees the hosts",
			"remove exportTo, or have all ServiceEntries seen by their own namespaces alone: control.serviceEntryVisibility=namespace among the values of a cluster, ambitd --service-entry-visibility=namespace without one")
	case v == NamespaceOnly && !own:
		r.warn(status.NotHidden, "spec.exportTo", "node proxies do not read exportTo: only namespace "+e.Namespace+" sees the hosts, as control.serviceEntryVisibility says for the whole mesh",
			"write a ServiceEntry in each namespace that is to see them")
	}
}

// Warn adds a warning.
func (r *Report) Warn(code status.Code, field, problem, fix string) {
	r.warn(code, field, problem, fix)
}

// Say adds a condition.
func (r *Report) Say(typ string, status bool, reason, message string) {
	r.say(typ, status, reason, message)
}
