package intake

import (
	"fmt"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/object"
)

// virtualService converts a VirtualService. What is refused is what Istio's admission refuses
// (Istio pkg/config/validation ValidateVirtualService) and what no proxy could carry out.
func (r *reader) virtualService(m object.Meta, spec *networking.VirtualService) *object.VirtualService {
	out := &object.VirtualService{Meta: m, ExportTo: r.exportTo(spec.ExportTo)}
	r.virtualGateways(spec, out)
	r.virtualHosts(spec, out)
	if len(spec.Http)+len(spec.Tls)+len(spec.Tcp) == 0 {
		r.refuse(at("spec"), "there is no route", "add an entry to http, tls or tcp")
	}
	if !r.fewer(len(spec.Http)+len(spec.Tls)+len(spec.Tcp), maxRules, at("spec"), "route") {
		return nil
	}
	for i, h := range spec.Http {
		path := at("spec", "http", i)
		if rule, ok := r.virtualHTTP(h, uint32(i), path, out); ok {
			out.HTTP = append(out.HTTP, rule)
		}
	}
	r.shadowed(spec, out)
	for i, t := range spec.Tls {
		out.TLS = append(out.TLS, r.virtualTLS(t, uint32(i), at("spec", "tls", i), out)...)
	}
	for i, t := range spec.Tcp {
		out.TCP = append(out.TCP, r.virtualTCP(t, uint32(i), at("spec", "tcp", i), out)...)
	}
	r.leftOut(spec)
	return out
}

const meshGateway = "mesh"

func (r *reader) virtualGateways(spec *networking.VirtualService, out *object.VirtualService) {
	if !r.fewer(len(spec.Gateways), maxValues, at("spec", "gateways"), "gateway") {
		return
	}
	for i, g := range spec.Gateways {
		out.Gateways = append(out.Gateways, r.gatewayName(g, at("spec", "gateways", i), out.Namespace))
	}
	if len(out.Gateways) == 0 {
		out.Gateways = []string{meshGateway}
	}
}

// gatewayName completes the name of a gateway; "mesh" stands for everything that is none.
func (r *reader) gatewayName(g string, path []any, namespace string) string {
	if g == meshGateway {
		return g
	}
	ns, name, ok := strings.Cut(g, "/")
	if !ok {
		ns, name = namespace, g
	}
	if ns == "." {
		ns = namespace
	}
	if !isLabel(ns) || !isSubdomain(name) {
		r.refuse(path, fmt.Sprintf("%q is not the name of a gateway", clip(g)), "write mesh, NAME or NAMESPACE/NAME")
	}
	return r.d.words.one(ns + "/" + name)
}

func (r *reader) virtualHosts(spec *networking.VirtualService, out *object.VirtualService) {
	path := at("spec", "hosts")
	if len(spec.Hosts) == 0 {
		// A delegate: other VirtualServices name it.
		if len(spec.Gateways) > 0 || len(spec.Tls)+len(spec.Tcp) > 0 {
			r.refuse(path, "a VirtualService without hosts is there to be delegated to and has http routes only", "add hosts, or remove gateways, tls and tcp")
		}
		return
	}
	if !r.fewer(len(spec.Hosts), maxHosts, path, "host") {
		return
	}
	for i, h := range spec.Hosts {
		host := r.fqdn(h, out.Namespace)
		_, ip := address(host)
		switch {
		case host == "":
			r.refuse(sub(path, i), "the host is empty", "write the name of a service")
		case host == "*" && slices.Contains(out.Gateways, meshGateway):
			r.refuse(sub(path, i), `"*" stands for every host of the mesh`, "name the hosts, or name a gateway in spec.gateways")
		case host != "*" && !ip && !isHost(host, true):
			r.refuse(sub(path, i), fmt.Sprintf("%q is not a host name", clip(h)), hostFix(h))
		case slices.Contains(out.Hosts, host):
			r.refuse(sub(path, i), fmt.Sprintf("the host %q stands twice", clip(host)), "remove one of the two")
		default:
			r.shortName(h, sub(path, i))
			out.Hosts = append(out.Hosts, host)
		}
	}
}

// shadowed warns about routes behind one that matches everything.
func (r *reader) shadowed(spec *networking.VirtualService, out *object.VirtualService) {
	last := -1
	for _, h := range out.HTTP {
		i := int(h.Rule.Origin.Rule)
		if last >= 0 {
			r.warn(at("spec", "http", i), fmt.Sprintf("the route is never reached: http[%d] before it matches every request", last), "move the route that matches everything to the end")
			return
		}
		if len(spec.Http[i].Match) == 0 {
			last = i
		}
	}
}

func origin(kind string, m object.Meta, rule uint32, name string) *waypoint.Origin {
	return &waypoint.Origin{Kind: kind, Namespace: m.Namespace, Name: m.Name, Rule: rule, RuleName: name}
}

func (r *reader) virtualHTTP(in *networking.HTTPRoute, i uint32, path []any, vs *object.VirtualService) (object.VirtualHTTP, bool) {
	out := object.VirtualHTTP{Rule: &waypoint.HTTPRule{Origin: origin("VirtualService", vs.Meta, i, in.Name)}}
	if len(in.Name) > 253 {
		r.refuse(sub(path, "name"), "the name is too long", "use at most 253 characters")
	}
	reachable := r.virtualMatches(in, path, vs, &out)
	r.virtualAction(in, path, vs, &out)
	r.virtualEdits(in, path, out.Rule)
	r.virtualMirrors(in, path, vs, out.Rule)
	out.Rule.Timeout = r.duration(in.Timeout, sub(path, "timeout"), true)
	out.Rule.Retry = r.retry(in.Retries, sub(path, "retries"))
	out.Rule.Fault = r.fault(in.Fault, sub(path, "fault"))
	out.Rule.Cors = r.cors(in.CorsPolicy, sub(path, "corsPolicy"))
	return out, reachable
}

// virtualAction converts what becomes of a request. Exactly one of the four must be asked for.
func (r *reader) virtualAction(in *networking.HTTPRoute, path []any, vs *object.VirtualService, out *object.VirtualHTTP) {
	var set []string
	for _, a := range []struct {
		name string
		is   bool
	}{{"route", len(in.Route) > 0}, {"redirect", in.Redirect != nil}, {"directResponse", in.DirectResponse != nil}, {"delegate", in.Delegate != nil}} {
		if a.is {
			set = append(set, a.name)
		}
	}
	switch {
	case len(set) == 0:
		r.refuse(path, "nothing is done with the request", "add a route, redirect, directResponse or delegate")
		return
	case len(set) > 1:
		r.refuse(sub(path, set[1]), fmt.Sprintf("%s exclude each other", strings.Join(set, " and ")), "keep one of them")
		return
	}
	switch set[0] {
	case "route":
		out.Rule.Action = &waypoint.HTTPRule_Forward{Forward: &waypoint.Forward{Backends: r.virtualBackends(in.Route, sub(path, "route"), vs.Namespace)}}
	case "redirect":
		if in.Fault != nil || in.Rewrite != nil {
			r.refuse(path, "a redirect excludes rewrite and fault", "remove them")
		}
		out.Rule.Action = &waypoint.HTTPRule_Redirect{Redirect: r.virtualRedirect(in.Redirect, sub(path, "redirect"))}
	case "directResponse":
		out.Rule.Action = &waypoint.HTTPRule_Direct{Direct: r.virtualDirect(in.DirectResponse, sub(path, "directResponse"))}
	case "delegate":
		d := object.Ref{Group: groupNetworking, Kind: "VirtualService", Namespace: in.Delegate.Namespace, Name: in.Delegate.Name}
		if d.Namespace == "" {
			d.Namespace = vs.Namespace
		}
		if !isSubdomain(d.Name) || !isLabel(d.Namespace) {
			r.refuse(sub(path, "delegate", "name"), fmt.Sprintf("%q is not the name of a VirtualService", clip(d.Name)), "write the name, and the namespace if it is another one")
		}
		if len(vs.Hosts) == 0 {
			r.refuse(sub(path, "delegate"), "a VirtualService that is delegated to cannot delegate", "remove the field")
		}
		out.Delegate = d
	}
}

// destination converts where to; the port is 0 when it is left out.
func (r *reader) virtualDestination(in *networking.Destination, path []any, namespace string) *waypoint.Backend {
	if in.GetHost() == "" {
		r.refuse(sub(path, "host"), "the field is missing", "write the name of a service")
		return &waypoint.Backend{}
	}
	out := &waypoint.Backend{Hostname: r.fqdn(in.Host, namespace), Subset: in.Subset}
	switch {
	case out.Hostname == "*":
		r.refuse(sub(path, "host"), `"*" stands for every host`, "write the name of one")
	case !isHost(out.Hostname, true): // patterns are the hosts of ServiceEntries that have such
		r.refuse(sub(path, "host"), fmt.Sprintf("%q is not a host name", clip(in.Host)), hostFix(in.Host))
	default:
		r.shortName(in.Host, sub(path, "host"))
	}
	if in.Subset != "" && !isLabel(in.Subset) {
		r.refuse(sub(path, "subset"), fmt.Sprintf("%q is not the name of a subset", clip(in.Subset)), nameFix(in.Subset))
	}
	if in.Port != nil {
		n, _ := r.port(int64(in.Port.Number), sub(path, "port", "number"))
		out.Port = uint32(n)
	}
	return out
}

func (r *reader) virtualBackends(in []*networking.HTTPRouteDestination, path []any, namespace string) []*waypoint.Backend {
	if !r.fewer(len(in), maxBackends, path, "destination") {
		return nil
	}
	var out []*waypoint.Backend
	weights := make([]int32, len(in))
	for i, d := range in {
		b := r.virtualDestination(d.Destination, sub(path, i, "destination"), namespace)
		if h := d.Headers; h != nil {
			b.RequestHeaders, b.Rewrite = r.headerOperations(h.Request, sub(path, i, "headers", "request"), nil)
			b.ResponseHeaders, _ = r.headerOperations(h.Response, sub(path, i, "headers", "response"), nil)
		}
		weights[i] = d.Weight
		out = append(out, b)
	}
	r.weights(out, weights, path)
	return out
}

// weights are of any sum. One destination alone gets everything, whatever its weight says.
func (r *reader) weights(backends []*waypoint.Backend, weights []int32, path []any) {
	sum := int64(0)
	for i, w := range weights {
		if w < 0 {
			r.refuse(sub(path, i, "weight"), fmt.Sprintf("%d is not a weight", w), "write 0 or more")
			w = 0
		}
		backends[i].Weight = uint32(w)
		sum += int64(w)
	}
	switch {
	case len(backends) == 1:
		backends[0].Weight = 1
	case len(backends) > 1 && sum == 0:
		r.refuse(path, "no destination has a weight", "give each a weight, like 90 and 10")
	case sum > 1<<32-1: // Envoy's RouteAction.weighted_clusters
		r.refuse(path, "the weights add up to too much", "write smaller ones")
	}
}
