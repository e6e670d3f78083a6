package admin

import (
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/state"
)

type guardJSON struct {
	Ports     []uint16      `json:"ports,omitempty"`
	Waypoints []identity.ID `json:"waypoints"`
	Gateway   string        `json:"gateway,omitempty"`
	Service   string        `json:"service,omitempty"`
	Policies  []string      `json:"policies,omitempty"`
	Open      bool          `json:"open,omitempty"`
}

type guardsJSON struct {
	Guards     []guardJSON   `json:"guards"`
	Waypoints  []identity.ID `json:"waypoints"`
	Unreadable string        `json:"unreadable,omitempty"`
}

// dumpGuards shows what must come through a waypoint. Istio's tools do not know the key and pass over it.
func dumpGuards(g *state.Guards) *guardsJSON {
	if g == nil {
		return nil
	}
	j := &guardsJSON{Guards: []guardJSON{}, Waypoints: append([]identity.ID{}, g.Waypoints...)}
	for _, one := range g.List {
		j.Guards = append(j.Guards, guardJSON{one.Ports, append([]identity.ID{}, one.Waypoints...), one.Gateway, one.Service, one.Policies, one.Open})
	}
	if g.Unreadable != nil {
		j.Unreadable = g.Unreadable.Error()
	}
	return j
}
