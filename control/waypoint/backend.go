package waypoint

import (
	"fmt"
	"slices"

	"github.com/ambit-mesh/ambit/api/mesh"
	facts "github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
)

const (
	groupGateway = "gateway.networking.k8s.io"
	groupIstio   = "networking.istio.io"
)

// trouble is why a reference leads nowhere, with a reason from the Gateway API's list.
type trouble struct{ reason, text string }

// resolve fills in where a backend of a route of the Gateway API leads. granted says that references into other
// namespaces need a ReferenceGrant.
func (r *reader) resolve(o object.Object, ref *object.BackendRef, b *facts.Backend, gw gatewayName, granted bool) {
	h, port, t := r.backend(o, ref, granted)
	if t != nil {
		b.Broken = t.text
		return
	}
	b.Namespace, b.Hostname, b.Port = h.Namespace, h.Hostname, port
	r.destination(gw, h.Namespace, h.Hostname)
}

// backend finds the service a reference names.
func (r *reader) backend(o object.Object, ref *object.BackendRef, granted bool) (model.Host, uint32, *trouble) {
	from := o.Key()
	none := func(reason, format string, args ...any) (model.Host, uint32, *trouble) {
		return model.Host{}, 0, &trouble{reason, fmt.Sprintf(format, args...)}
	}
	var h model.Host
	ok := false
	switch {
	case ref.Kind == "Service" && (ref.Group == "" || ref.Group == "core"):
		if granted && !r.granted(from, ref.Ref) {
			return none("RefNotPermitted", "Service %s/%s is in another namespace and no ReferenceGrant there permits %s to name it", ref.Namespace, ref.Name, from)
		}
		h, ok = r.host(ref.Namespace, mesh.ServiceHostname(ref.Namespace, ref.Name, r.m.cfg.ClusterDomain))
		if !ok {
			return none("BackendNotFound", "there is no Service %s/%s", ref.Namespace, ref.Name)
		}
	case ref.Kind == "ServiceEntry" && ref.Group == groupIstio:
		if granted && !r.granted(from, ref.Ref) {
			return none("RefNotPermitted", "ServiceEntry %s/%s is in another namespace and no ReferenceGrant there permits %s to name it", ref.Namespace, ref.Name, from)
		}
		names := r.namesOf(object.Key{Kind: object.KindServiceEntry, Namespace: ref.Namespace, Name: ref.Name})
		if len(names) == 0 {
			return none("BackendNotFound", "there is no ServiceEntry %s/%s", ref.Namespace, ref.Name)
		}
		h, _ = r.host(ref.Namespace, names[0])
	case ref.Kind == "Hostname" && ref.Group == groupIstio:
		if h, ok = r.find(from.Namespace, ref.Name); !ok {
			return none("BackendNotFound", "there is no service with the hostname %s", ref.Name)
		}
	default:
		return none("InvalidKind", "a %s of group %q cannot be a backend", ref.Kind, ref.Group)
	}
	if ref.Port == 0 {
		return none("UnsupportedValue", "the reference to %s %s/%s names no port", ref.Kind, ref.Namespace, ref.Name)
	}
	if !hasPort(r.ports(h.Object), uint32(ref.Port)) {
		return none("BackendNotFound", "%s has no port %d", h.Object, ref.Port)
	}
	return h, uint32(ref.Port), nil
}

func hasPort(ports []*facts.ServicePort, n uint32) bool {
	return slices.ContainsFunc(ports, func(p *facts.ServicePort) bool { return p.Number == n })
}

// granted reports whether an object may name another one: of its own namespace, or one that a ReferenceGrant is for.
func (r *reader) granted(from object.Key, to object.Ref) bool {
	if from.Namespace == to.Namespace {
		return true
	}
	if to.Group == "core" {
		to.Group = ""
	}
	for _, g := range list[*object.ReferenceGrant](r, named(grantsIn, to.Namespace, "")) {
		if g.Permits(groupGateway, from.Kind.String(), from.Namespace, to) {
			return true
		}
	}
	return false
}

// resolveHost fills in where a backend of a VirtualService leads: its hostname is complete, its namespace not known.
// self is the port that the request came to, which is meant when the backend names none.
func (r *reader) resolveHost(from string, b *facts.Backend, gw gatewayName, self uint32) {
	if b.Broken != "" {
		return
	}
	h, ok := r.find(from, b.Hostname)
	if !ok {
		b.Broken = fmt.Sprintf("there is no service with the hostname %s", b.Hostname)
		return
	}
	b.Namespace = h.Namespace
	ports := r.ports(h.Object)
	switch {
	case b.Port != 0:
	case len(ports) == 1:
		b.Port = ports[0].Number
	default:
		b.Port = self
	}
	if !hasPort(ports, b.Port) {
		b.Broken = fmt.Sprintf("%s has no port %d", h.Object, b.Port)
		return
	}
	if b.Subset != "" && !r.hasSubset(gw, h, b.Subset) {
		b.Broken = fmt.Sprintf("no DestinationRule gives %s a subset %q", b.Hostname, b.Subset)
		return
	}
	r.destination(gw, h.Namespace, h.Hostname)
}

// hasSubset reports whether the rules for a service have a subset of that name.
func (r *reader) hasSubset(gw gatewayName, h model.Host, name string) bool {
	for _, d := range r.destinationRules(gw, h) {
		if slices.ContainsFunc(d.Subsets, func(s *facts.Subset) bool { return s.Name == name }) {
			return true
		}
	}
	return false
}
