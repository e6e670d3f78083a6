package intake

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/control/object"
)

// maxListeners is the Gateway API's limit.
const maxListeners = 64

func (r *reader) gateway(in *gatewayv1.Gateway) *object.Gateway {
	out := &object.Gateway{Meta: r.meta(&in.ObjectMeta, true, isSubdomain), Class: r.d.words.one(string(in.Spec.GatewayClassName))}
	if r.refused > 0 {
		return nil
	}
	if out.Class == "" {
		r.refuse(at("spec", "gatewayClassName"), "the field is missing", "write a class, like istio-waypoint")
	}
	if n := len(in.Spec.Listeners); n == 0 {
		r.refuse(at("spec", "listeners"), "a Gateway needs a listener", "add one; a waypoint's has protocol: HBONE and port: 15008")
	} else if n > maxListeners {
		r.refuse(at("spec", "listeners"), fmt.Sprintf("there are %d listeners, at most %d are allowed", n, maxListeners), "split the Gateway")
		return nil
	}
	for i := range in.Spec.Listeners {
		out.Listeners = append(out.Listeners, r.listener(&in.Spec.Listeners[i], at("spec", "listeners", i), out.Namespace, out.Listeners))
	}
	for i, a := range in.Spec.Addresses {
		if a.Value == "" {
			out.AnyAddress = append(out.AnyAddress, r.addressKind(a.Type, at("spec", "addresses", i)))
			continue
		}
		out.Addresses = append(out.Addresses, r.gatewayAddress(a.Type, a.Value, at("spec", "addresses", i)))
	}
	r.gatewayMore(&in.Spec, out)
	for i, a := range in.Status.Addresses {
		out.Status = append(out.Status, r.gatewayAddress(a.Type, a.Value, at("status", "addresses", i)))
	}
	return out
}

func (r *reader) listener(in *gatewayv1.Listener, path []any, namespace string, others []object.Listener) object.Listener {
	l := object.Listener{Name: r.d.words.one(string(in.Name)), Protocol: r.d.words.one(string(in.Protocol))}
	switch {
	case l.Name == "":
		r.refuse(sub(path, "name"), "the field is missing", "write a name")
	case !isSubdomain(l.Name):
		r.refuse(sub(path, "name"), fmt.Sprintf("%q is not a valid name", clip(l.Name)), nameFix(l.Name))
	case slices.ContainsFunc(others, func(o object.Listener) bool { return o.Name == l.Name }):
		r.refuse(sub(path, "name"), fmt.Sprintf("the name %q stands twice", l.Name), "choose another name")
	}
	l.Port, _ = r.port(int64(in.Port), sub(path, "port"))
	if l.Protocol == "" {
		r.refuse(sub(path, "protocol"), "the field is missing", "write HTTP, HTTPS, TLS, TCP or HBONE")
	}
	if h := in.Hostname; h != nil && *h != "" {
		l.Hostname = string(*h)
		if !isHost(l.Hostname, true) || lower(l.Hostname) != l.Hostname {
			r.refuse(sub(path, "hostname"), fmt.Sprintf("%q is not a host name", clip(l.Hostname)), hostFix(l.Hostname))
		}
	}
	if t := in.TLS; t != nil {
		if t.Mode != nil {
			l.TLSMode = r.d.words.one(string(*t.Mode))
			r.oneOf(l.TLSMode, sub(path, "tls", "mode"), "Terminate", "Passthrough")
		}
		options := make(map[string]string, len(t.Options))
		for k, v := range t.Options {
			options[string(k)] = string(v)
		}
		l.TLSOptions = object.MakeLabels(options)
		for i, c := range t.CertificateRefs {
			l.Certificates = append(l.Certificates, r.ref(c.Group, c.Kind, c.Namespace, c.Name, groupCore, "Secret", namespace, sub(path, "tls", "certificateRefs", i)))
		}
	}
	r.listenerShape(&l, in.TLS, path, others)
	if a := in.AllowedRoutes; a != nil {
		if a.Namespaces != nil {
			l.From, l.FromSelector = r.allowed(a.Namespaces, object.FromSame, sub(path, "allowedRoutes", "namespaces"))
		}
		for i, k := range a.Kinds {
			ref := r.ref(k.Group, &k.Kind, nil, "x", groupGateway, "HTTPRoute", "", sub(path, "allowedRoutes", "kinds", i))
			l.Kinds = append(l.Kinds, object.RouteKind{Group: ref.Group, Kind: ref.Kind})
		}
	}
	return l
}

// allowed converts from which namespaces something may come.
func (r *reader) allowed(in *gatewayv1.RouteNamespaces, unset object.RouteNamespaces, path []any) (from object.RouteNamespaces, selector object.LabelSelector) {
	word := ""
	if in.From != nil {
		word = string(*in.From)
		r.oneOf(word, sub(path, "from"), "All", "Selector", "Same", "None")
	}
	from = unset
	switch word {
	case "All":
		from = object.FromAll
	case "Same":
		from = object.FromSame
	case "None":
		from = object.FromNone
	case "Selector":
		from = object.FromSelector
		if in.Selector == nil {
			r.refuse(sub(path, "selector"), "from: Selector needs a selector", "add one, or write from: All or Same")
			return from, selector
		}
		selector = r.labelSelector(in.Selector, sub(path, "selector"))
	}
	if in.Selector != nil && word != "Selector" {
		r.warn(sub(path, "selector"), "the selector has no effect without from: Selector", "write from: Selector or remove it")
	}
	return from, selector
}

func (r *reader) labelSelector(in *metav1.LabelSelector, path []any) object.LabelSelector {
	r.labels(in.MatchLabels, sub(path, "matchLabels"))
	out := object.LabelSelector{MatchLabels: object.MakeLabels(in.MatchLabels)}
	for i, e := range in.MatchExpressions {
		p := sub(path, "matchExpressions", i)
		if !isQualifiedName(e.Key) {
			r.refuse(sub(p, "key"), fmt.Sprintf("%q is not a valid label name", clip(e.Key)), "write the name of a label")
		}
		switch op := object.Operator(e.Operator); op {
		case object.In, object.NotIn:
			if len(e.Values) == 0 {
				r.refuse(sub(p, "values"), fmt.Sprintf("operator %s needs values", op), "list the values")
			}
		case object.Exists, object.DoesNotExist:
			if len(e.Values) > 0 {
				r.refuse(sub(p, "values"), fmt.Sprintf("operator %s takes no values", op), "remove the values, or write operator: In")
			}
		case "":
			r.refuse(sub(p, "operator"), "the field is missing", "write In, NotIn, Exists or DoesNotExist")
		default:
			r.oneOf(string(op), sub(p, "operator"), "In", "NotIn", "Exists", "DoesNotExist")
		}
		out.Expressions = append(out.Expressions, object.Requirement{Key: e.Key, Operator: object.Operator(e.Operator), Values: e.Values})
	}
	return out
}

// addressKind converts the type of an address.
func (r *reader) addressKind(kind *gatewayv1.AddressType, path []any) object.AddressKind {
	if kind == nil {
		return object.AddressIP
	}
	switch *kind {
	case gatewayv1.IPAddressType:
		return object.AddressIP
	case gatewayv1.HostnameAddressType:
		return object.AddressHostname
	case gatewayv1.NamedAddressType:
	default:
		if !strings.Contains(string(*kind), "/") { // implementations have types of their own, with a domain
			r.oneOf(string(*kind), sub(path, "type"), "IPAddress", "Hostname", "NamedAddress")
		}
	}
	return object.AddressNamed
}

func (r *reader) gatewayAddress(kind *gatewayv1.AddressType, value string, path []any) object.GatewayAddress {
	out := object.GatewayAddress{Kind: r.addressKind(kind, path), Value: value}
	switch out.Kind {
	case object.AddressIP:
		if ip := r.ip(value, sub(path, "value")); ip.IsValid() {
			out.Value = ip.String()
		}
	case object.AddressHostname:
		out.Value = canonicalHost(value)
		if !isHost(value, true) {
			r.refuse(sub(path, "value"), fmt.Sprintf("%q is not a host name", clip(value)), hostFix(value))
		}
	}
	return out
}

func (r *reader) gatewayClass(in *gatewayv1.GatewayClass) *object.GatewayClass {
	out := &object.GatewayClass{Meta: r.meta(&in.ObjectMeta, false, isSubdomain), Controller: r.d.words.one(string(in.Spec.ControllerName))}
	if r.refused > 0 {
		return nil
	}
	if domain, path, ok := strings.Cut(out.Controller, "/"); !ok || path == "" || !isSubdomain(domain) {
		r.refuse(at("spec", "controllerName"), fmt.Sprintf("%q is not the name of a controller", clip(out.Controller)), "write it like istio.io/mesh-controller")
	}
	if p := in.Spec.ParametersRef; p != nil {
		ns := ""
		if p.Namespace != nil {
			ns = string(*p.Namespace)
		}
		out.Parameters = r.ref(&p.Group, &p.Kind, p.Namespace, gatewayv1.ObjectName(p.Name), groupCore, "ConfigMap", ns, at("spec", "parametersRef"))
	}
	return out
}
