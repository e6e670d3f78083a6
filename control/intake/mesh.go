package intake

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	mesh "istio.io/api/mesh/v1alpha1"
	telemetry "istio.io/api/telemetry/v1alpha1"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/object"
)

// meshConfig reads the mesh configuration, which is YAML inside YAML. Lines are those of the file.
func (r *reader) meshConfig(s string, path []any, namespace string) *object.MeshConfig {
	line := locate(r.root, path)
	if n := nodeAt(r.root, path); n != nil && n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		line = n.Line + 1
	}
	spec := &mesh.MeshConfig{}
	inner := &reader{d: r.d, file: r.file, kind: r.kind, name: r.name, namespace: r.namespace, budget: r.budget}
	if strings.TrimSpace(s) != "" {
		root, err := parse([]byte(s), max(line, 1), r.d.limits.Nodes)
		if err != nil {
			problem := err.Error()
			var se *syntaxError
			if errors.As(err, &se) {
				line, problem = se.line, se.text
			}
			r.refuseLine(line, path, "the mesh configuration is not understood: "+problem, syntaxFix(problem))
			return nil
		}
		inner.root = follow(root)
		if kindOf(inner.root) == mapping {
			inner.message(inner.root, spec)
		} else if kindOf(inner.root) != null {
			inner.mismatch(inner.root, wantMapping)
		}
	}
	var out *object.MeshConfig
	if inner.refused == 0 {
		out = inner.meshSettings(spec, namespace)
		inner.leftOutOf(spec.ProtoReflect(), nil)
	}
	for _, e := range inner.entries {
		e.Field = strings.TrimSuffix(pathString(path)+"."+e.Field, ".")
		if r.root == nil {
			e.Line = 0
		}
		r.entries = append(r.entries, e)
	}
	r.refused += inner.refused
	return out
}

func (r *reader) meshSettings(spec *mesh.MeshConfig, namespace string) *object.MeshConfig {
	out := &object.MeshConfig{
		AccessLogFile: spec.AccessLogFile, AccessLogFormat: spec.AccessLogFormat,
		AccessLogJSON: spec.AccessLogEncoding == mesh.MeshConfig_JSON,
		TrustDomain:   spec.TrustDomain, TrustDomainAliases: spec.TrustDomainAliases,
		PathNormalization: normalization(spec.PathNormalization.GetNormalization()),
		DefaultRetry:      r.retry(spec.DefaultHttpRetryPolicy, at("defaultHttpRetryPolicy")),
		Locality:          r.locality(spec.LocalityLbSetting, at("localityLbSetting")),
		RegistryOnly:      spec.OutboundTrafficPolicy != nil && spec.OutboundTrafficPolicy.Mode == mesh.MeshConfig_OutboundTrafficPolicy_REGISTRY_ONLY,
		TrustedProxies:    spec.DefaultConfig.GetGatewayTopology().GetNumTrustedProxies(),

		ServiceExportTo: spec.DefaultServiceExportTo, VirtualServiceExportTo: spec.DefaultVirtualServiceExportTo,
		DestinationRuleExportTo: spec.DefaultDestinationRuleExportTo,
	}
	if d := r.duration(spec.ConnectTimeout, at("connectTimeout"), false); d != nil {
		t := d.AsDuration()
		out.ConnectTimeout = &t
	}
	for i, td := range append([]string{spec.TrustDomain}, spec.TrustDomainAliases...) {
		if i > 0 && td == "" || td != "" && !isHost(td, false) {
			r.refuse(at("trustDomainAliases"), fmt.Sprintf("%q is not a trust domain", clip(td)), "write it like cluster.local")
		}
	}
	if n := out.TrustedProxies; n > 255 {
		r.refuse(at("defaultConfig", "gatewayTopology", "numTrustedProxies"), fmt.Sprintf("%d proxies are not possible", n), "write how many stand before the gateway")
	}
	if p := spec.DefaultTrafficPolicy; p != nil {
		out.ConnectionPool = r.pool(p.ConnectionPool, at("defaultTrafficPolicy", "connectionPool"))
		out.Outliers = r.outliers(p.OutlierDetection, at("defaultTrafficPolicy", "outlierDetection"))
	}
	r.short(spec.AccessLogFormat, at("accessLogFormat"))
	if ns := spec.RootNamespace; ns != "" && ns != namespace {
		r.warn(at("rootNamespace"), fmt.Sprintf("the root namespace is chosen when the control plane starts, and this file is in %s", namespace), "remove the field, or start the control plane with --root-namespace")
	}
	r.meshTracing(spec, out)
	r.meshProviders(spec, out)
	return out
}

func normalization(n mesh.MeshConfig_ProxyPathNormalization_NormalizationType) waypoint.MeshSettings_PathNormalization {
	switch n {
	case mesh.MeshConfig_ProxyPathNormalization_NONE:
		return waypoint.MeshSettings_NONE
	case mesh.MeshConfig_ProxyPathNormalization_MERGE_SLASHES:
		return waypoint.MeshSettings_MERGE_SLASHES
	case mesh.MeshConfig_ProxyPathNormalization_DECODE_AND_MERGE_SLASHES:
		return waypoint.MeshSettings_DECODE_AND_MERGE_SLASHES
	}
	return waypoint.MeshSettings_BASE // also DEFAULT, as in Istio
}

// meshTracing converts the old way to ask for traces: sampling and a Zipkin address in defaultConfig.
func (r *reader) meshTracing(spec *mesh.MeshConfig, out *object.MeshConfig) {
	t := spec.DefaultConfig.GetTracing()
	if !spec.EnableTracing && t == nil {
		return
	}
	out.Tracing = &waypoint.Tracing{Disabled: !spec.EnableTracing, MaxTagLength: t.GetMaxPathTagLength()}
	path := at("defaultConfig", "tracing")
	if s := t.GetSampling(); s != 0 {
		r.perMillion(s, sub(path, "sampling"))
		out.Tracing.Sampling = doubleValue(s)
	}
	for _, name := range slices.Sorted(maps.Keys(t.GetCustomTags())) {
		c := t.CustomTags[name]
		var literal *telemetry.Tracing_Literal
		var header *telemetry.Tracing_RequestHeader
		var environment *telemetry.Tracing_Environment
		switch k := c.GetType().(type) {
		case *mesh.Tracing_CustomTag_Literal:
			literal = &telemetry.Tracing_Literal{Value: k.Literal.GetValue()}
		case *mesh.Tracing_CustomTag_Header:
			header = &telemetry.Tracing_RequestHeader{Name: k.Header.GetName(), DefaultValue: k.Header.GetDefaultValue()}
		case *mesh.Tracing_CustomTag_Environment:
			environment = &telemetry.Tracing_Environment{Name: k.Environment.GetName(), DefaultValue: k.Environment.GetDefaultValue()}
		}
		out.Tracing.Tags = append(out.Tracing.Tags, r.traceTag(name, literal, header, environment, sub(path, "customTags", name)))
	}
	switch k := t.GetTracer().(type) {
	case nil:
	case *mesh.Tracing_Zipkin_:
		out.Tracing.Zipkin = r.hostPort(k.Zipkin.GetAddress(), sub(path, "zipkin", "address"))
	default:
		r.warn(path, "only Zipkin can be named here: no traces are sent", "write an extension provider opentelemetry or zipkin")
	}
}

// hostPort converts an address of a collector.
func (r *reader) hostPort(s string, path []any) *waypoint.Backend {
	host, text, err := net.SplitHostPort(s)
	port, perr := strconv.ParseUint(text, 10, 16)
	if err != nil || perr != nil || port == 0 || !isHost(host, false) {
		r.refuse(path, fmt.Sprintf("%q is not a host and port", clip(s)), "write it like zipkin.istio-system:9411")
		return nil
	}
	host = canonicalHost(host)
	if _, ip := address(host); !ip && strings.Count(host, ".") == 1 {
		host += ".svc." + r.d.domain // written as name.namespace, as Istio's own examples do
	} else if strings.HasSuffix(host, ".svc") {
		host += "." + r.d.domain
	}
	return &waypoint.Backend{Hostname: host, Port: uint32(port)}
}

// serviceOf converts the name of a provider's service: a host, or namespace/host.
func (r *reader) serviceOf(service string, port uint32, path []any) *waypoint.Backend {
	ns, host, ok := strings.Cut(service, "/")
	if !ok {
		ns, host = "", service
	}
	if service == "" {
		r.refuse(sub(path, "service"), "the field is missing", "write the host of a service of the mesh")
	} else if !isHost(host, false) || ok && !isLabel(ns) {
		r.refuse(sub(path, "service"), fmt.Sprintf("%q is not the host of a service", clip(service)), "write it like ext-authz.foo.svc.cluster.local, or foo/ext-authz.foo.svc.cluster.local")
	}
	n, _ := r.port(int64(port), sub(path, "port"))
	return &waypoint.Backend{Namespace: ns, Hostname: canonicalHost(host), Port: uint32(n)}
}
