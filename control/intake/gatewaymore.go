package intake

import (
	"fmt"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/control/object"
)

// listenerShape checks what the Gateway API's admission does: TLS where it belongs, and no two listeners alike.
func (r *reader) listenerShape(l *object.Listener, tls *gatewayv1.ListenerTLSConfig, path []any, others []object.Listener) {
	switch l.Protocol {
	case "HTTP", "TCP", "UDP":
		if tls != nil {
			r.refuse(sub(path, "tls"), fmt.Sprintf("protocol %s has no TLS", l.Protocol), "remove the field, or write protocol: HTTPS or TLS")
		}
		if l.Protocol != "HTTP" && l.Hostname != "" {
			r.refuse(sub(path, "hostname"), fmt.Sprintf("protocol %s knows no host names", l.Protocol), "remove the field")
		}
		tls = nil
	case "HTTPS":
		if l.TLSMode == "Passthrough" {
			r.refuse(sub(path, "tls", "mode"), "protocol HTTPS ends TLS here", "write mode: Terminate, or protocol: TLS")
		}
	case "TLS":
		if tls == nil || l.TLSMode == "" {
			r.refuse(sub(path, "tls", "mode"), "protocol TLS needs a mode", "write Passthrough, or Terminate with certificateRefs")
		}
	}
	if tls != nil && l.TLSMode != "Passthrough" && len(tls.CertificateRefs) == 0 && len(tls.Options) == 0 && l.Protocol != "HBONE" {
		r.refuse(sub(path, "tls", "certificateRefs"), "TLS ends here and there is no certificate", "name a Secret, or write mode: Passthrough")
	}
	r.fewer(len(l.Certificates), maxListeners, sub(path, "tls", "certificateRefs"), "certificate")
	for _, o := range others {
		if o.Port == l.Port && o.Protocol == l.Protocol && o.Hostname == l.Hostname && l.Port != 0 && l.Protocol != "" {
			r.refuse(path, fmt.Sprintf("listener %q has the same port, protocol and hostname", o.Name), "change one of them")
			return
		}
	}
}

// gatewayMore converts what a Gateway says beside its listeners.
func (r *reader) gatewayMore(in *gatewayv1.GatewaySpec, out *object.Gateway) {
	out.ListenerSets = object.FromNone
	if a := in.AllowedListeners; a != nil && a.Namespaces != nil {
		same := gatewayv1.RouteNamespaces(*a.Namespaces)
		out.ListenerSets, out.ListenerSetsSelector = r.allowed(&same, object.FromNone, at("spec", "allowedListeners", "namespaces"))
	}
	if i, path := in.Infrastructure, at("spec", "infrastructure"); i != nil {
		labels, annotations := map[string]string{}, map[string]string{}
		for k, v := range i.Labels {
			labels[string(k)] = string(v)
		}
		for k, v := range i.Annotations {
			annotations[string(k)] = string(v)
		}
		r.fewer(len(labels), 8, sub(path, "labels"), "label")
		r.fewer(len(annotations), 8, sub(path, "annotations"), "annotation")
		r.labels(labels, sub(path, "labels"))
		out.Infrastructure.Labels, out.Infrastructure.Annotations = object.MakeLabels(labels), object.MakeLabels(annotations)
		if p := i.ParametersRef; p != nil {
			out.Infrastructure.Parameters = r.ref(&p.Group, &p.Kind, nil, gatewayv1.ObjectName(p.Name), groupCore, "ConfigMap", out.Namespace, sub(path, "parametersRef"))
		}
	}
	if in.DefaultScope != "" && in.DefaultScope != gatewayv1.GatewayDefaultScopeNone {
		r.warn(at("spec", "defaultScope"), "the field is not carried out", "let the routes name the Gateway in parentRefs")
	}
	r.gatewayTLS(in.TLS, out)
}

func (r *reader) gatewayTLS(in *gatewayv1.GatewayTLSConfig, out *object.Gateway) {
	if in == nil {
		return
	}
	path := at("spec", "tls")
	if b := in.Backend; b != nil && b.ClientCertificateRef != nil {
		c := b.ClientCertificateRef
		out.BackendCertificate = r.ref(c.Group, c.Kind, c.Namespace, c.Name, groupCore, "Secret", out.Namespace, sub(path, "backend", "clientCertificateRef"))
	}
	f, path := in.Frontend, sub(path, "frontend")
	if f == nil {
		return
	}
	out.ClientTLS = r.clientValidation(f.Default.Validation, sub(path, "default", "validation"), out.Namespace)
	if !r.fewer(len(f.PerPort), maxListeners, sub(path, "perPort"), "port") {
		return
	}
	for i, p := range f.PerPort {
		pp := sub(path, "perPort", i)
		n, ok := r.port(int64(p.Port), sub(pp, "port"))
		if _, twice := out.ClientTLSPorts[n]; twice && ok {
			r.refuse(sub(pp, "port"), fmt.Sprintf("the port %d stands twice", n), "put the settings together")
		}
		if out.ClientTLSPorts == nil {
			out.ClientTLSPorts = make(map[uint16]*object.ClientValidation)
		}
		out.ClientTLSPorts[n] = r.clientValidation(p.TLS.Validation, sub(pp, "tls", "validation"), out.Namespace)
	}
}

func (r *reader) clientValidation(in *gatewayv1.FrontendTLSValidation, path []any, namespace string) *object.ClientValidation {
	if in == nil {
		return nil
	}
	out := &object.ClientValidation{Optional: in.Mode == gatewayv1.AllowInsecureFallback}
	r.oneOf(string(in.Mode), sub(path, "mode"), "AllowValidOnly", "AllowInsecureFallback")
	if len(in.CACertificateRefs) == 0 {
		r.refuse(sub(path, "caCertificateRefs"), "it is not said whose certificates are believed", "name a ConfigMap with key ca.crt")
	}
	r.fewer(len(in.CACertificateRefs), 8, sub(path, "caCertificateRefs"), "certificate")
	for i, c := range in.CACertificateRefs {
		out.CertificateRefs = append(out.CertificateRefs, r.ref(&c.Group, &c.Kind, c.Namespace, c.Name, groupCore, "ConfigMap", namespace, sub(path, "caCertificateRefs", i)))
	}
	return out
}

func (r *reader) listenerSet(m object.Meta, spec *gatewayv1.ListenerSetSpec) *object.ListenerSet {
	p := spec.ParentRef
	out := &object.ListenerSet{Meta: m, Parent: r.ref(p.Group, p.Kind, p.Namespace, p.Name, groupGateway, "Gateway", m.Namespace, at("spec", "parentRef"))}
	path := at("spec", "listeners")
	if len(spec.Listeners) == 0 {
		r.refuse(path, "a ListenerSet needs a listener", "add one")
	}
	if !r.fewer(len(spec.Listeners), maxListeners, path, "listener") {
		return nil
	}
	for i := range spec.Listeners {
		l := gatewayv1.Listener(spec.Listeners[i])
		out.Listeners = append(out.Listeners, r.listener(&l, sub(path, i), m.Namespace, out.Listeners))
	}
	return out
}
