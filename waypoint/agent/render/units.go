package render

import (
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/waypoint/agent/ads"
	"github.com/ambit-mesh/ambit/waypoint/envoy"
	"github.com/ambit-mesh/ambit/waypoint/facts"
)

func expandStatic(p *pass) {
	for _, c := range envoy.StaticClusters(p.env()) {
		p.put(ads.TypeCluster, c.GetName(), c)
	}
}

func expandListeners(p *pass) {
	listeners, problems := envoy.Listeners(p.env())
	p.note(problems)
	for _, l := range listeners {
		p.put(ads.TypeListener, l.GetName(), l)
	}
}

// expandDirect is what serves pods by their own address, and nobody.
func expandDirect(p *pass) {
	env := p.env()
	if !p.r.opts.InlineChains {
		chains, problems := envoy.GatewayChains(env)
		p.note(problems)
		for _, c := range chains {
			p.put(ads.TypeChain, c.GetName(), c)
		}
	}
	routes, problems := envoy.GatewayRoutes(env)
	p.note(problems)
	for _, rc := range routes {
		p.put(ads.TypeRoute, rc.GetName(), rc)
	}
}

func expandExtensions(p *pass) {
	p.deps[depPolicies] = struct{}{}
	extensions, problems := envoy.Extensions(p.env())
	p.note(problems)
	for _, x := range extensions {
		p.put(ads.TypeExtension, x.GetName(), x)
	}
}

func expandEdge(p *pass) {
	routes, problems := envoy.EdgeRoutes(p.env())
	p.note(problems)
	for _, rc := range routes {
		p.put(ads.TypeRoute, rc.GetName(), rc)
	}
}

func (p *pass) expandService(ns, host string) {
	env := p.env()
	svc := env.Service(ns, host)
	if p.gone = svc == nil; p.gone {
		return
	}
	if !p.r.opts.InlineChains {
		chains, problems := envoy.ServiceChains(env, svc)
		p.note(problems)
		for _, c := range chains {
			p.put(ads.TypeChain, c.GetName(), c)
		}
	}
	routes, problems := envoy.ServiceRoutes(env, svc)
	p.note(problems)
	for _, rc := range routes {
		p.put(ads.TypeRoute, rc.GetName(), rc)
	}
}

func (p *pass) expandClusters(ns, host string) {
	env := p.env()
	d := env.Destination(ns, host)
	if p.gone = d == nil; p.gone {
		return
	}
	clusters, problems := envoy.Clusters(env, d)
	p.note(problems)
	for _, c := range clusters {
		p.put(ads.TypeCluster, c.GetName(), c)
	}
}

func (p *pass) expandEndpoints(ns, host string) {
	env := p.env()
	d := env.Destination(ns, host)
	if p.gone = d == nil; p.gone {
		return
	}
	for _, a := range envoy.Assignments(env, d) {
		p.put(ads.TypeEndpoint, a.GetClusterName(), a)
	}
}

// expandSecret makes a secret of the control plane one of Envoy's: the certificate under the resource's name, and a bundle
// to verify peers with under that name and "-cacert", as Istio names them.
func (p *pass) expandSecret(name string) {
	p.deps[depSecret+name] = struct{}{}
	s := p.snapshot.Secret(name)
	if p.gone = s == nil; p.gone {
		return
	}
	if len(s.GetCertificateChain()) > 0 {
		p.put(ads.TypeSecret, name, &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{
			TlsCertificate: &tlsv3.TlsCertificate{
				CertificateChain: inline(s.GetCertificateChain()), PrivateKey: inline(s.GetPrivateKey()),
			},
		}})
	}
	if len(s.GetCa()) > 0 {
		p.put(ads.TypeSecret, name+"-cacert", &tlsv3.Secret{Name: name + "-cacert", Type: &tlsv3.Secret_ValidationContext{
			ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: inline(s.GetCa())},
		}})
	}
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}

// Problem is an expansion's, with the unit it came up in.
type Problem struct {
	Unit string
	envoy.Problem
}

// Problems lists what could not be expanded, in order of unit.
func (r *Renderer) Problems() []Problem {
	var out []Problem
	for u := range r.troubled {
		for _, p := range u.problems {
			out = append(out, Problem{u.key, p})
		}
	}
	slices.SortStableFunc(out, func(a, b Problem) int { return strings.Compare(a.Unit, b.Unit) })
	return out
}

// Objects names the unit a resource is part of and what the user wrote that it was made from, as "VirtualService
// namespace/name": whoever has to mend a refused resource looks for those.
func (r *Renderer) Objects(s *facts.Snapshot, typeURL, name string) (unit string, objects []string) {
	u := r.owner[resourceID{typeURL, name}]
	if u == nil {
		return "", nil
	}
	return u.key, objectsOf(s, u.key, name)
}

func objectsOf(s *facts.Snapshot, unit, name string) []string {
	kind, key, _ := strings.Cut(unit, "/")
	ns, host := cut(key)
	switch kind {
	case "service":
		if objects := serviceObjects(s.Service(ns, host)); len(objects) > 0 {
			return objects
		}
		// Telemetry, for one, is merged from several objects on its way here: at least say whose it is.
		return []string{"Service " + key}
	case "clusters", "endpoints":
		return originObjects([]*waypoint.Origin{s.Destination(ns, host).GetOrigin()})
	case "extensions":
		if module, ok := strings.CutPrefix(name, envoy.ModulePrefix); ok {
			return []string{"WasmPlugin " + module}
		}
	}
	return nil
}

func serviceObjects(svc *waypoint.Service) []string {
	var origins []*waypoint.Origin
	for _, port := range svc.GetPorts() {
		for _, rule := range port.GetHttp() {
			origins = append(origins, rule.GetOrigin())
		}
		for _, rule := range port.GetStream() {
			origins = append(origins, rule.GetOrigin())
		}
	}
	out := originObjects(origins)
	for _, a := range svc.GetPolicies().GetAuthorization() {
		out = append(out, "AuthorizationPolicy "+a.GetNamespace()+"/"+a.GetName())
	}
	for _, a := range svc.GetPolicies().GetAuthentication() {
		out = append(out, "RequestAuthentication "+a.GetNamespace()+"/"+a.GetName())
	}
	for _, l := range svc.GetPolicies().GetRateLimits() {
		out = append(out, "LocalRateLimitPolicy "+l.GetNamespace()+"/"+l.GetName())
	}
	for _, x := range svc.GetPolicies().GetExtensions() {
		out = append(out, envoy.ExtensionObject(x))
	}
	return out
}

// originObjects leaves out repetitions: an object has many rules.
func originObjects(origins []*waypoint.Origin) []string {
	var out []string
	for _, o := range origins {
		if o.GetKind() == "" {
			continue
		}
		if text := o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName(); !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	return out
}
