package waypoint

import (
	"cmp"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	facts "github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/object"
)

// extension adds a WasmPlugin, TrafficExtension or ExtensionPolicy. What cannot be carried out is left out when it is to
// fail open, and fails all requests when not. Connections that are not HTTP are none of its business.
func (m *Model) extension(r *reader, gw gatewayName, e *object.Extension, p *facts.Policies) {
	if !serverSide(e) {
		return
	}
	f, why := m.extensionFact(r, gw, e)
	if why == "" {
		p.Extensions = append(p.Extensions, f)
		return
	}
	if !e.Spec.GetFailOpen() {
		f := &facts.Extension{
			Namespace: e.Namespace, Name: e.Name, Phase: e.Spec.GetPhase(), Priority: e.Spec.GetPriority(),
			Broken: fmt.Sprintf("%s cannot be carried out: %s", e.Key(), why),
		}
		if e.Spec.GetWasm() != nil {
			f.Kind = &facts.Extension_Wasm{Wasm: &facts.Wasm{}}
		}
		p.Extensions = append(p.Extensions, f)
	}
}

func (m *Model) extensionFact(r *reader, gw gatewayName, e *object.Extension) (f *facts.Extension, why string) {
	if e.Broken != "" || e.Spec == nil {
		return nil, cmp.Or(e.Broken, "it says nothing")
	}
	if foreign := e.Namespace != gw.ns && e.Namespace != m.cfg.RootNamespace; foreign && (e.Spec.GetLua() != nil || e.Spec.GetWasm() != nil) {
		// It could talk to everybody's services there in the proxy's name.
		return nil, fmt.Sprintf("its code may not run in the proxies of Gateway %s, which is of another namespace: use a waypoint of namespace %s, or ext_proc", gw, e.Namespace)
	}
	f = proto.Clone(e.Spec).(*facts.Extension)
	f.Namespace, f.Name = e.Namespace, e.Name
	if p := f.GetProcessor(); p != nil {
		if p.Service == nil {
			p.Service = &facts.Backend{}
		}
		if r.resolve(e, &e.Processor, p.Service, gw, true); p.Service.Broken != "" {
			return nil, p.Service.Broken
		}
	}
	return f, ""
}

// serverSide reports whether an extension is about traffic that comes to a service, which is what a proxy here sees.
func serverSide(e *object.Extension) bool {
	return len(e.Scopes) == 0 || slices.ContainsFunc(e.Scopes, func(s object.ExtensionScope) bool { return s.Side != object.ClientSide })
}

// onPorts reports whether an extension is about any of the ports. It is then about all of them, see reportExtension.
func onPorts(e *object.Extension, ports []*facts.ServicePort) bool {
	return len(e.Scopes) == 0 || slices.ContainsFunc(e.Scopes, func(s object.ExtensionScope) bool {
		return len(s.Ports) == 0 || slices.ContainsFunc(s.Ports, func(n uint16) bool { return hasPort(ports, uint32(n)) })
	})
}

// ruleExtension adds a filter of type ExtensionRef to a rule. A filter that does not exist breaks the rule: the Gateway
// API wants an answer with status 500 rather than a request that goes without it.
func (m *Model) ruleExtension(r *reader, o *object.HTTPRoute, rule *facts.HTTPRule, ref object.Ref, gw gatewayName) {
	k := refKey(ref)
	k.Namespace = o.Namespace
	e := get[*object.Extension](r, k)
	if e == nil {
		rule.Broken = fmt.Sprintf("there is no %s %s/%s for the filter of type ExtensionRef", ref.Kind, o.Namespace, ref.Name)
		return
	}
	f, why := m.extensionFact(r, gw, e)
	switch {
	case why == "":
		rule.Extensions = append(rule.Extensions, f)
	case !e.Spec.GetFailOpen():
		rule.Broken = fmt.Sprintf("%s cannot be carried out: %s", e.Key(), why)
	}
}
