package waypoint

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strconv"

	"github.com/ambit-mesh/ambit/api/mesh"
	facts "github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/object"
)

// listener is one listener of a Gateway, its own or of a ListenerSet.
type listener struct {
	of   object.Key // the Gateway or the ListenerSet
	spec *object.Listener
	// name is unique for the Gateway.
	name          string
	protocol      facts.Listener_Protocol
	protocolKnown bool
	// kinds of routes it takes; badKinds are those it was told to take and cannot.
	kinds    []string
	badKinds []string
	conflict *trouble
}

// listeners are those of a Gateway, its own first, then those of its ListenerSets, the oldest set first. Of listeners
// that exclude each other the first is in force.
func (r *reader) listeners(g *object.Gateway) []*listener {
	var all []*listener
	for i := range g.Listeners {
		l := &listener{of: g.Key(), spec: &g.Listeners[i], name: g.Listeners[i].Name}
		all = append(all, l)
	}
	for _, s := range list[*object.ListenerSet](r, topic{listenersOf, g.Key()}) {
		if !r.takesSet(g, s) {
			continue
		}
		for i := range s.Listeners {
			all = append(all, &listener{of: s.Key(), spec: &s.Listeners[i], name: s.Namespace + "." + s.Name + "." + s.Listeners[i].Name})
		}
	}
	for i, l := range all {
		l.classify()
		for _, o := range all[:i] {
			if o.conflict == nil && o.protocolKnown && l.protocolKnown && l.conflict == nil {
				l.conflict = l.against(o)
			}
		}
	}
	return all
}

// takesSet reports whether a Gateway admits a ListenerSet.
func (r *reader) takesSet(g *object.Gateway, s *object.ListenerSet) bool {
	switch g.ListenerSets {
	case object.FromAll:
		return true
	case object.FromSame:
		return s.Namespace == g.Namespace
	case object.FromSelector:
		return g.ListenerSetsSelector.Matches(r.labels(s.Namespace))
	}
	return false
}

// classify works out what a listener speaks and which routes it takes.
func (l *listener) classify() {
	l.protocolKnown = true
	var fit []string
	switch l.spec.Protocol {
	case "HTTP":
		l.protocol, fit = facts.Listener_HTTP, []string{"HTTPRoute", "GRPCRoute"}
	case "HTTPS":
		l.protocol, fit = facts.Listener_HTTPS, []string{"HTTPRoute", "GRPCRoute"}
	case "TLS":
		l.protocol, fit = facts.Listener_TLS, []string{"TCPRoute", "TLSRoute"}
		if l.spec.TLSMode == "Passthrough" {
			l.protocol, fit = facts.Listener_TLS_PASSTHROUGH, []string{"TLSRoute"}
		}
	case "TCP":
		l.protocol, fit = facts.Listener_TCP, []string{"TCPRoute"}
	default:
		l.protocolKnown = false
		return
	}
	if len(l.spec.Kinds) == 0 {
		l.kinds = fit
		return
	}
	for _, k := range l.spec.Kinds {
		if (k.Group == "" || k.Group == groupGateway) && slices.Contains(fit, k.Kind) {
			l.kinds = append(l.kinds, k.Kind)
		} else {
			l.badKinds = append(l.badKinds, k.Kind)
		}
	}
}

// against is why a listener cannot be in force beside one that is, nil when it can.
func (l *listener) against(o *listener) *trouble {
	if l.spec.Port != o.spec.Port {
		return nil
	}
	at := "port " + strconv.Itoa(int(l.spec.Port)) + " with listener " + o.name
	switch {
	case family(l.protocol) != family(o.protocol):
		return &trouble{"ProtocolConflict", "it shares " + at + ", which speaks another protocol"}
	case l.spec.Hostname == o.spec.Hostname || l.protocol == facts.Listener_TCP:
		return &trouble{"HostnameConflict", "it shares hostname and " + at}
	}
	return nil
}

// family tells protocols that can share a port, told apart by hostname, from others.
func family(p facts.Listener_Protocol) int {
	switch p {
	case facts.Listener_HTTP:
		return 1
	case facts.Listener_TCP:
		return 2
	}
	return 3
}

// listenerFact is a listener as the proxy must know it. One that cannot do its work is there to refuse.
func (r *reader) listenerFact(g *object.Gateway, l *listener) *facts.Listener {
	f := &facts.Listener{Name: l.name, Port: uint32(l.spec.Port), Protocol: l.protocol, Hostname: l.spec.Hostname}
	if l.conflict != nil {
		f.Refused = l.conflict.text
		return f
	}
	if l.protocol != facts.Listener_HTTPS && l.protocol != facts.Listener_TLS {
		return f
	}
	certificates, troubles := r.certificates(g, l)
	f.Certificates = certificates
	if len(certificates) == 0 {
		f.Refused = troubles[0].text
		return f
	}
	ca, optional, why := r.clientCA(g, l)
	if why != nil {
		f.Refused = why.text
		return f
	}
	f.ClientCa, f.ClientCertificateOptional = ca, optional
	return f
}

// certificates resolves the certificates of a listener. There is trouble for each that cannot be used, and when there is none at all.
func (r *reader) certificates(g *object.Gateway, l *listener) (names []string, troubles []*trouble) {
	gw := gatewayOf(g.Key())
	for _, ref := range l.spec.Certificates {
		s, t := r.certificate(l.of, ref)
		if t != nil {
			troubles = append(troubles, t)
			continue
		}
		names = append(names, r.secret(gw, s.Key()))
	}
	if len(l.spec.Certificates) == 0 {
		troubles = append(troubles, &trouble{"InvalidCertificateRef", "it names no certificate"})
	}
	return names, troubles
}

func (r *reader) certificate(from object.Key, ref object.Ref) (*object.Secret, *trouble) {
	if ref.Kind != "Secret" || ref.Group != "" && ref.Group != "core" {
		return nil, &trouble{"InvalidCertificateRef", fmt.Sprintf("a %s of group %q is no certificate; name a Secret", ref.Kind, ref.Group)}
	}
	if !r.granted(from, ref) {
		return nil, &trouble{"RefNotPermitted", fmt.Sprintf("Secret %s/%s is in another namespace and no ReferenceGrant there permits %s to name it", ref.Namespace, ref.Name, from)}
	}
	s := get[*object.Secret](r, refKey(ref))
	switch {
	case s == nil:
		return nil, &trouble{"InvalidCertificateRef", fmt.Sprintf("there is no Secret %s/%s", ref.Namespace, ref.Name)}
	case s.Certificate == "" || s.PrivateKey.Empty():
		return nil, &trouble{"InvalidCertificateRef", fmt.Sprintf("Secret %s/%s has no tls.crt and tls.key", ref.Namespace, ref.Name)}
	}
	if _, err := tls.X509KeyPair([]byte(s.Certificate), s.PrivateKey.Reveal()); err != nil {
		return nil, &trouble{"InvalidCertificateRef", fmt.Sprintf("Secret %s/%s has no usable certificate and key: %v", ref.Namespace, ref.Name, err)}
	}
	return s, nil
}

// optionTerminate is Istio's way to ask for client certificates: an entry of a listener's tls.options.
const optionTerminate = "gateway.istio.io/tls-terminate-mode"

// clientCA is what certificates of clients are verified against; "" asks for none.
func (r *reader) clientCA(g *object.Gateway, l *listener) (ca string, optional bool, why *trouble) {
	if mode, ok := l.spec.TLSOptions.Lookup(optionTerminate); ok {
		return r.terminateMode(mode, l)
	}
	v := g.ClientTLS
	if own, ok := g.ClientTLSPorts[l.spec.Port]; ok {
		v = own
	}
	if v == nil {
		return "", false, nil
	}
	ca, why = r.bundle(g.Key(), v.CertificateRefs)
	return ca, v.Optional, why
}

func (r *reader) terminateMode(mode string, l *listener) (ca string, optional bool, why *trouble) {
	switch mode {
	case "", "SIMPLE":
		return "", false, nil
	case "MUTUAL", "OPTIONAL_MUTUAL":
	default:
		return "", false, &trouble{"UnsupportedValue", fmt.Sprintf("option %s is %q, neither SIMPLE, MUTUAL nor OPTIONAL_MUTUAL", optionTerminate, mode)}
	}
	for _, ref := range l.spec.Certificates {
		k := refKey(ref)
		for _, name := range []string{k.Name, k.Name + "-cacert"} {
			k.Name = name
			if s := get[*object.Secret](r, k); s != nil && s.CA != "" && r.granted(l.of, object.Ref{Kind: "Secret", Namespace: k.Namespace, Name: name}) {
				return s.CA, mode == "OPTIONAL_MUTUAL", nil
			}
		}
	}
	return "", false, &trouble{"InvalidCertificateRef", "client certificates are asked for, but no Secret has ca.crt to verify them against"}
}

// isEdgePort reports whether a listener is one that a waypoint has: the mesh's own.
func isMeshPort(l *object.Listener) bool { return l.Protocol == "HBONE" && l.Port == mesh.PortHBONE }
