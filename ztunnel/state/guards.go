package state

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/ca/identity"
)

// Guards is what keeps traffic from going around a waypoint that enforces policy. It is immutable.
type Guards struct {
	List []Guard
	// Waypoints are bound to the workload or one of its services: what they say of the client they speak for is believed.
	Waypoints []identity.ID
	// Unreadable says why the guards could not be read. List then holds one guard that nothing gets past: what was meant to be
	// kept out is not known.
	Unreadable error
}

// Guard demands that traffic comes through a waypoint.
type Guard struct {
	Ports     []uint16      // target ports; all when empty
	Waypoints []identity.ID // that enforce the policies; none: everything is refused
	Gateway   string        // namespace/name, for people; like the two below
	Service   string        // namespace/hostname that is guarded, empty for the workload itself
	Policies  []string      // "AuthorizationPolicy namespace/name"
	Open      bool          // the owner accepts traffic that goes around
}

// refusal is what the control plane is told.
func (g *Guards) refusal() error {
	if g == nil || g.Unreadable == nil {
		return nil
	}
	return fmt.Errorf("%w; until it can be read nothing is let through", g.Unreadable)
}

// maxGuards bounds what is asked for every connection. A workload is an endpoint of a handful of services.
const maxGuards = 1000

// Trusts reports whether an identity is that of a bound waypoint. Nil trusts nobody.
func (g *Guards) Trusts(id identity.ID) bool {
	return g != nil && !id.IsZero() && slices.Contains(g.Waypoints, id)
}

// Covers reports whether the guard is about a port.
func (g *Guard) Covers(port uint16) bool { return len(g.Ports) == 0 || slices.Contains(g.Ports, port) }

// decodeGuards reads the extension. A workload or service without one has no guards.
func decodeGuards(extensions []*workload.Extension) *Guards {
	var found *workload.Extension
	for _, e := range extensions {
		if e.GetName() != mesh.ExtensionGuards {
			continue
		}
		if found != nil {
			return unreadable(errors.New("is there twice"))
		}
		found = e
	}
	if found == nil {
		return nil
	}
	in := new(waypoint.Guards)
	if err := found.GetConfig().UnmarshalTo(in); err != nil {
		return unreadable(fmt.Errorf("is no %s: %w", in.ProtoReflect().Descriptor().FullName(), err))
	}
	g, err := readGuards(in)
	if err != nil {
		return unreadable(err)
	}
	return g
}

func unreadable(err error) *Guards {
	return &Guards{List: []Guard{{}}, Unreadable: fmt.Errorf("extension %s: %w", mesh.ExtensionGuards, err)}
}

func readGuards(in *waypoint.Guards) (*Guards, error) {
	if n := len(in.GetGuards()); n > maxGuards {
		return nil, fmt.Errorf("%d guards are more than the %d a workload may have", n, maxGuards)
	}
	out := &Guards{}
	var err error
	if out.Waypoints, err = readIDs(in.GetWaypoints()); err != nil {
		return nil, fmt.Errorf("waypoints%w", err)
	}
	for i, raw := range in.GetGuards() {
		g := Guard{Gateway: shared(raw.GetGateway()), Service: shared(raw.GetService()), Open: raw.GetOpen()}
		for j, p := range raw.GetPorts() {
			if p > math.MaxUint16 { // 0 is a port that could not be resolved: nothing gets there
				return nil, fmt.Errorf("guards[%d].ports[%d]: %d is not a port", i, j, p)
			}
			g.Ports = append(g.Ports, uint16(p))
		}
		if g.Waypoints, err = readIDs(raw.GetWaypoints()); err != nil {
			return nil, fmt.Errorf("guards[%d].waypoints%w", i, err)
		}
		for _, p := range raw.GetPolicies() {
			g.Policies = append(g.Policies, shared(p))
		}
		out.List = append(out.List, g)
	}
	return out, nil
}

func readIDs(in []string) ([]identity.ID, error) {
	var out []identity.ID
	for i, s := range in {
		id, err := identity.Parse(s)
		if err != nil {
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}
		out = append(out, identity.ID{TrustDomain: shared(id.TrustDomain), Namespace: shared(id.Namespace), ServiceAccount: shared(id.ServiceAccount)})
	}
	return out, nil
}
