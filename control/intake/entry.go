package intake

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/control/object"
)

// custom is the frame of Istio's custom resources: Kubernetes around, protobuf inside.
type custom struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              *yaml.Node `json:"spec,omitempty"`
	Status            *yaml.Node `json:"status,omitempty"`
}

// ServiceEntry is a ServiceEntry's spec with its status, which has addresses that somebody has assigned.
type ServiceEntry struct {
	Spec   *networking.ServiceEntry
	Status *networking.ServiceEntryStatus // may be nil
}

func readServiceEntry(r *reader) object.Object {
	var in custom
	both := &ServiceEntry{Spec: &networking.ServiceEntry{}, Status: &networking.ServiceEntryStatus{}}
	r.object(&in)
	r.spec(in.Spec, both.Spec)
	if in.Status != nil {
		r.enter("status")
		r.message(in.Status, both.Status)
		r.leave()
	}
	m := r.meta(&in.ObjectMeta, true, isSubdomain)
	if r.refused > 0 {
		return nil
	}
	return r.convert(object.KindServiceEntry, m, both)
}

func (r *reader) serviceEntry(m object.Meta, both *ServiceEntry) *object.ServiceEntry {
	spec, out := both.Spec, &object.ServiceEntry{Meta: m}
	out.MeshInternal = spec.Location == networking.ServiceEntry_MESH_INTERNAL
	out.Resolution = resolutions[spec.Resolution]
	r.entryHosts(spec, out)
	r.entryAddresses(spec, out)
	r.entryPorts(spec, out)
	if w := spec.WorkloadSelector; w != nil {
		r.noWildcards(w.Labels, at("spec", "workloadSelector", "labels"))
		out.WorkloadSelector = object.Selector{Present: true, Labels: object.MakeLabels(w.Labels)}
	}
	r.entryEndpoints(spec, out)
	for i, e := range spec.ExportTo {
		if e != "." && e != "*" && e != "~" && !isLabel(e) {
			r.refuse(at("spec", "exportTo", i), fmt.Sprintf("%q is not a namespace", clip(e)), `write a namespace, "." for its own or "*" for all`)
		}
		out.ExportTo = append(out.ExportTo, r.d.words.one(e))
	}
	out.SubjectAltNames = slices.Clone(spec.SubjectAltNames)
	for i, a := range both.Status.GetAddresses() {
		if ip := r.ip(a.Value, at("status", "addresses", i, "value")); ip.IsValid() {
			out.Assigned = append(out.Assigned, object.HostAddress{Host: canonicalHost(a.Host), Address: ip})
		}
	}
	return out
}

// The mapping is spelled out, so that a new value upstream shows up as a missing one here and not as another.
var resolutions = map[networking.ServiceEntry_Resolution]object.Resolution{
	networking.ServiceEntry_NONE:            object.ResolutionNone,
	networking.ServiceEntry_STATIC:          object.ResolutionStatic,
	networking.ServiceEntry_DNS:             object.ResolutionDNS,
	networking.ServiceEntry_DNS_ROUND_ROBIN: object.ResolutionDNSRoundRobin,
	networking.ServiceEntry_DYNAMIC_DNS:     object.ResolutionDynamicDNS,
}

func canonicalHost(s string) string { return strings.TrimSuffix(lower(s), ".") }

func (r *reader) entryHosts(spec *networking.ServiceEntry, out *object.ServiceEntry) {
	path := at("spec", "hosts")
	if len(spec.Hosts) == 0 {
		r.refuse(path, "a ServiceEntry needs a host", "write one, like - api.example.com")
	}
	if len(spec.Hosts) > 256 {
		r.refuse(path, fmt.Sprintf("there are %d hosts, at most 256 are allowed", len(spec.Hosts)), "split the ServiceEntry")
		return
	}
	for i, h := range spec.Hosts {
		host := canonicalHost(h)
		switch {
		case h == "*":
			r.refuse(sub(path, i), `"*" stands for every host`, "name a domain, like *.example.com")
		case h == "":
			r.refuse(sub(path, i), "the host is empty", "write a name like api.example.com")
		case !isHost(h, true):
			r.refuse(sub(path, i), fmt.Sprintf("%q is not a host name", clip(h)), hostFix(h))
		case slices.Contains(out.Hosts, host):
			r.warn(sub(path, i), fmt.Sprintf("the host %q stands twice", clip(h)), "remove one of the two")
		default:
			out.Hosts = append(out.Hosts, host)
		}
	}
}

func hostFix(h string) string {
	switch {
	case strings.Contains(h, "://"):
		return "write the name alone, without the scheme"
	case strings.ContainsAny(h, "/"):
		return "write the name alone, without a path or namespace"
	case strings.Contains(h, ":"):
		return "write the name alone; ports stand in spec.ports"
	case strings.Contains(h, "*"):
		return "a star may only stand for the first part, like *.example.com"
	}
	return "write a name like api.example.com or *.example.com"
}

func (r *reader) entryAddresses(spec *networking.ServiceEntry, out *object.ServiceEntry) {
	dns := spec.Resolution == networking.ServiceEntry_DNS || spec.Resolution == networking.ServiceEntry_DNS_ROUND_ROBIN
	for i, s := range spec.Addresses {
		path := at("spec", "addresses", i)
		p, ok := prefix(s)
		switch {
		case !ok:
			problem, fix := whyNotPrefix(s)
			r.refuse(path, problem, fix)
			continue
		case !p.IsSingleIP() && dns:
			r.refuse(path, "a CIDR needs resolution NONE, STATIC or DYNAMIC_DNS", "write single addresses")
		case unusable(p.Addr()) && (p.IsSingleIP() || !p.Addr().IsUnspecified()):
			// With resolution NONE a proxy dials it, and means itself.
			r.refuse(path, fmt.Sprintf("%s means something else on each machine", p), "write an address other machines reach it at")
		case p != p.Masked():
			r.warn(path, fmt.Sprintf("%s has bits set beyond its length and means %s", p, p.Masked()), "write "+p.Masked().String())
		}
		out.Addresses = append(out.Addresses, p.Masked())
	}
}

// entryProtocols are the protocols Istio knows.
var entryProtocols = []string{"TCP", "TLS", "HTTP", "HTTP2", "HTTPS", "GRPC", "GRPC-WEB", "HTTP_PROXY", "MONGO", "REDIS", "MYSQL", "UDP", "HBONE"}

func (r *reader) entryPorts(spec *networking.ServiceEntry, out *object.ServiceEntry) {
	for i, in := range spec.Ports {
		path := at("spec", "ports", i)
		p := object.EntryPort{Name: r.d.words.one(in.Name), Protocol: strings.ToUpper(in.Protocol)}
		p.Number, _ = r.port(int64(in.Number), sub(path, "number"))
		p.TargetPort = p.Number
		if in.TargetPort != 0 {
			p.TargetPort, _ = r.port(int64(in.TargetPort), sub(path, "targetPort"))
		}
		switch {
		case in.Name == "":
			r.refuse(sub(path, "name"), "the field is missing", "write a name, like http")
		case !isPortKey(in.Name):
			r.refuse(sub(path, "name"), fmt.Sprintf("%q is not a valid port name", clip(in.Name)), nameFix(in.Name))
		}
		if p.Protocol == "" {
			p.Protocol = "TCP"
		} else if !slices.Contains(entryProtocols, p.Protocol) {
			r.notOneOf(locate(r.root, sub(path, "protocol")), sub(path, "protocol"), in.Protocol, entryProtocols)
		}
		p.Protocol = r.d.words.one(p.Protocol)
		for _, o := range out.Ports {
			if o.Name == p.Name {
				r.refuse(sub(path, "name"), fmt.Sprintf("the port name %q stands twice", p.Name), "choose another name")
			} else if o.Number == p.Number {
				r.refuse(sub(path, "number"), fmt.Sprintf("the port %d stands twice", p.Number), "choose another port")
			}
		}
		out.Ports = append(out.Ports, p)
	}
}

// isPortKey is the form of port names in Istio's resources.
func isPortKey(s string) bool {
	return len(s) < 63 && isLabel(lower(s))
}

func (r *reader) noWildcards(labels map[string]string, path []any) {
	for k, v := range labels {
		if k == "" {
			r.refuse(path, "a label's name is empty", "write a name before the colon")
		} else if strings.Contains(k, "*") || strings.Contains(v, "*") {
			r.refuse(sub(path, k), "a star means nothing in a selector", "write the whole value, or leave the label out to match any")
		}
	}
	r.labels(withoutStars(labels), path)
}

// withoutStars leaves out what was refused already.
func withoutStars(labels map[string]string) map[string]string {
	out := make(map[string]string, len(labels))
	for k, v := range labels {
		if k != "" && !strings.Contains(k, "*") && !strings.Contains(v, "*") {
			out[k] = v
		}
	}
	return out
}

func (r *reader) entryEndpoints(spec *networking.ServiceEntry, out *object.ServiceEntry) {
	path := at("spec", "endpoints")
	n := len(spec.Endpoints)
	switch {
	case n > 0 && spec.WorkloadSelector != nil:
		r.refuse(path, "endpoints and workloadSelector exclude each other", "remove one of the two")
	case n > 0 && spec.Resolution == networking.ServiceEntry_NONE:
		r.refuse(path, "with resolution NONE there are no endpoints", "write resolution: STATIC or DNS, or remove the endpoints")
	case n > 1 && spec.Resolution == networking.ServiceEntry_DNS_ROUND_ROBIN:
		r.refuse(path, "with resolution DNS_ROUND_ROBIN there is at most one endpoint", "write resolution: DNS")
	case n == 0 && spec.WorkloadSelector == nil && (spec.Resolution == networking.ServiceEntry_DNS || spec.Resolution == networking.ServiceEntry_DNS_ROUND_ROBIN):
		for i, h := range spec.Hosts {
			if strings.HasPrefix(h, "*") {
				r.refuse(at("spec", "hosts", i), "a host with a star cannot be looked up", "name endpoints, or write resolution: NONE or DYNAMIC_DNS")
			}
		}
	}
	for i, e := range spec.Endpoints {
		w := r.workload(e, sub(path, i))
		if spec.Resolution == networking.ServiceEntry_STATIC && w.Host != "" {
			r.refuse(sub(path, i, "address"), fmt.Sprintf("%q is not an IP address, which resolution STATIC needs", clip(w.Host)), "write an address, or resolution: DNS")
		}
		if w.Unix != "" && spec.Resolution != networking.ServiceEntry_STATIC {
			r.refuse(sub(path, i, "address"), "a unix socket needs resolution STATIC", "write resolution: STATIC")
		}
		for _, p := range w.Ports {
			if !slices.ContainsFunc(out.Ports, func(o object.EntryPort) bool { return o.Name == p.Name }) {
				r.refuse(sub(path, i, "ports", p.Name), fmt.Sprintf("the ServiceEntry has no port named %q", clip(p.Name)), "use a name of spec.ports")
			}
		}
		out.Endpoints = append(out.Endpoints, w)
	}
}

func (r *reader) workloadEntry(m object.Meta, spec *networking.WorkloadEntry) *object.WorkloadEntry {
	return &object.WorkloadEntry{Meta: m, Workload: r.workload(spec, at("spec"))}
}

// workload checks and converts what WorkloadEntries and inline endpoints share.
func (r *reader) workload(in *networking.WorkloadEntry, path []any) object.Workload {
	one := r.d.words.one
	out := object.Workload{
		Labels: object.MakeLabels(in.Labels), Network: one(in.Network), Locality: one(in.Locality),
		Weight: in.Weight, ServiceAccount: one(in.ServiceAccount),
	}
	r.labels(in.Labels, sub(path, "labels"))
	if in.ServiceAccount != "" && !isSubdomain(in.ServiceAccount) {
		r.refuse(sub(path, "serviceAccount"), fmt.Sprintf("%q is not a valid name", clip(in.ServiceAccount)), nameFix(in.ServiceAccount))
	}
	r.workloadAddress(in, sub(path, "address"), &out)
	for name, n := range in.Ports {
		p, _ := r.port(int64(n), sub(path, "ports", name))
		if !isPortKey(name) {
			r.refuse(sub(path, "ports", name), fmt.Sprintf("%q is not a valid port name", clip(name)), nameFix(name))
		}
		out.Ports = append(out.Ports, object.NamedPort{Name: one(name), Port: p})
	}
	slices.SortFunc(out.Ports, func(a, b object.NamedPort) int { return strings.Compare(a.Name, b.Name) })
	if strings.Count(in.Locality, "/") > 2 {
		r.refuse(sub(path, "locality"), fmt.Sprintf("%q has more than three parts", clip(in.Locality)), "write region/zone/subzone")
	}
	return out
}

func (r *reader) workloadAddress(in *networking.WorkloadEntry, path []any, out *object.Workload) {
	s := in.Address
	if sock, ok := strings.CutPrefix(s, "unix://"); ok {
		out.Unix = sock
		if !strings.HasPrefix(sock, "/") && !strings.HasPrefix(sock, "@") || strings.HasSuffix(sock, "/") {
			r.refuse(path, fmt.Sprintf("%q is not a socket", clip(s)), "write unix:// and an absolute path")
		}
		if len(in.Ports) > 0 {
			r.refuse(path, "a unix socket has no ports", "remove the ports")
		}
		return
	}
	if ip, ok := address(s); ok {
		if unusable(ip) { // of every proxy that connects there, such as a waypoint that others share
			r.refuse(path, ip.String()+" cannot be the address of an endpoint", "write the address other machines reach it at")
		}
		out.Address = ip
		return
	}
	switch {
	case s == "" && in.Network == "":
		r.refuse(path, "the field is missing", "write an IP address or a host name; only a workload behind another network's gateway needs none")
	case s == "":
	case strings.Contains(s, "/") || strings.Trim(s, "0123456789.") == "":
		r.ip(s, path)
	case !isHost(s, false):
		r.refuse(path, fmt.Sprintf("%q is neither an IP address nor a host name", clip(s)), hostFix(s))
	default:
		out.Host = canonicalHost(s)
	}
}

// spec reads the protobuf part of a custom resource; it may be missing.
func (r *reader) spec(n *yaml.Node, into proto.Message) {
	if n != nil {
		r.enter("spec")
		r.message(n, into)
		r.leave()
	}
}
