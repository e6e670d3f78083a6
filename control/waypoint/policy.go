package waypoint

import (
	"cmp"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/mesh"
	facts "github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
)

// bound collects policies that are bound to certain objects, or, at an edge gateway, chosen by labels.
type bound struct {
	authorization  []*object.AuthorizationPolicy
	authentication []*object.RequestAuthentication
	extensions     []*object.Extension
	limits         []*object.LocalRateLimitPolicy
	telemetry      []*object.Telemetry
}

func (b *bound) add(o object.Object) {
	switch o := o.(type) {
	case *object.AuthorizationPolicy:
		b.authorization = appendNew(b.authorization, o)
	case *object.RequestAuthentication:
		b.authentication = appendNew(b.authentication, o)
	case *object.Extension:
		b.extensions = appendNew(b.extensions, o)
	case *object.LocalRateLimitPolicy:
		b.limits = appendNew(b.limits, o)
	case *object.Telemetry:
		b.telemetry = appendNew(b.telemetry, o)
	}
}

func appendNew[T comparable](all []T, v T) []T {
	if slices.Contains(all, v) {
		return all
	}
	return append(all, v)
}

// on adds what is bound to an object by reference. only, when not empty, is the namespace such policies must be of.
func (r *reader) on(b *bound, k object.Key, only string) {
	for _, o := range list[object.Object](r, topic{policiesOn, k}) {
		if (only == "" || o.Metadata().Namespace == only) && r.wholly(o, k) {
			b.add(o)
		}
	}
}

// wholly reports whether one of an object's references is for all of its target: facts know no policies for one port.
func (r *reader) wholly(o object.Object, k object.Key) bool {
	for _, t := range targetsOf(o) {
		if targetKey(o.Metadata().Namespace, t) == k && r.wholeSection(t, k) {
			return true
		}
	}
	return false
}

// wholeSection reports whether a reference is for all of its target: it names no section, or the only one there is.
func (r *reader) wholeSection(t object.TargetRef, k object.Key) bool {
	if t.SectionName == "" {
		return true
	}
	if k.Kind == object.KindGateway {
		g := get[*object.Gateway](r, k)
		return g != nil && len(g.Listeners) == 1 && g.Listeners[0].Name == t.SectionName
	}
	ports := r.ports(k)
	return len(ports) == 1 && ports[0].Name == t.SectionName
}

func targetsOf(o object.Object) []object.TargetRef {
	switch o := o.(type) {
	case *object.AuthorizationPolicy:
		return o.TargetRefs
	case *object.RequestAuthentication:
		return o.TargetRefs
	case *object.Extension:
		return o.TargetRefs
	case *object.LocalRateLimitPolicy:
		return o.TargetRefs
	case *object.Telemetry:
		return o.TargetRefs
	}
	return nil
}

// chosen adds what is bound to nothing by reference but chooses an edge gateway by the labels of its pods, in its own
// namespace and in the root one. Waypoints are never chosen so. Istio pilot/pkg/model/policyattachment.go ShouldAttachPolicy.
func (r *reader) chosen(b *bound, g *object.Gateway) {
	labels := g.Infrastructure.Labels.Map()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[mesh.LabelGatewayName], labels[mesh.LabelGatewayClassName] = g.Name, g.Class
	pods := object.MakeLabels(labels)
	for _, ns := range []string{r.m.cfg.RootNamespace, g.Namespace} {
		for _, o := range list[object.Object](r, named(policiesIn, ns, "")) {
			if s := selectorOf(o); !s.Present || s.Matches(pods) {
				b.add(o)
			}
		}
	}
}

func selectorOf(o object.Object) object.Selector {
	switch o := o.(type) {
	case *object.AuthorizationPolicy:
		return o.Selector
	case *object.RequestAuthentication:
		return o.Selector
	case *object.Extension:
		return o.Selector
	case *object.Telemetry:
		return o.Selector
	}
	return object.Selector{}
}

// gatewayPolicies apply to everything behind a Gateway.
func (m *Model) gatewayPolicies(r *reader, gw gatewayName, g *object.Gateway, kind facts.Gateway_Kind) *facts.Policies {
	var b bound
	r.on(&b, object.Key{Kind: object.KindGatewayClass, Name: g.Class}, m.cfg.RootNamespace)
	r.on(&b, gw.key(), "")
	if kind == facts.Gateway_EDGE {
		r.chosen(&b, g)
	}
	p := m.policies(r, gw, &b)
	// Nothing at all is something to say when the mesh configuration, which would count otherwise, says something.
	if p.Telemetry = r.telemetry(gw, b.telemetry); orNil(r.meshTelemetry(gw)) == nil {
		p.Telemetry = orNil(p.Telemetry)
	}
	return p
}

// servicePolicies apply to one service.
func (m *Model) servicePolicies(r *reader, gw gatewayName, h model.Host) *facts.Policies {
	var b bound
	r.on(&b, h.Object, "")
	ports := r.ports(h.Object)
	b.extensions = slices.DeleteFunc(b.extensions, func(e *object.Extension) bool { return !onPorts(e, ports) })
	p := m.policies(r, gw, &b)
	if len(b.telemetry) > 0 {
		g := get[*object.Gateway](r, gw.key())
		var all bound
		if g != nil {
			r.on(&all, object.Key{Kind: object.KindGatewayClass, Name: g.Class}, m.cfg.RootNamespace)
		}
		r.on(&all, gw.key(), "")
		p.Telemetry = r.telemetry(gw, append(all.telemetry, b.telemetry...))
	}
	if proto.Size(p) == 0 {
		return nil
	}
	return p
}

// policies turns objects into facts, in an order that does not depend on anything but the objects.
func (m *Model) policies(r *reader, gw gatewayName, b *bound) *facts.Policies {
	p := &facts.Policies{}
	for _, a := range b.authorization {
		p.Authorization = append(p.Authorization, m.authorization(r, gw, a))
	}
	for _, a := range b.authentication {
		p.Authentication = append(p.Authentication, r.authentication(a))
	}
	for _, l := range b.limits {
		limit := proto.Clone(l.Spec).(*facts.RateLimit)
		limit.Namespace, limit.Name = l.Namespace, l.Name
		p.RateLimits = append(p.RateLimits, limit)
	}
	extensions := slices.Clone(b.extensions)
	slices.SortStableFunc(extensions, func(a, b *object.Extension) int {
		return cmp.Or(-cmp.Compare(a.Spec.GetPriority(), b.Spec.GetPriority()), byAge(&a.Meta, &b.Meta))
	})
	for _, e := range extensions {
		m.extension(r, gw, e, p)
	}
	slices.SortFunc(p.Authorization, func(a, b *facts.Authorization) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	slices.SortFunc(p.Authentication, func(a, b *facts.Authentication) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return p
}
