package authz

import (
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

// Passage is what the guards of a destination say to a connection. The zero Passage lets it through.
type Passage struct {
	// Guard is the one that the connection goes around, nil for none.
	Guard *state.Guard
	// Open says that it is let through all the same.
	Open       bool
	unreadable error
}

// Guard decides whether a connection came the way the guards demand: through a waypoint that enforces the policy. Only the
// peer's proven identity tells; a connection in plaintext came through none.
//
// A port may be guarded more than once, for several services that share a workload. The connection does not say which of
// them was called, so having come through the waypoint of one of them is enough: that waypoint enforced what is bound to
// the service that was called. A guard without any waypoint is passed by nobody.
func Guard(g *state.Guards, peer identity.ID, port uint16) Passage {
	if g == nil {
		return Passage{}
	}
	var around *state.Guard
	through := false
	for i := range g.List {
		guard := &g.List[i]
		if !guard.Covers(port) {
			continue
		}
		switch {
		case len(guard.Waypoints) == 0 && !guard.Open:
			return Passage{Guard: guard, unreadable: g.Unreadable}
		case !peer.IsZero() && slices.Contains(guard.Waypoints, peer):
			through = true
		case around == nil || around.Open && !guard.Open:
			around = guard
		}
	}
	if through || around == nil {
		return Passage{}
	}
	return Passage{Guard: around, Open: around.Open}
}

// Error returns nil when the connection is let through, else an error that names what it went around.
func (p Passage) Error() error {
	if p.Guard == nil || p.Open {
		return nil
	}
	return telemetry.Fail(telemetry.WaypointRequired, p.String(), nil)
}

// String says what the connection went around, for logs and for the peer.
func (p Passage) String() string {
	switch g := p.Guard; {
	case g == nil:
		return ""
	case p.unreadable != nil:
		return "what must come through a waypoint could not be read, so nothing is let through: " + p.unreadable.Error()
	default:
		what := "this workload"
		if g.Service != "" {
			what = "service " + g.Service
		}
		text := what + " must be reached through waypoint " + orUnknown(g.Gateway)
		if len(g.Waypoints) == 0 {
			text += ", which does not exist"
		}
		if len(g.Policies) > 0 {
			text += ": it enforces " + some(g.Policies)
		}
		return text
	}
}

func orUnknown(s string) string {
	if s == "" {
		return "(unknown)"
	}
	return s
}

// some keeps a long list readable.
func some(list []string) string {
	const most = 3
	if len(list) <= most {
		return strings.Join(list, ", ")
	}
	return strings.Join(list[:most], ", ") + " and others"
}
