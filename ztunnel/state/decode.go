package state

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"unique"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/ca/identity"
)

// Decoding checks everything a lookup relies on later, so that deciding never meets a half-valid resource. A resource that
// fails is rejected alone and its previous version stays. Istio ambient wire contract, delta semantics: an unknown enum
// value or a bad address length is a NACK of that resource.

// shared returns a copy of the string that all equal strings share. A mesh has few distinct nodes, namespaces and
// networks but tens of thousands of workloads that name them.
func shared(s string) string {
	if s == "" {
		return ""
	}
	return unique.Make(s).Value()
}

func orDefault(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return shared(s)
}

func decodeWorkload(in *workload.Workload) (*Workload, error) {
	if in.GetUid() == "" {
		return nil, fmt.Errorf("workload %s/%s has no uid", in.GetNamespace(), in.GetName())
	}
	w := &Workload{
		UID:               in.GetUid(),
		Name:              tail(in.GetUid(), in.GetName()),
		Namespace:         shared(in.GetNamespace()),
		Hostname:          strings.ToLower(in.GetHostname()),
		Network:           shared(in.GetNetwork()),
		TrustDomain:       orDefault(in.GetTrustDomain(), mesh.DefaultTrustDomain),
		ServiceAccount:    orDefault(in.GetServiceAccount(), mesh.DefaultServiceAccount),
		Node:              shared(in.GetNode()),
		ClusterID:         orDefault(in.GetClusterId(), mesh.DefaultClusterID),
		CanonicalName:     shared(in.GetCanonicalName()),
		CanonicalRevision: shared(in.GetCanonicalRevision()),
		WorkloadName:      shared(in.GetWorkloadName()),
		Capacity:          1,
		NativeTunnel:      in.GetNativeTunnel(),
	}
	if c := in.GetCapacity(); c != nil {
		w.Capacity = c.GetValue()
	}
	if l := in.GetLocality(); l.GetRegion()+l.GetZone()+l.GetSubzone() != "" {
		w.Locality = &Locality{shared(l.GetRegion()), shared(l.GetZone()), shared(l.GetSubzone())}
	}
	for _, p := range in.GetAuthorizationPolicies() {
		w.AuthorizationPolicies = append(w.AuthorizationPolicies, shared(p))
	}
	if err := w.decodeEnums(in); err != nil {
		return nil, err
	}
	for i, raw := range in.GetAddresses() {
		a, err := decodeAddr(raw)
		if err != nil {
			return nil, fmt.Errorf("addresses[%d]: %w", i, err)
		}
		if !w.HasAddr(a) {
			w.Addrs = append(w.Addrs, a)
		}
	}
	var err error
	if w.Waypoint, err = decodeGateway(in.GetWaypoint()); err != nil {
		return nil, fmt.Errorf("waypoint: %w", err)
	}
	if w.NetworkGateway, err = decodeGateway(in.GetNetworkGateway()); err != nil {
		return nil, fmt.Errorf("network_gateway: %w", err)
	}
	if w.AppTunnel, err = decodeAppTunnel(in.GetApplicationTunnel()); err != nil {
		return nil, fmt.Errorf("application_tunnel: %w", err)
	}
	w.Guards = decodeGuards(in.GetExtensions())
	return w, w.decodeEndpoints(in.GetServices())
}

// tail returns name as a part of uid when uid ends in it, as that of a pod does, to keep one string less.
func tail(uid, name string) string {
	if name != "" && strings.HasSuffix(uid, name) {
		return uid[len(uid)-len(name):]
	}
	return strings.Clone(name)
}

func isPod(uid string) bool { return strings.Contains(uid, "//Pod/") }

func (w *Workload) decodeEnums(in *workload.Workload) error {
	switch p := in.GetTunnelProtocol(); p {
	case workload.TunnelProtocol_NONE:
		w.Tunnel = TCP
	case workload.TunnelProtocol_HBONE:
		w.Tunnel = HBONE
	default:
		return fmt.Errorf("tunnel_protocol %v is not supported", p)
	}
	switch t := in.GetWorkloadType(); t {
	case workload.WorkloadType_DEPLOYMENT, workload.WorkloadType_CRONJOB, workload.WorkloadType_POD, workload.WorkloadType_JOB:
		w.Type = WorkloadType(t)
	default:
		return fmt.Errorf("workload_type %d is unknown", t)
	}
	switch st := in.GetStatus(); st {
	case workload.WorkloadStatus_HEALTHY:
		w.Healthy = true
	case workload.WorkloadStatus_UNHEALTHY:
	default:
		return fmt.Errorf("status %d is unknown", st)
	}
	switch m := in.GetNetworkMode(); m {
	case workload.NetworkMode_STANDARD:
	case workload.NetworkMode_HOST_NETWORK:
		w.HostNetwork = true
	default:
		return fmt.Errorf("network_mode %d is unknown", m)
	}
	return nil
}

func (w *Workload) decodeEndpoints(services map[string]*workload.PortList) error {
	if len(services) == 0 {
		return nil
	}
	w.Endpoints = make([]Endpoint, 0, len(services))
	for name, list := range services {
		if _, host, ok := strings.Cut(name, "/"); !ok || host == "" {
			return fmt.Errorf("services: %q is not namespace/hostname", name)
		}
		e := Endpoint{Workload: w, Service: shared(name)}
		if n := len(list.GetPorts()); n > 0 {
			e.Ports = make([]ServicePort, n)
		}
		for i, p := range list.GetPorts() {
			port, err := decodePort(p)
			if err != nil {
				return fmt.Errorf("services[%s]: %w", name, err)
			}
			e.Ports[i] = port
		}
		w.Endpoints = append(w.Endpoints, e)
	}
	slices.SortFunc(w.Endpoints, func(a, b Endpoint) int { return strings.Compare(a.Service, b.Service) })
	return nil
}

func decodePort(p *workload.Port) (ServicePort, error) {
	if p.GetServicePort() == 0 || p.GetServicePort() > math.MaxUint16 {
		return ServicePort{}, fmt.Errorf("service_port %d is not a port", p.GetServicePort())
	}
	if p.GetTargetPort() > math.MaxUint16 {
		return ServicePort{}, fmt.Errorf("target_port %d is not a port", p.GetTargetPort())
	}
	return ServicePort{uint16(p.GetServicePort()), uint16(p.GetTargetPort())}, nil
}

func decodeAddr(raw []byte) (netip.Addr, error) {
	a, ok := netip.AddrFromSlice(raw)
	if !ok {
		return netip.Addr{}, fmt.Errorf("address has %d bytes, not 4 or 16", len(raw))
	}
	return Unmapped(a), nil
}

func decodePrefix(raw []byte, length uint32) (netip.Prefix, error) {
	a, ok := netip.AddrFromSlice(raw)
	if !ok {
		return netip.Prefix{}, fmt.Errorf("address has %d bytes, not 4 or 16", len(raw))
	}
	if a.Is4In6() && length >= 96 {
		a, length = a.Unmap(), length-96
	}
	if int64(length) > int64(a.BitLen()) {
		return netip.Prefix{}, fmt.Errorf("prefix length %d is too long for %s", length, a)
	}
	return netip.PrefixFrom(a, int(length)).Masked(), nil
}

func decodeGateway(in *workload.GatewayAddress) (*Gateway, error) {
	if in == nil {
		return nil, nil
	}
	if in.GetHboneMtlsPort() > math.MaxUint16 {
		return nil, fmt.Errorf("hbone_mtls_port %d is not a port", in.GetHboneMtlsPort())
	}
	g := &Gateway{Port: uint16(in.GetHboneMtlsPort())}
	if g.Port == 0 {
		g.Port = mesh.PortHBONE
	}
	switch d := in.GetDestination().(type) {
	case *workload.GatewayAddress_Hostname:
		g.Namespace, g.Hostname = shared(d.Hostname.GetNamespace()), shared(d.Hostname.GetHostname())
		if g.Hostname == "" {
			return nil, fmt.Errorf("destination hostname is empty")
		}
	case *workload.GatewayAddress_Address:
		a, err := decodeAddr(d.Address.GetAddress())
		if err != nil {
			return nil, err
		}
		g.Addr = NetAddr{shared(d.Address.GetNetwork()), a}
	default:
		return nil, fmt.Errorf("destination is neither a hostname nor an address")
	}
	return g, nil
}

func decodeAppTunnel(in *workload.ApplicationTunnel) (*AppTunnel, error) {
	if in == nil {
		return nil, nil
	}
	if in.GetPort() > math.MaxUint16 {
		return nil, fmt.Errorf("port %d is not a port", in.GetPort())
	}
	t := &AppTunnel{Port: uint16(in.GetPort())}
	switch p := in.GetProtocol(); p {
	case workload.ApplicationTunnel_NONE:
	case workload.ApplicationTunnel_PROXY:
		t.Proxy = true
	default:
		return nil, fmt.Errorf("protocol %d is unknown", p)
	}
	return t, nil
}

func decodeService(in *workload.Service) (*Service, error) {
	if in.GetHostname() == "" {
		return nil, fmt.Errorf("service %s/%s has no hostname", in.GetNamespace(), in.GetName())
	}
	s := &Service{
		Name:               in.GetName(),
		Namespace:          shared(in.GetNamespace()),
		Hostname:           shared(in.GetHostname()),
		SubjectAltNames:    in.GetSubjectAltNames(),
		Canonical:          in.GetCanonical(),
		IngressUseWaypoint: in.GetIngressUseWaypoint(),
		Guards:             decodeGuards(in.GetExtensions()),
	}
	s.key = mesh.ServiceName(s.Namespace, s.Hostname)
	for _, san := range in.GetSubjectAltNames() {
		// Other names than SPIFFE ids are legal and simply never equal a peer's.
		if id, err := identity.Parse(san); err == nil {
			s.Accept = append(s.Accept, id)
		}
	}
	for i, a := range in.GetAddresses() {
		if err := s.addAddress(a); err != nil {
			return nil, fmt.Errorf("addresses[%d]: %w", i, err)
		}
	}
	for i, p := range in.GetPorts() {
		port, err := decodePort(p)
		if err != nil {
			return nil, fmt.Errorf("ports[%d]: %w", i, err)
		}
		s.Ports = append(s.Ports, Port{port, AppProtocol(p.GetAppProtocol())})
	}
	if err := s.decodeEnums(in); err != nil {
		return nil, err
	}
	var err error
	if s.Waypoint, err = decodeGateway(in.GetWaypoint()); err != nil {
		return nil, fmt.Errorf("waypoint: %w", err)
	}
	for i, ww := range in.GetWeightedWaypoints() {
		g, err := decodeGateway(ww.GetDestination())
		if err == nil && g == nil {
			err = errors.New("destination is missing")
		}
		if err != nil {
			return nil, fmt.Errorf("weighted_waypoints[%d]: %w", i, err)
		}
		s.Waypoints = append(s.Waypoints, WeightedGateway{*g, ww.GetWeight()})
	}
	return s, nil
}

func (s *Service) addAddress(in *workload.NetworkAddress) error {
	if in.Length == nil {
		a, err := decodeAddr(in.GetAddress())
		if err != nil {
			return err
		}
		if v := (NetAddr{shared(in.GetNetwork()), a}); !slices.Contains(s.VIPs, v) {
			s.VIPs = append(s.VIPs, v)
		}
		return nil
	}
	p, err := decodePrefix(in.GetAddress(), in.GetLength())
	if err != nil {
		return err
	}
	if v := (NetPrefix{shared(in.GetNetwork()), p}); !slices.Contains(s.CIDRs, v) {
		s.CIDRs = append(s.CIDRs, v)
	}
	return nil
}

func (s *Service) decodeEnums(in *workload.Service) error {
	switch f := in.GetIpFamilies(); f {
	case workload.IPFamilies_AUTOMATIC, workload.IPFamilies_IPV4_ONLY, workload.IPFamilies_IPV6_ONLY, workload.IPFamilies_DUAL:
		s.Families = Families(f)
	default:
		return fmt.Errorf("ip_families %d is unknown", f)
	}
	switch v := in.GetVisibility(); v {
	case workload.Service_PUBLIC:
	case workload.Service_NAMESPACE:
		s.Private = true
	default:
		return fmt.Errorf("visibility %d is unknown", v)
	}
	lb := in.GetLoadBalancing()
	switch m := lb.GetMode(); m {
	case workload.LoadBalancing_UNSPECIFIED_MODE, workload.LoadBalancing_STRICT, workload.LoadBalancing_FAILOVER, workload.LoadBalancing_PASSTHROUGH:
		s.Mode = Mode(m)
	default:
		return fmt.Errorf("load_balancing.mode %d is unknown", m)
	}
	switch h := lb.GetHealthPolicy(); h {
	case workload.LoadBalancing_ONLY_HEALTHY:
	case workload.LoadBalancing_ALLOW_ALL:
		s.AllowUnhealthy = true
	default:
		return fmt.Errorf("load_balancing.health_policy %d is unknown", h)
	}
	for _, scope := range lb.GetRoutingPreference() {
		if scope < workload.LoadBalancing_UNSPECIFIED_SCOPE || scope > workload.LoadBalancing_NETWORK {
			return fmt.Errorf("load_balancing.routing_preference %d is unknown", scope)
		}
		s.Preference = append(s.Preference, Scope(scope))
	}
	return nil
}
