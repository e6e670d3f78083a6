package waypoint

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	facts "github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
)

// buildDestination is how a Gateway talks to a service.
func (m *Model) buildDestination(r *reader, gw gatewayName, name hostName) proto.Message {
	h, ok := r.host(name.ns, name.host)
	if !ok {
		return nil
	}
	f := &facts.Destination{Namespace: h.Namespace, Hostname: h.Hostname, Resolution: r.resolution(h.Object)}
	if gatewayOf(h.Waypoint) != gw && gatewayOf(h.Canary) != gw {
		f.ServicePorts = r.ports(h.Object)
	}
	f.Policy = defaults(r.mesh())
	for i, d := range r.destinationRules(gw, h) {
		if i == 0 {
			f.Origin = origin(d, nil, "")
			f.Policy = overlay(f.Policy, d.Policy)
			f.Ports = clonePorts(d.Ports)
		}
		// Rules for one host are merged: the oldest decides, the others may add subsets. Istio pilot/pkg/model mergeDestinationRule.
		for _, s := range d.Subsets {
			if !slices.ContainsFunc(f.Subsets, func(o *facts.Subset) bool { return o.Name == s.Name }) {
				f.Subsets = append(f.Subsets, proto.Clone(s).(*facts.Subset))
			}
		}
	}
	m.credentials(r, gw, f)
	m.backendTLS(r, gw, h, f)
	f.Session = r.persistence(h.Object)
	return f
}

// resolution is how endpoints are found.
func (r *reader) resolution(k object.Key) facts.Destination_Resolution {
	e := get[*object.ServiceEntry](r, k)
	if e == nil {
		return facts.Destination_WORKLOADS
	}
	switch e.Resolution {
	case object.ResolutionNone:
		return facts.Destination_ORIGINAL
	case object.ResolutionDNS, object.ResolutionDNSRoundRobin:
		return facts.Destination_DNS
	case object.ResolutionDynamicDNS:
		return facts.Destination_DYNAMIC
	}
	return facts.Destination_WORKLOADS
}

// destinationRules are the rules for a service that count for a Gateway: those of the Gateway's namespace, else of the
// service's, else of the root namespace; in a namespace those with the most specific host, the oldest first. Istio
// pilot/pkg/model/push_context.go destinationRule.
func (r *reader) destinationRules(gw gatewayName, h model.Host) []*object.DestinationRule {
	c := r.mesh()
	for i, ns := range []string{gw.ns, h.Namespace, r.m.cfg.RootNamespace} {
		for _, host := range wildcards(h.Hostname) {
			rules := list[*object.DestinationRule](r, named(rulesOf, ns, host))
			rules = slices.DeleteFunc(rules, func(d *object.DestinationRule) bool {
				return d.WorkloadSelector.Present || i > 0 && !exported(d.ExportTo, c.DestinationRuleExportTo, d.Namespace, gw.ns)
			})
			if len(rules) > 0 {
				return rules
			}
		}
	}
	return nil
}

// defaults are what the mesh configuration says about every destination.
func defaults(c *object.MeshConfig) *facts.TrafficPolicy {
	p := &facts.TrafficPolicy{Pool: c.ConnectionPool, Outliers: c.Outliers}
	if c.ConnectTimeout != nil && p.Pool.GetConnectTimeout() == nil {
		pool := &facts.ConnectionPool{}
		if p.Pool != nil {
			pool = proto.Clone(p.Pool).(*facts.ConnectionPool)
		}
		pool.ConnectTimeout = durationpb.New(*c.ConnectTimeout)
		p.Pool = pool
	}
	if c.Locality != nil {
		p.LoadBalancer = &facts.LoadBalancer{Locality: c.Locality}
	}
	if p.Pool == nil && p.Outliers == nil && p.LoadBalancer == nil {
		return nil
	}
	return p
}

// overlay puts what a rule says over the defaults, part by part.
func overlay(under, over *facts.TrafficPolicy) *facts.TrafficPolicy {
	if over == nil {
		return under
	}
	out := proto.Clone(over).(*facts.TrafficPolicy)
	if under == nil {
		return out
	}
	if out.Pool == nil {
		out.Pool = under.Pool
	} else if out.Pool.ConnectTimeout == nil {
		out.Pool.ConnectTimeout = under.Pool.GetConnectTimeout()
	}
	if out.Outliers == nil {
		out.Outliers = under.Outliers
	}
	switch {
	case out.LoadBalancer == nil:
		out.LoadBalancer = under.LoadBalancer
	case out.LoadBalancer.Locality == nil:
		out.LoadBalancer.Locality = under.LoadBalancer.GetLocality()
	}
	return out
}

func clonePorts(in map[uint32]*facts.TrafficPolicy) map[uint32]*facts.TrafficPolicy {
	if len(in) == 0 {
		return nil
	}
	out := make(map[uint32]*facts.TrafficPolicy, len(in))
	for n, p := range in {
		out[n] = proto.Clone(p).(*facts.TrafficPolicy)
	}
	return out
}

// backendTLS applies BackendTLSPolicies of the service: they win over what a DestinationRule says of TLS.
func (m *Model) backendTLS(r *reader, gw gatewayName, h model.Host, f *facts.Destination) {
	policies := list[*object.BackendTLSPolicy](r, topic{backendTLS, h.Object})
	ports := r.ports(h.Object)
	for i := len(policies) - 1; i >= 0; i-- { // the oldest has the last word
		p := policies[i]
		tls := r.tlsOf(p)
		r.present(gw, tls)
		for _, t := range p.TargetRefs {
			if targetKey(p.Namespace, t) != h.Object {
				continue
			}
			if t.SectionName == "" {
				f.Policy = withTLS(f.Policy, tls)
				continue
			}
			for _, sp := range ports {
				if sp.Name == t.SectionName {
					if f.Ports == nil {
						f.Ports = map[uint32]*facts.TrafficPolicy{}
					}
					f.Ports[sp.Number] = withTLS(f.Ports[sp.Number], tls)
				}
			}
		}
	}
}

// present adds the certificate that a Gateway shows to backends that it talks TLS to.
func (r *reader) present(gw gatewayName, tls *facts.ClientTLS) {
	g := get[*object.Gateway](r, gw.key())
	if g == nil || g.BackendCertificate == (object.Ref{}) {
		return
	}
	s, t := r.certificate(g.Key(), g.BackendCertificate)
	if t != nil {
		tls.Broken = t.text
		return
	}
	tls.Mode, tls.Secret = facts.ClientTLS_MUTUAL, r.secret(gw, s.Key())
}

func withTLS(p *facts.TrafficPolicy, tls *facts.ClientTLS) *facts.TrafficPolicy {
	out := &facts.TrafficPolicy{}
	if p != nil {
		out = proto.Clone(p).(*facts.TrafficPolicy)
	}
	out.Tls = proto.Clone(tls).(*facts.ClientTLS)
	return out
}

func (r *reader) tlsOf(p *object.BackendTLSPolicy) *facts.ClientTLS {
	tls := &facts.ClientTLS{Mode: facts.ClientTLS_SIMPLE, Sni: p.Hostname, SubjectAltNames: p.SubjectAltNames}
	if len(tls.SubjectAltNames) == 0 {
		tls.SubjectAltNames = []string{p.Hostname}
	}
	if p.SystemRoots {
		return tls
	}
	ca, t := r.bundle(p.Key(), p.CertificateRefs)
	tls.Ca = ca
	if t != nil {
		tls.Broken = t.text
	}
	return tls
}

// bundle reads certificates of authorities from ConfigMaps and Secrets. All that can be read count; none is trouble.
func (r *reader) bundle(from object.Key, refs []object.Ref) (string, *trouble) {
	var pems []string
	var last *trouble
	for _, ref := range refs {
		pem, t := r.authority(from, ref)
		if t != nil {
			last = t
			continue
		}
		pems = append(pems, strings.TrimRight(pem, "\n")+"\n")
	}
	if len(pems) == 0 {
		if last == nil {
			last = &trouble{"NoValidCACertificate", "no certificate of an authority is named"}
		}
		return "", last
	}
	return strings.Join(pems, ""), nil
}

func (r *reader) authority(from object.Key, ref object.Ref) (string, *trouble) {
	if !r.granted(from, ref) {
		return "", &trouble{"RefNotPermitted", fmt.Sprintf("%s %s/%s is in another namespace and no ReferenceGrant there permits %s to name it", ref.Kind, ref.Namespace, ref.Name, from)}
	}
	switch ref.Kind {
	case "ConfigMap":
		if c := get[*object.ConfigMap](r, refKey(ref)); c != nil && c.CA != "" {
			return c.CA, nil
		}
	case "Secret":
		if s := get[*object.Secret](r, refKey(ref)); s != nil && s.CA != "" {
			return s.CA, nil
		}
	default:
		return "", &trouble{"InvalidKind", fmt.Sprintf("a %s has no certificates; name a ConfigMap", ref.Kind)}
	}
	return "", &trouble{"InvalidCACertificateRef", fmt.Sprintf("there is no %s %s/%s with key ca.crt", ref.Kind, ref.Namespace, ref.Name)}
}

// credentials turns the names of Secrets into those of resources, or says that there is none.
func (m *Model) credentials(r *reader, gw gatewayName, f *facts.Destination) {
	policies := []*facts.TrafficPolicy{f.Policy}
	for _, p := range f.Ports {
		policies = append(policies, p)
	}
	for _, s := range f.Subsets {
		policies = append(policies, s.Policy)
		for _, p := range s.Ports {
			policies = append(policies, p)
		}
	}
	for _, p := range policies {
		tls := p.GetTls()
		if tls.GetSecret() == "" || tls.Broken != "" {
			continue
		}
		k := object.Key{Kind: object.KindSecret, Namespace: gw.ns, Name: tls.Secret}
		// A rule of another namespace would have the proxy present a certificate that is not its author's to use.
		rule := object.Key{Kind: object.KindDestinationRule, Namespace: f.Origin.GetNamespace(), Name: f.Origin.GetName()}
		if rule.Namespace != gw.ns && rule.Namespace != r.m.cfg.RootNamespace && !r.permitted(rule, k) {
			tls.Broken = fmt.Sprintf("Secret %s/%s is of the waypoint's namespace, and no ReferenceGrant there permits %s to name it", gw.ns, tls.Secret, rule)
			tls.Secret = ""
			continue
		}
		s := get[*object.Secret](r, k)
		switch {
		case s == nil:
			tls.Broken = fmt.Sprintf("there is no Secret %s/%s with the certificate to present", gw.ns, tls.Secret)
			tls.Secret = ""
			continue
		case tls.Mode == facts.ClientTLS_MUTUAL && (s.Certificate == "" || s.PrivateKey.Empty()):
			tls.Broken = fmt.Sprintf("Secret %s/%s has no tls.crt and tls.key", gw.ns, tls.Secret)
		}
		if tls.Ca == "" {
			tls.Ca = s.CA
		}
		if tls.Mode != facts.ClientTLS_MUTUAL {
			tls.Secret = ""
			continue
		}
		tls.Secret = r.secret(gw, k)
	}
}

// secret makes a Secret known to a Gateway and returns the name of the resource.
func (r *reader) secret(gw gatewayName, k object.Key) string {
	r.wants.add(unitID{phase: secretPhase, gw: gw, key: k})
	return gw.String() + "/" + k.Namespace + "/" + k.Name
}

// buildSecret is a certificate with its key.
func (m *Model) buildSecret(r *reader, gw gatewayName, k object.Key) proto.Message {
	s := get[*object.Secret](r, k)
	if s == nil {
		return nil
	}
	return &facts.Secret{
		Namespace: s.Namespace, Name: s.Name,
		CertificateChain: []byte(s.Certificate), PrivateKey: s.PrivateKey.Reveal(), Ca: []byte(s.CA),
	}
}

// persistence reads the label by which a service asks for sessions that stay with a pod. Istio pilot/pkg/networking/util
// MaybeBuildStatefulSessionFilterConfig.
func (r *reader) persistence(k object.Key) *facts.SessionPersistence {
	r.topics.add(about(k))
	o := r.m.objects[k]
	if o == nil {
		return nil
	}
	labels := o.Metadata().Labels
	if v := labels.Get("istio.io/persistent-session-header"); v != "" {
		return &facts.SessionPersistence{By: &facts.SessionPersistence_Header{Header: v}}
	}
	v := labels.Get("istio.io/persistent-session")
	if v == "" {
		return nil
	}
	name, path, ok := strings.Cut(v, ":")
	if !ok {
		path = "/"
	}
	return &facts.SessionPersistence{By: &facts.SessionPersistence_Cookie{Cookie: name}, Path: path}
}
