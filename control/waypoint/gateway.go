package waypoint

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ambit-mesh/ambit/api/mesh"
	facts "github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
)

// gateway is a Gateway with its class; ok is false for Gateways of somebody else.
func (r *reader) gateway(gw gatewayName) (g *object.Gateway, kind facts.Gateway_Kind, ok bool) {
	if g = get[*object.Gateway](r, gw.key()); g == nil {
		return nil, 0, false
	}
	class := get[*object.GatewayClass](r, object.Key{Kind: object.KindGatewayClass, Name: g.Class})
	switch {
	case model.IsWaypoint(g, class):
		return g, facts.Gateway_WAYPOINT, true
	case g.Class == mesh.GatewayClassEastWest:
		return g, facts.Gateway_EAST_WEST, true
	case model.IsEdge(g, class):
		return g, facts.Gateway_EDGE, true
	}
	return g, 0, false
}

// buildGateway is the fact of a Gateway. It wants everything behind it.
func (m *Model) buildGateway(r *reader, gw gatewayName) proto.Message {
	g, kind, ok := r.gateway(gw)
	if !ok {
		return nil
	}
	f := &facts.Gateway{
		Namespace:    gw.ns,
		Name:         gw.name,
		Kind:         kind,
		Class:        g.Class,
		TrustDomains: r.trustDomains(),
		Mesh:         m.meshSettings(r, gw),
	}
	if kind == facts.Gateway_EDGE {
		m.buildEdge(r, g, f)
	} else {
		traffic := trafficOf(r, g)
		f.Services = traffic == "service" || traffic == "all"
		f.Workloads = traffic == "workload" || traffic == "all"
		for h := range r.behind(gw) {
			r.wants.add(unitID{phase: servicePhase, gw: gw, key: object.Key{Namespace: h.ns}, host: h.host})
		}
	}
	f.Policies = m.gatewayPolicies(r, gw, g, kind)
	return f
}

// trafficOf is label istio.io/waypoint-for of a Gateway, else of its class.
func trafficOf(r *reader, g *object.Gateway) string {
	if v, ok := g.Labels.Lookup(mesh.LabelWaypointFor); ok {
		return v
	}
	if c := get[*object.GatewayClass](r, object.Key{Kind: object.KindGatewayClass, Name: g.Class}); c != nil {
		if v, ok := c.Labels.Lookup(mesh.LabelWaypointFor); ok {
			return v
		}
	}
	return "service"
}

// trustDomains are the mesh's own, then its aliases.
func (r *reader) trustDomains() []string {
	all := []string{r.m.cfg.TrustDomain}
	for _, a := range r.mesh().TrustDomainAliases {
		if a != r.m.cfg.TrustDomain {
			all = append(all, a)
		}
	}
	return all
}

// meshSettings is what the mesh configuration says about every proxy.
func (m *Model) meshSettings(r *reader, gw gatewayName) *facts.MeshSettings {
	c := r.mesh()
	s := &facts.MeshSettings{
		PathNormalization:     c.PathNormalization,
		ClusterId:             m.cfg.ClusterID,
		Network:               m.network(r),
		ClusterDomain:         m.cfg.ClusterDomain,
		DefaultRetry:          c.DefaultRetry,
		Telemetry:             orNil(r.meshTelemetry(gw)),
		TrustedProxies:        c.TrustedProxies,
		LocalityLoadBalancing: c.Locality.GetEnabled() == nil || c.Locality.GetEnabled().GetValue(),
	}
	if c.ConnectTimeout != nil {
		s.ConnectTimeout = durationpb.New(*c.ConnectTimeout)
	}
	return s
}

// network is that of everything which does not say otherwise.
func (m *Model) network(r *reader) string {
	if n, ok := r.labels(m.cfg.RootNamespace).Lookup(mesh.LabelNetwork); ok {
		return n
	}
	return m.cfg.Network
}
