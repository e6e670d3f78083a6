package waypoint

import (
	"cmp"
	"strings"

	"google.golang.org/protobuf/proto"

	facts "github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
)

// target is one port of one service as a certain Gateway sees it: what routes are applied to.
type target struct {
	gw    gatewayName
	host  model.Host
	ports []*facts.ServicePort
	port  *facts.ServicePort
}

// buildService is the fact of a service behind a waypoint: its ports with their routes, and its policies.
func (m *Model) buildService(r *reader, gw gatewayName, name hostName) proto.Message {
	h, ok := r.host(name.ns, name.host)
	if !ok || gatewayOf(h.Waypoint) != gw && gatewayOf(h.Canary) != gw {
		return nil
	}
	f := &facts.Service{
		Namespace: h.Namespace,
		Hostname:  h.Hostname,
		Name:      h.Object.Name,
		Ports:     r.ports(h.Object),
		Guarded:   h.Guarded,
	}
	for _, p := range f.Ports {
		m.route(r, &target{gw: gw, host: h, ports: f.Ports, port: p})
	}
	f.Policies = m.servicePolicies(r, gw, h)
	r.destination(gw, h.Namespace, h.Hostname)
	return f
}

// ports are those of a Service or ServiceEntry that carry TCP.
func (r *reader) ports(k object.Key) []*facts.ServicePort {
	var ports []*facts.ServicePort
	switch k.Kind {
	case object.KindService:
		s := get[*object.Service](r, k)
		if s == nil {
			return nil
		}
		for _, p := range s.Ports {
			if p.Protocol == object.TCP {
				ports = append(ports, &facts.ServicePort{Number: uint32(p.Port), Name: p.Name, Protocol: protocol(model.PortProtocol(p), cmp.Or(p.AppProtocol, p.Name))})
			}
		}
	case object.KindServiceEntry:
		e := get[*object.ServiceEntry](r, k)
		if e == nil {
			return nil
		}
		for _, p := range e.Ports {
			ports = append(ports, &facts.ServicePort{Number: uint32(p.Number), Name: p.Name, Protocol: protocol(model.NamedProtocol(p.Protocol), p.Protocol)})
		}
	}
	return ports
}

// protocol of a port. Those that Istio knows by name and that are neither HTTP nor TLS are TCP: waiting for a client's
// first bytes would wait for ever where the server speaks first. Istio pkg/config/protocol Parse.
func protocol(p workload.AppProtocol, name string) facts.Protocol {
	prefix, _, _ := strings.Cut(strings.ToLower(name), "-")
	switch prefix {
	case "mongo", "mysql", "redis":
		return facts.Protocol_TCP
	}
	switch p {
	case workload.AppProtocol_HTTP11:
		return facts.Protocol_HTTP1
	case workload.AppProtocol_HTTP2:
		return facts.Protocol_HTTP2
	case workload.AppProtocol_GRPC:
		return facts.Protocol_GRPC
	case workload.AppProtocol_TCP:
		return facts.Protocol_TCP
	case workload.AppProtocol_TLS:
		return facts.Protocol_TLS
	}
	return facts.Protocol_AUTO
}

// speaks says which rules can be about a port.
func speaks(p facts.Protocol) (http, stream bool) {
	switch p {
	case facts.Protocol_AUTO:
		return true, true
	case facts.Protocol_TCP, facts.Protocol_TLS:
		return false, true
	}
	return true, false
}

// destination makes sure that it is known how a service is talked to.
func (r *reader) destination(gw gatewayName, ns, host string) {
	r.wants.add(unitID{phase: destinationPhase, gw: gw, key: object.Key{Namespace: ns}, host: host})
}
