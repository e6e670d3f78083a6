package intake

import (
	"fmt"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/object"
)

const (
	maxSubsets = 500
	maxPorts   = 500
)

// destinationRule converts a DestinationRule. Istio pkg/config/validation ValidateDestinationRule.
func (r *reader) destinationRule(m object.Meta, spec *networking.DestinationRule) *object.DestinationRule {
	out := &object.DestinationRule{Meta: m, ExportTo: r.exportTo(spec.ExportTo), Host: r.fqdn(spec.Host, m.Namespace)}
	switch {
	case spec.Host == "":
		r.refuse(at("spec", "host"), "the field is missing", "write the name of a service")
	case !isHost(out.Host, true) && out.Host != "*":
		r.refuse(at("spec", "host"), fmt.Sprintf("%q is not a host name", clip(spec.Host)), hostFix(spec.Host))
	default:
		r.shortName(spec.Host, at("spec", "host"))
	}
	if s := spec.WorkloadSelector; s != nil {
		path := at("spec", "workloadSelector")
		r.noWildcards(s.MatchLabels, sub(path, "matchLabels"))
		out.WorkloadSelector = object.Selector{Present: true, Labels: object.MakeLabels(s.MatchLabels)}
		r.warn(path, "the rule has no effect: it is for clients that have a proxy beside them", "remove the selector")
	}
	if spec.TrafficPolicy == nil && len(spec.Subsets) == 0 {
		r.warn(at("spec"), "the rule says nothing", "add trafficPolicy or subsets")
	}
	out.Policy, out.Ports = r.trafficPolicy(spec.TrafficPolicy, at("spec", "trafficPolicy"))
	if r.fewer(len(spec.Subsets), maxSubsets, at("spec", "subsets"), "subset") {
		for i, s := range spec.Subsets {
			out.Subsets = append(out.Subsets, r.subset(s, at("spec", "subsets", i), out))
		}
	}
	r.leftOut(spec)
	return out
}

func (r *reader) subset(in *networking.Subset, path []any, rule *object.DestinationRule) *waypoint.Subset {
	out := &waypoint.Subset{Name: in.Name, Labels: in.Labels}
	switch {
	case in.Name == "":
		r.refuse(sub(path, "name"), "the field is missing", "write a name, like v1")
	case !isLabel(in.Name):
		r.refuse(sub(path, "name"), fmt.Sprintf("%q is not a valid name", clip(in.Name)), nameFix(in.Name))
	}
	for _, o := range rule.Subsets {
		if o.Name == in.Name {
			r.refuse(sub(path, "name"), fmt.Sprintf("the subset %q stands twice", clip(in.Name)), "choose another name")
			break
		}
	}
	r.labels(in.Labels, sub(path, "labels"))
	if len(in.Labels) == 0 && in.TrafficPolicy == nil {
		r.warn(path, "the subset has no labels and is the whole service", "add labels of the workloads that are meant")
	}
	out.Policy, out.Ports = r.trafficPolicy(in.TrafficPolicy, sub(path, "trafficPolicy"))
	return out
}

func (r *reader) trafficPolicy(in *networking.TrafficPolicy, path []any) (*waypoint.TrafficPolicy, map[uint32]*waypoint.TrafficPolicy) {
	if in == nil {
		return nil, nil
	}
	out := &waypoint.TrafficPolicy{
		LoadBalancer: r.loadBalancer(in.LoadBalancer, sub(path, "loadBalancer")),
		Pool:         r.pool(in.ConnectionPool, sub(path, "connectionPool")),
		Outliers:     r.outliers(in.OutlierDetection, sub(path, "outlierDetection")),
		Tls:          r.clientTLS(in.Tls, sub(path, "tls")),
	}
	if p := in.ProxyProtocol; p != nil {
		out.ProxyProtocol = uint32(p.Version) + 1 // V1 is 0
	}
	if b := in.RetryBudget; b != nil {
		// Defaults as the field's documentation has them.
		out.RetryBudget = &waypoint.RetryBudget{Percent: 20, MinimumConcurrency: 3}
		if b.Percent != nil {
			r.perMillion(b.Percent.Value, sub(path, "retryBudget", "percent"))
			out.RetryBudget.Percent = b.Percent.Value
		}
		if b.MinRetryConcurrency != 0 {
			out.RetryBudget.MinimumConcurrency = b.MinRetryConcurrency
		}
	}
	if in.Tunnel != nil {
		r.warn(sub(path, "tunnel"), "connections through a forward proxy are not possible: they fail, rather than go around it", "remove the field, or name the proxy as the destination")
		out.Tls = &waypoint.ClientTLS{Broken: "trafficPolicy.tunnel is not supported"}
	}
	if !r.fewer(len(in.PortLevelSettings), maxPorts, sub(path, "portLevelSettings"), "port") || len(in.PortLevelSettings) == 0 {
		return out, nil
	}
	ports := make(map[uint32]*waypoint.TrafficPolicy)
	for i, s := range in.PortLevelSettings {
		p := sub(path, "portLevelSettings", i)
		n, ok := r.port(int64(s.Port.GetNumber()), sub(p, "port", "number"))
		if _, twice := ports[uint32(n)]; twice && ok {
			r.refuse(sub(p, "port", "number"), fmt.Sprintf("the port %d stands twice", n), "put the settings together")
		}
		ports[uint32(n)] = &waypoint.TrafficPolicy{
			LoadBalancer: r.loadBalancer(s.LoadBalancer, sub(p, "loadBalancer")),
			Pool:         r.pool(s.ConnectionPool, sub(p, "connectionPool")),
			Outliers:     r.outliers(s.OutlierDetection, sub(p, "outlierDetection")),
			Tls:          r.clientTLS(s.Tls, sub(p, "tls")),
		}
	}
	return out, ports
}

// whole checks a number that is not negative.
func (r *reader) whole(n int32, path []any) uint32 {
	if n < 0 {
		r.refuse(path, fmt.Sprintf("%d is negative", n), "write 0 or more")
		return 0
	}
	return uint32(n)
}

func (r *reader) pool(in *networking.ConnectionPoolSettings, path []any) *waypoint.ConnectionPool {
	if in == nil {
		return nil
	}
	out := &waypoint.ConnectionPool{}
	if t, p := in.Tcp, sub(path, "tcp"); t != nil {
		out.MaxConnections = r.whole(t.MaxConnections, sub(p, "maxConnections"))
		out.ConnectTimeout = r.duration(t.ConnectTimeout, sub(p, "connectTimeout"), false)
		out.MaxConnectionDuration = r.duration(t.MaxConnectionDuration, sub(p, "maxConnectionDuration"), false)
		out.TcpIdleTimeout = r.duration(t.IdleTimeout, sub(p, "idleTimeout"), true)
		if k := t.TcpKeepalive; k != nil {
			out.TcpKeepaliveProbes = k.Probes
			out.TcpKeepaliveTime = r.duration(k.Time, sub(p, "tcpKeepalive", "time"), false)
			out.TcpKeepaliveInterval = r.duration(k.Interval, sub(p, "tcpKeepalive", "interval"), false)
		}
	}
	if h, p := in.Http, sub(path, "http"); h != nil {
		out.MaxPendingRequests = r.whole(h.Http1MaxPendingRequests, sub(p, "http1MaxPendingRequests"))
		out.MaxRequests = r.whole(h.Http2MaxRequests, sub(p, "http2MaxRequests"))
		out.MaxRequestsPerConnection = r.whole(h.MaxRequestsPerConnection, sub(p, "maxRequestsPerConnection"))
		out.MaxConcurrentStreams = r.whole(h.MaxConcurrentStreams, sub(p, "maxConcurrentStreams"))
		if n := r.whole(h.MaxRetries, sub(p, "maxRetries")); n > 0 {
			out.MaxRetries = uint32Value(n)
		}
		out.IdleTimeout = r.duration(h.IdleTimeout, sub(p, "idleTimeout"), true)
		switch h.H2UpgradePolicy {
		case networking.ConnectionPoolSettings_HTTPSettings_DO_NOT_UPGRADE:
			out.Http2 = 1
		case networking.ConnectionPoolSettings_HTTPSettings_UPGRADE:
			out.Http2 = 2
		}
		if h.UseClientProtocol {
			if out.Http2 == 2 {
				r.refuse(sub(p, "useClientProtocol"), "h2UpgradePolicy: UPGRADE and useClientProtocol exclude each other", "remove one of the two")
			}
			out.Http2 = 3
		}
	}
	return out
}

func (r *reader) outliers(in *networking.OutlierDetection, path []any) *waypoint.OutlierDetection {
	if in == nil {
		return nil
	}
	out := &waypoint.OutlierDetection{
		Consecutive_5Xx:          in.Consecutive_5XxErrors,
		ConsecutiveGatewayErrors: in.ConsecutiveGatewayErrors,
		ConsecutiveLocalErrors:   in.ConsecutiveLocalOriginFailures,
		SplitLocalErrors:         in.SplitExternalLocalOriginErrors,
		Interval:                 r.duration(in.Interval, sub(path, "interval"), false),
		BaseEjection:             r.duration(in.BaseEjectionTime, sub(path, "baseEjectionTime"), false),
	}
	if n := in.ConsecutiveErrors; n > 0 && out.ConsecutiveGatewayErrors == nil { //nolint:staticcheck // people still write it
		out.ConsecutiveGatewayErrors = uint32Value(uint32(n))
	}
	if !in.SplitExternalLocalOriginErrors && in.ConsecutiveLocalOriginFailures.GetValue() > 0 {
		r.refuse(sub(path, "consecutiveLocalOriginFailures"), "the field means something only with splitExternalLocalOriginErrors: true", "add that, or remove the field")
	}
	for _, v := range []struct {
		name string
		n    int32
		into **wrappedUint32
	}{{"maxEjectionPercent", in.MaxEjectionPercent, &out.MaxEjectionPercent}, {"minHealthPercent", in.MinHealthPercent, &out.MinHealthPercent}} {
		r.perMillion(float64(v.n), sub(path, v.name))
		if v.n > 0 && v.n <= 100 {
			*v.into = uint32Value(uint32(v.n))
		}
	}
	return out
}

// clientTLS converts TLS towards a destination. What cannot be carried out breaks it: connections fail rather than go
// unprotected.
func (r *reader) clientTLS(in *networking.ClientTLSSettings, path []any) *waypoint.ClientTLS {
	if in == nil {
		return nil
	}
	out := &waypoint.ClientTLS{
		Sni: in.Sni, SubjectAltNames: in.SubjectAltNames, Secret: in.CredentialName,
		InsecureSkipVerify: in.InsecureSkipVerify.GetValue(),
	}
	r.fewer(len(in.SubjectAltNames), maxValues, sub(path, "subjectAltNames"), "name")
	if in.Sni != "" && !isHost(in.Sni, false) {
		r.refuse(sub(path, "sni"), fmt.Sprintf("%q is not a host name", clip(in.Sni)), hostFix(in.Sni))
	}
	files := in.ClientCertificate != "" || in.PrivateKey != "" || in.CaCertificates != ""
	if files && in.CredentialName != "" {
		r.refuse(sub(path, "credentialName"), "credentialName excludes files", "keep one of the two")
	}
	switch in.Mode {
	case networking.ClientTLSSettings_DISABLE:
		out.Mode = waypoint.ClientTLS_DISABLE
		return out
	case networking.ClientTLSSettings_ISTIO_MUTUAL:
		out.Mode = waypoint.ClientTLS_ISTIO_MUTUAL
		if files { // as Istio does; the other fields it lets through
			r.refuse(path, "mode ISTIO_MUTUAL uses the mesh's own certificates", "remove the files, or write mode: MUTUAL")
		}
		return out
	case networking.ClientTLSSettings_SIMPLE:
		out.Mode = waypoint.ClientTLS_SIMPLE
	case networking.ClientTLSSettings_MUTUAL:
		out.Mode = waypoint.ClientTLS_MUTUAL
		if in.CredentialName == "" && (in.ClientCertificate == "" || in.PrivateKey == "") {
			r.refuse(path, "mode MUTUAL needs a certificate", "write credentialName, the name of a Secret")
		}
	}
	broken := ""
	switch {
	case in.ClientCertificate != "" || in.PrivateKey != "":
		broken = "clientCertificate and privateKey are files of a proxy that the mesh does not have"
	case in.CaCertificates != "" && !out.InsecureSkipVerify:
		broken = "caCertificates is a file of a proxy that the mesh does not have"
	case in.CaCrl != "":
		broken = "caCrl is not supported"
	}
	if broken != "" {
		out.Broken = broken
		r.warn(path, broken+": connections to the destination fail", "put the certificates into a Secret and write its name as credentialName")
	}
	return out
}
