package route

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/ztunnel/state"
)

// wanted is the service port a connection is for. Users dial ports that a service has. A waypoint's port is looked up by us
// and not dialed by anybody: where the waypoint ends the tunnel itself it need not be on the service.
type wanted struct {
	port     uint16
	waypoint bool
	// anyHealth takes endpoints that are not healthy, too.
	anyHealth bool
}

// target finds the port an endpoint serves a service's port on: what the endpoint says itself, else what the service says
// for all. istio/ztunnel src/state.rs load_balance and ServiceResolutionMode.
func (p wanted) target(svc *state.Service, e *state.Endpoint) (uint16, bool) {
	of, known := svc.Port(p.port)
	tunnel := p.waypoint && e.Workload.AppTunnel != nil
	if !known && !tunnel {
		return 0, false
	}
	if t := e.TargetPort(p.port); t != 0 {
		return t, true
	}
	if of.Target != 0 {
		return of.Target, true
	}
	return p.port, tunnel
}

// pick chooses an endpoint of a service by the service's rules, weighted by capacity; nil when none may be used.
func (r *router) pick(svc *state.Service, port wanted) *state.Endpoint {
	list, most := r.s.Endpoints(svc).List()
	if len(list) == 0 || most == 0 {
		return nil
	}
	if len(svc.Preference) == 0 || svc.Mode == state.Unspecified || svc.Mode == state.Passthrough {
		if e := r.probe(svc, list, most, port); e != nil {
			return e
		}
	}
	return r.scan(svc, list, port)
}

// probes is how often a large service is tried blindly before its endpoints are counted.
const probes = 8

// probe draws endpoints at random and keeps one with a chance proportional to its capacity, which is the same
// distribution as counting them all, without looking at ten thousand endpoints for each connection.
func (r *router) probe(svc *state.Service, list []*state.Endpoint, most uint32, port wanted) *state.Endpoint {
	for range probes {
		e := list[r.rng.n(uint64(len(list)))]
		if c := uint64(e.Workload.Capacity); c < uint64(most) && r.rng.n(uint64(most)) >= c {
			continue
		}
		if r.usable(svc, e, port) {
			return e
		}
	}
	return nil
}

// scan looks at every endpoint, keeps those of the best rank, and draws one of them by capacity.
func (r *router) scan(svc *state.Service, list []*state.Endpoint, port wanted) *state.Endpoint {
	var chosen *state.Endpoint
	var total uint64
	best := -1
	for _, e := range list {
		if e.Workload.Capacity == 0 || !r.usable(svc, e, port) {
			continue
		}
		rank, all := r.rank(svc, e.Workload)
		switch {
		case svc.Mode == state.Strict && !all, svc.Mode == state.Failover && rank < best:
			continue
		case svc.Mode == state.Failover && rank > best:
			best, total, chosen = rank, 0, nil
		}
		total += uint64(e.Workload.Capacity)
		if r.rng.n(total) < uint64(e.Workload.Capacity) {
			chosen = e
		}
	}
	return chosen
}

// usable reports whether an endpoint can be used at all.
func (r *router) usable(svc *state.Service, e *state.Endpoint, port wanted) bool {
	return r.obstacle(svc, e, port) == ""
}

// obstacle says what is in the way of using an endpoint, "" for nothing: it is healthy or health does not matter, it can be
// reached, and it serves the port. One without an address can be reached only through the gateway of another network.
func (r *router) obstacle(svc *state.Service, e *state.Endpoint, port wanted) string {
	w := e.Workload
	switch {
	case !w.Healthy && !svc.AllowUnhealthy && !port.anyHealth:
		return "unhealthy"
	case slices.Contains(r.req.Avoid, w.UID):
		return "tried in vain"
	case len(w.Addrs) == 0 && w.Hostname == "" && (w.NetworkGateway == nil || w.Network == r.req.Network):
		return "without an address"
	}
	if _, ok := port.target(svc, e); !ok {
		return "without the port"
	}
	return ""
}

// unusable says why pick found nothing.
func (r *router) unusable(svc *state.Service, port wanted) string {
	list, _ := r.s.Endpoints(svc).List()
	if len(list) == 0 {
		return "it has no endpoints"
	}
	reasons := map[string]int{}
	for _, e := range list {
		why := cmp.Or(r.obstacle(svc, e, port), "elsewhere")
		if e.Workload.Capacity == 0 {
			why = "without weight"
		}
		reasons[why]++
	}
	var of []string
	for _, why := range slices.Sorted(maps.Keys(reasons)) {
		of = append(of, fmt.Sprintf("%d %s", reasons[why], why))
	}
	return fmt.Sprintf("of %d endpoints none can be used: %s", len(list), strings.Join(of, ", "))
}

// rank counts how many of the service's preferences the workload shares with the client before the first it does not, and
// says whether it shares all. A leading NETWORK preference is stronger than all others together, so that the own network
// is left only when it has nothing; a workload elsewhere is still compared by the rest. istio/ztunnel src/state.rs
// load_balance.
func (r *router) rank(svc *state.Service, w *state.Workload) (rank int, all bool) {
	all = true
	for i, scope := range svc.Preference {
		ok := r.shares(scope, w)
		all = all && ok
		leading := i == 0 && scope == state.Network
		switch {
		case ok && leading:
			rank += len(svc.Preference)
		case ok:
			rank++
		case !leading:
			return rank, false
		}
	}
	return rank, all
}

func (r *router) shares(scope state.Scope, w *state.Workload) bool {
	src := r.req.Source
	switch scope {
	case state.Region:
		return locality(src).Region == locality(w).Region
	case state.Zone:
		return locality(src).Zone == locality(w).Zone
	case state.Subzone:
		return locality(src).Subzone == locality(w).Subzone
	case state.Node:
		return src.Node == w.Node
	case state.Cluster:
		return src.ClusterID == w.ClusterID
	case state.Network:
		return src.Network == w.Network
	}
	return true
}

var nowhere state.Locality

func locality(w *state.Workload) *state.Locality {
	if w.Locality == nil {
		return &nowhere
	}
	return w.Locality
}
