package intake

import (
	"fmt"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/object"
)

// maxServerNames is the Gateway API's bound of a TLSRoute's hostnames.
const maxServerNames = 1024

func (r *reader) tlsRoute(m object.Meta, spec *gatewayv1.TLSRouteSpec) *object.StreamRoute {
	out := &object.StreamRoute{Meta: m, TLS: true, Parents: r.parents(&spec.CommonRouteSpec, m.Namespace)}
	if len(spec.Hostnames) == 0 {
		r.refuse(at("spec", "hostnames"), "a TLSRoute needs a hostname", "write the names that clients ask for")
	}
	out.Hostnames = r.hostnames(spec.Hostnames, maxServerNames)
	rules := make([]streamRule, len(spec.Rules))
	for i, in := range spec.Rules {
		rules[i] = streamRule{in.Name, in.BackendRefs}
	}
	r.streamRules("TLSRoute", rules, out)
	return out
}

func (r *reader) tcpRoute(m object.Meta, spec *gatewayv1.TCPRouteSpec) *object.StreamRoute {
	out := &object.StreamRoute{Meta: m, Parents: r.parents(&spec.CommonRouteSpec, m.Namespace)}
	rules := make([]streamRule, len(spec.Rules))
	for i, in := range spec.Rules {
		rules[i] = streamRule{in.Name, in.BackendRefs}
	}
	r.streamRules("TCPRoute", rules, out)
	return out
}

// streamRule is what rules of TLSRoutes and TCPRoutes have in common: everything.
type streamRule struct {
	name     *gatewayv1.SectionName
	backends []gatewayv1.BackendRef
}

func (r *reader) streamRules(kind string, rules []streamRule, out *object.StreamRoute) {
	path := at("spec", "rules")
	if len(rules) == 0 {
		r.refuse(path, "a route needs a rule", "add one with backendRefs")
	}
	if !r.fewer(len(rules), maxRouteRules, path, "rule") {
		return
	}
	if len(rules) > 1 {
		r.warn(sub(path, 1), "only the first rule has connections to decide about", "remove the others, or put their backends into the first with weights")
	}
	names := map[string]bool{}
	for i, in := range rules {
		p := sub(path, i)
		named := r.newRule(kind, out.Meta, i, in.name, names, p)
		rule := object.StreamRouteRule{Name: named.Name, Rule: &waypoint.StreamRule{Origin: named.Rule.Origin}}
		p = sub(p, "backendRefs")
		if len(in.backends) == 0 {
			r.refuse(p, "a rule needs a backend", "name a Service and its port")
		}
		if r.fewer(len(in.backends), maxRouteItems, p, "backend") {
			for j := range in.backends {
				b := &in.backends[j]
				rule.Backends = append(rule.Backends, r.backend(&b.BackendObjectReference, sub(p, j), out.Namespace))
				rule.Rule.Backends = append(rule.Rule.Backends, &waypoint.Backend{Weight: r.share(b.Weight, sub(p, j))})
			}
		}
		out.Rules = append(out.Rules, rule)
	}
}

// maxGrants is the Gateway API's bound of both lists of a ReferenceGrant.
const maxGrants = 16

func (r *reader) referenceGrant(m object.Meta, spec *gatewayv1.ReferenceGrantSpec) *object.ReferenceGrant {
	out := &object.ReferenceGrant{Meta: m}
	for _, l := range []struct {
		name string
		n    int
	}{{"from", len(spec.From)}, {"to", len(spec.To)}} {
		if l.n == 0 {
			r.refuse(at("spec", l.name), "the list is empty", "add an entry")
		}
		r.fewer(l.n, maxGrants, at("spec", l.name), "entry")
	}
	for i, f := range spec.From {
		p := at("spec", "from", i)
		if !isLabel(string(f.Namespace)) {
			r.refuse(sub(p, "namespace"), fmt.Sprintf("%q is not a valid namespace", clip(string(f.Namespace))), "write the namespace of those who refer")
		}
		ref := r.ref(&f.Group, &f.Kind, nil, "x", "", "HTTPRoute", "", p)
		out.From = append(out.From, object.GrantFrom{Group: ref.Group, Kind: ref.Kind, Namespace: r.d.words.one(string(f.Namespace))})
	}
	for i, t := range spec.To {
		ref := r.ref(&t.Group, &t.Kind, nil, "x", "", "Service", "", at("spec", "to", i))
		to := object.GrantTo{Group: ref.Group, Kind: ref.Kind}
		if t.Name != nil {
			to.Name = string(*t.Name)
		}
		out.To = append(out.To, to)
	}
	return out
}

func (r *reader) backendTLSPolicy(m object.Meta, spec *gatewayv1.BackendTLSPolicySpec) *object.BackendTLSPolicy {
	out := &object.BackendTLSPolicy{Meta: m}
	path := at("spec", "targetRefs")
	if len(spec.TargetRefs) == 0 {
		r.refuse(path, "the policy is for nothing", "name a Service")
	}
	r.fewer(len(spec.TargetRefs), maxRouteItems, path, "target")
	for i, t := range spec.TargetRefs {
		ref := r.ref(&t.Group, &t.Kind, nil, t.Name, "", "Service", m.Namespace, sub(path, i))
		target := object.TargetRef{Group: ref.Group, Kind: ref.Kind, Name: ref.Name}
		if t.SectionName != nil {
			target.SectionName = string(*t.SectionName)
		}
		for _, o := range out.TargetRefs {
			if o == target {
				r.refuse(sub(path, i), "the target stands twice", "remove one, or give each a sectionName")
			}
		}
		out.TargetRefs = append(out.TargetRefs, target)
	}
	v, path := &spec.Validation, at("spec", "validation")
	out.Hostname = r.preciseHost(&v.Hostname, sub(path, "hostname"))
	switch {
	case len(v.CACertificateRefs) > 0 && v.WellKnownCACertificates != nil:
		r.refuse(sub(path, "wellKnownCACertificates"), "caCertificateRefs and wellKnownCACertificates exclude each other", "keep one of the two")
	case len(v.CACertificateRefs) == 0 && v.WellKnownCACertificates == nil:
		r.refuse(path, "it is not said whose certificates are believed", "write caCertificateRefs, or wellKnownCACertificates: System")
	case v.WellKnownCACertificates != nil:
		out.SystemRoots = *v.WellKnownCACertificates == gatewayv1.WellKnownCACertificatesSystem
		r.oneOf(string(*v.WellKnownCACertificates), sub(path, "wellKnownCACertificates"), "System")
	}
	r.fewer(len(v.CACertificateRefs), 8, sub(path, "caCertificateRefs"), "certificate")
	for i, c := range v.CACertificateRefs {
		out.CertificateRefs = append(out.CertificateRefs, r.ref(&c.Group, &c.Kind, nil, c.Name, "", "ConfigMap", m.Namespace, sub(path, "caCertificateRefs", i)))
	}
	r.fewer(len(v.SubjectAltNames), 5, sub(path, "subjectAltNames"), "name")
	for i, s := range v.SubjectAltNames {
		out.SubjectAltNames = append(out.SubjectAltNames, r.altName(s, sub(path, "subjectAltNames", i)))
	}
	if len(spec.Options) > 0 {
		r.warn(at("spec", "options"), "the options are not known here", "remove them")
	}
	return out
}

func (r *reader) altName(in gatewayv1.SubjectAltName, path []any) string {
	r.oneOf(string(in.Type), sub(path, "type"), "Hostname", "URI")
	host, uri := string(in.Hostname), string(in.URI)
	switch {
	case in.Type == gatewayv1.HostnameSubjectAltNameType && host != "" && uri == "":
		if !isHost(host, true) {
			r.refuse(sub(path, "hostname"), fmt.Sprintf("%q is not a host name", clip(host)), hostFix(host))
		}
		return host
	case in.Type == gatewayv1.URISubjectAltNameType && uri != "" && host == "":
		r.webAddressOf(uri, sub(path, "uri"))
		return uri
	}
	r.refuse(path, "a name has type Hostname and hostname, or type URI and uri", "write the field that goes with the type")
	return ""
}
