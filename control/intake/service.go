package intake

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/ambit-mesh/ambit/control/object"
)

func (r *reader) service(in *corev1.Service) *object.Service {
	out := &object.Service{
		Meta:                     r.meta(&in.ObjectMeta, true, isLabel),
		ExternalName:             in.Spec.ExternalName,
		PublishNotReadyAddresses: in.Spec.PublishNotReadyAddresses,
		SessionAffinity:          in.Spec.SessionAffinity == corev1.ServiceAffinityClientIP,
	}
	if r.refused > 0 {
		return nil
	}
	s := &in.Spec
	r.oneOf(string(s.Type), at("spec", "type"), "ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
	r.oneOf(string(s.SessionAffinity), at("spec", "sessionAffinity"), "None", "ClientIP")
	switch s.Type {
	case corev1.ServiceTypeNodePort:
		out.Type = object.NodePort
	case corev1.ServiceTypeLoadBalancer:
		out.Type = object.LoadBalancer
	case corev1.ServiceTypeExternalName:
		out.Type = object.ExternalName
		if !isHost(s.ExternalName, false) {
			r.refuse(at("spec", "externalName"), fmt.Sprintf("%q is not a host name", clip(s.ExternalName)), "write the name the Service stands for, like db.example.com")
		}
	}
	if len(s.Selector) > 0 {
		r.labels(s.Selector, at("spec", "selector"))
		out.Selector = object.Selector{Present: true, Labels: object.MakeLabels(s.Selector)}
	}
	r.trafficPolicies(s, out)
	r.clusterIPs(s, out)
	r.servicePorts(s, out)
	for i, in := range in.Status.LoadBalancer.Ingress {
		if in.IP == "" {
			continue
		}
		if ip := r.ip(in.IP, at("status", "loadBalancer", "ingress", i, "ip")); ip.IsValid() {
			out.Ingress = append(out.Ingress, ip)
		}
	}
	return out
}

func (r *reader) trafficPolicies(s *corev1.ServiceSpec, out *object.Service) {
	if p := s.InternalTrafficPolicy; p != nil {
		r.oneOf(string(*p), at("spec", "internalTrafficPolicy"), "Cluster", "Local")
		out.InternalTrafficLocal = *p == corev1.ServiceInternalTrafficPolicyLocal
	}
	if d := s.TrafficDistribution; d != nil {
		r.oneOf(*d, at("spec", "trafficDistribution"), "PreferClose", "PreferSameZone", "PreferSameNode")
		out.TrafficDistribution = r.d.words.one(*d)
	}
	for i, f := range s.IPFamilies {
		if !r.oneOf(string(f), at("spec", "ipFamilies", i), "IPv4", "IPv6") {
			continue
		}
		family := object.IPv4
		if f == corev1.IPv6Protocol {
			family = object.IPv6
		}
		if slices.Contains(out.IPFamilies, family) {
			r.refuse(at("spec", "ipFamilies", i), string(f)+" stands twice", "remove one of the two")
		}
		out.IPFamilies = append(out.IPFamilies, family)
	}
	if p := s.IPFamilyPolicy; p != nil {
		r.oneOf(string(*p), at("spec", "ipFamilyPolicy"), "SingleStack", "PreferDualStack", "RequireDualStack")
		switch *p {
		case corev1.IPFamilyPolicySingleStack:
			out.IPFamilyPolicy = object.SingleStack
		case corev1.IPFamilyPolicyPreferDualStack:
			out.IPFamilyPolicy = object.PreferDualStack
		case corev1.IPFamilyPolicyRequireDualStack:
			out.IPFamilyPolicy = object.RequireDualStack
		}
	}
}

func (r *reader) clusterIPs(s *corev1.ServiceSpec, out *object.Service) {
	ips, path := s.ClusterIPs, at("spec", "clusterIPs")
	if len(ips) == 0 && s.ClusterIP != "" {
		ips, path = []string{s.ClusterIP}, nil
	} else if s.ClusterIP != "" && ips[0] != s.ClusterIP {
		r.refuse(at("spec", "clusterIP"), fmt.Sprintf("%q is not the first of clusterIPs, %q", clip(s.ClusterIP), clip(ips[0])), "make the two agree")
		return
	}
	for i, text := range ips {
		p := sub(path, i)
		if path == nil {
			p = at("spec", "clusterIP")
		}
		switch text {
		case corev1.ClusterIPNone:
			out.Headless = true
			if len(ips) > 1 {
				r.refuse(p, `"None" must stand alone`, "remove the other addresses or this one")
			}
		case "":
			r.refuse(p, "the address is empty", `write an address or "None"`)
		default:
			ip := r.ip(text, p)
			switch {
			case !ip.IsValid():
			case ip.IsUnspecified() || ip.IsLoopback() || ip.IsMulticast() || ip.IsLinkLocalUnicast():
				r.refuse(p, ip.String()+" cannot be the address of a Service", "choose an address of the cluster's service range")
			case i < len(out.IPFamilies) && object.FamilyOf(ip) != out.IPFamilies[i]:
				r.refuse(p, fmt.Sprintf("%s is not of the family ipFamilies[%d] names", ip, i), "make the two agree")
			default:
				out.ClusterIPs = append(out.ClusterIPs, ip)
			}
		}
	}
	if out.Type == object.ExternalName && len(ips) > 0 {
		r.refuse(at("spec", "clusterIP"), "a Service of type ExternalName has no addresses", "remove the field")
	}
	r.families(out.ClusterIPs, at("spec", "clusterIPs"))
}

func (r *reader) servicePorts(s *corev1.ServiceSpec, out *object.Service) {
	if len(s.Ports) == 0 && !out.Headless && out.Type != object.ExternalName {
		r.refuse(at("spec", "ports"), "a Service needs a port", "write one, or clusterIP: None for a Service without ports")
	}
	for i, in := range s.Ports {
		path := at("spec", "ports", i)
		p := object.ServicePort{Name: r.d.words.one(in.Name), NodePort: uint16(in.NodePort)}
		p.Port, _ = r.port(int64(in.Port), sub(path, "port"))
		p.Protocol = r.protocol(string(in.Protocol), sub(path, "protocol"))
		switch {
		case in.Name == "" && len(s.Ports) > 1:
			r.refuse(sub(path, "name"), "with several ports each needs a name", "write a name")
		case in.Name != "" && !isLabel(in.Name):
			r.refuse(sub(path, "name"), fmt.Sprintf("%q is not a valid port name", clip(in.Name)), nameFix(in.Name))
		}
		if in.NodePort < 0 || in.NodePort > 65535 {
			r.port(int64(in.NodePort), sub(path, "nodePort"))
		}
		if a := in.AppProtocol; a != nil {
			if !isQualifiedName(*a) {
				r.refuse(sub(path, "appProtocol"), fmt.Sprintf("%q is not a valid protocol name", clip(*a)), "write it like http or kubernetes.io/h2c")
			}
			p.AppProtocol = r.d.words.one(*a)
		}
		r.targetPort(in.TargetPort, sub(path, "targetPort"), &p)
		for _, o := range out.Ports {
			if o.Name == p.Name && len(s.Ports) > 1 && p.Name != "" {
				r.refuse(sub(path, "name"), fmt.Sprintf("the port name %q stands twice", p.Name), "choose another name")
			} else if o.Port == p.Port && o.Protocol == p.Protocol {
				r.refuse(sub(path, "port"), fmt.Sprintf("the port %d/%s stands twice", p.Port, p.Protocol), "choose another port")
			}
		}
		out.Ports = append(out.Ports, p)
	}
}

func (r *reader) targetPort(in intstr.IntOrString, path []any, p *object.ServicePort) {
	switch {
	case in.Type == intstr.String && in.StrVal == "", in.Type == intstr.Int && in.IntVal == 0:
		p.TargetPort = p.Port
	case in.Type == intstr.Int:
		p.TargetPort, _ = r.port(int64(in.IntVal), path)
	case isPortName(in.StrVal):
		p.TargetName = r.d.words.one(in.StrVal)
	case looksLike(in.StrVal, wantNumber):
		r.refuse(path, fmt.Sprintf("%q in quotes is the name of a port, and names need a letter", clip(in.StrVal)), "write the number without quotes")
	default:
		r.refuse(path, fmt.Sprintf("%q is neither a port nor the name of one", clip(in.StrVal)), "write a number, or the name of a container's port")
	}
}

// labelServiceName ties an EndpointSlice to its Service.
const labelServiceName = "kubernetes.io/service-name"

// maxEndpoints is the API server's limit for one slice.
const maxEndpoints = 1000

func (r *reader) endpointSlice(in *discoveryv1.EndpointSlice) *object.EndpointSlice {
	out := &object.EndpointSlice{Meta: r.meta(&in.ObjectMeta, true, isSubdomain), Service: r.d.words.one(in.Labels[labelServiceName])}
	if r.refused > 0 {
		return nil
	}
	switch in.AddressType {
	case discoveryv1.AddressTypeIPv4:
		out.Family = object.IPv4
	case discoveryv1.AddressTypeIPv6:
		out.Family = object.IPv6
	case discoveryv1.AddressTypeFQDN:
	case "":
		r.refuse(at("addressType"), "the field is missing", "write IPv4, IPv6 or FQDN")
	default:
		r.oneOf(string(in.AddressType), at("addressType"), "IPv4", "IPv6", "FQDN")
	}
	for i, p := range in.Ports {
		r.slicePort(p, at("ports", i), out)
	}
	if len(in.Endpoints) > maxEndpoints {
		r.refuse(at("endpoints"), fmt.Sprintf("there are %d endpoints, at most %d are allowed", len(in.Endpoints), maxEndpoints), "split the slice")
		return nil
	}
	for i := range in.Endpoints {
		r.endpoint(&in.Endpoints[i], at("endpoints", i), out)
	}
	return out
}

func (r *reader) slicePort(in discoveryv1.EndpointPort, path []any, out *object.EndpointSlice) {
	var p object.SlicePort
	if in.Name != nil {
		p.Name = r.d.words.one(*in.Name)
		if p.Name != "" && !isLabel(p.Name) {
			r.refuse(sub(path, "name"), fmt.Sprintf("%q is not a valid port name", clip(p.Name)), nameFix(p.Name))
		}
	}
	if slices.ContainsFunc(out.Ports, func(o object.SlicePort) bool { return o.Name == p.Name }) {
		r.refuse(sub(path, "name"), fmt.Sprintf("the port name %q stands twice", p.Name), "choose another name")
	}
	if in.Port != nil {
		p.Port, _ = r.port(int64(*in.Port), sub(path, "port"))
	}
	if in.Protocol != nil {
		p.Protocol = r.protocol(string(*in.Protocol), sub(path, "protocol"))
	}
	if in.AppProtocol != nil {
		p.AppProtocol = r.d.words.one(*in.AppProtocol)
	}
	out.Ports = append(out.Ports, p)
}

func (r *reader) endpoint(in *discoveryv1.Endpoint, path []any, out *object.EndpointSlice) {
	deref := func(s *string) string {
		if s == nil {
			return ""
		}
		return r.d.words.one(*s)
	}
	e := object.Endpoint{Hostname: deref(in.Hostname), Node: deref(in.NodeName), Zone: deref(in.Zone), Ready: true}
	if in.Conditions.Ready != nil {
		e.Ready = *in.Conditions.Ready
	}
	e.Serving = e.Ready
	if in.Conditions.Serving != nil {
		e.Serving = *in.Conditions.Serving
	}
	e.Terminating = in.Conditions.Terminating != nil && *in.Conditions.Terminating
	if len(in.Addresses) == 0 {
		r.refuse(sub(path, "addresses"), "an endpoint needs an address", "write one or remove the endpoint")
	}
	for i, s := range in.Addresses {
		r.endpointAddress(s, sub(path, "addresses", i), out.Family, &e)
	}
	if t := in.TargetRef; t != nil && t.Kind == "Pod" {
		ns := t.Namespace
		if ns == "" {
			ns = out.Namespace
		}
		e.TargetPod = object.Key{Kind: object.KindPod, Namespace: r.d.words.one(ns), Name: t.Name}
	}
	out.Endpoints = append(out.Endpoints, e)
}

func (r *reader) endpointAddress(s string, path []any, family object.IPFamily, e *object.Endpoint) {
	if family == 0 {
		if !isHost(s, false) {
			r.refuse(path, fmt.Sprintf("%q is not a host name", clip(s)), "write a name like db.example.com")
		}
		e.FQDNs = append(e.FQDNs, s)
		return
	}
	ip := r.ip(s, path)
	switch {
	case !ip.IsValid():
	case object.FamilyOf(ip) != family:
		r.refuse(path, fmt.Sprintf("%s is not of the slice's addressType", ip), "put it into a slice of its own")
	case unusable(ip):
		r.refuse(path, ip.String()+" cannot be the address of an endpoint", "write the address other machines reach it at")
	default:
		e.Addresses = append(e.Addresses, ip)
	}
}

// unusable are the addresses Kubernetes refuses for endpoints.
func unusable(ip netip.Addr) bool {
	return ip.IsUnspecified() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsLinkLocalMulticast()
}
