package intake

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	mesh "istio.io/api/mesh/v1alpha1"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/object"
)

func doubleValue(f float64) *wrapperspb.DoubleValue { return wrapperspb.Double(f) }

func (r *reader) meshProviders(spec *mesh.MeshConfig, out *object.MeshConfig) {
	path := at("extensionProviders")
	if !r.fewer(len(spec.ExtensionProviders), maxValues, path, "provider") {
		return
	}
	for i, p := range spec.ExtensionProviders {
		pp := sub(path, i)
		if p.Name == "" {
			r.refuse(sub(pp, "name"), "the field is missing", "write a name that policies can use")
		}
		if _, twice := out.Provider(p.Name); twice {
			r.refuse(sub(pp, "name"), fmt.Sprintf("the provider %q stands twice", clip(p.Name)), "choose another name")
		}
		out.Providers = append(out.Providers, r.provider(p, pp))
	}
	if d := spec.DefaultProviders; d != nil {
		out.DefaultTracing, out.DefaultMetrics, out.DefaultAccessLogging = d.Tracing, d.Metrics, d.AccessLogging
		for name, list := range map[string][]string{"tracing": d.Tracing, "metrics": d.Metrics, "accessLogging": d.AccessLogging} {
			for i, p := range list {
				if _, ok := out.Provider(p); !ok && !slices.Contains([]string{"prometheus", "envoy"}, p) {
					r.warn(at("defaultProviders", name, i), fmt.Sprintf("there is no provider %q", clip(p)), "add it to extensionProviders")
				}
			}
		}
	}
}

func (r *reader) provider(in *mesh.MeshConfig_ExtensionProvider, path []any) object.Provider {
	out := object.Provider{Name: r.d.words.one(in.Name)}
	switch p := in.Provider.(type) {
	case *mesh.MeshConfig_ExtensionProvider_EnvoyExtAuthzHttp:
		out.Authorizer = r.authorizerHTTP(in.Name, p.EnvoyExtAuthzHttp, sub(path, "envoyExtAuthzHttp"))
	case *mesh.MeshConfig_ExtensionProvider_EnvoyExtAuthzGrpc:
		out.Authorizer = r.authorizerGRPC(in.Name, p.EnvoyExtAuthzGrpc, sub(path, "envoyExtAuthzGrpc"))
	case *mesh.MeshConfig_ExtensionProvider_Zipkin:
		pp := sub(path, "zipkin")
		out.Tracing = &waypoint.Tracing{Zipkin: r.serviceOf(p.Zipkin.Service, p.Zipkin.Port, pp), MaxTagLength: p.Zipkin.MaxTagLength}
	case *mesh.MeshConfig_ExtensionProvider_Opentelemetry:
		out.Tracing = r.openTelemetry(p.Opentelemetry, sub(path, "opentelemetry"))
	case *mesh.MeshConfig_ExtensionProvider_Prometheus:
		out.Prometheus = true
	case *mesh.MeshConfig_ExtensionProvider_EnvoyFileAccessLog:
		out.AccessLog = r.fileLog(in.Name, p.EnvoyFileAccessLog, sub(path, "envoyFileAccessLog"))
	case *mesh.MeshConfig_ExtensionProvider_EnvoyOtelAls:
		out.AccessLog = r.otelLog(in.Name, p.EnvoyOtelAls, sub(path, "envoyOtelAls"))
	case nil:
		r.refuse(path, "it is not said what the provider is", "write one of envoyExtAuthzHttp, envoyExtAuthzGrpc, opentelemetry, zipkin, prometheus, envoyFileAccessLog, envoyOtelAls")
	default:
		m := in.ProtoReflect()
		fd := m.WhichOneof(m.Descriptor().Oneofs().ByName("provider"))
		out.Unsupported = fd.JSONName()
		r.warn(sub(path, fd.JSONName()), "providers of this kind are not supported: what names it does without, and policies with action CUSTOM deny", "use opentelemetry, zipkin, prometheus, envoyFileAccessLog or envoyOtelAls")
	}
	return out
}

// onError is the status for requests that the authorizer cannot be asked about.
func (r *reader) onError(s string, path []any) uint32 {
	if s == "" {
		return 0
	}
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil {
		r.refuse(path, fmt.Sprintf("%q is not a status", clip(s)), `write a number in quotes, like "503"`)
		return 0
	}
	return r.httpStatus(n, 200, path)
}

func authorizerBody(in *mesh.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationRequestBody, out *waypoint.ExternalAuthorizer) {
	if in != nil {
		out.MaxBody, out.AllowPartialBody, out.PackBodyAsBytes = in.MaxRequestBytes, in.AllowPartialMessage, in.PackAsBytes
	}
}

func (r *reader) authorizerGRPC(name string, in *mesh.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationGrpcProvider, path []any) *waypoint.ExternalAuthorizer {
	out := &waypoint.ExternalAuthorizer{
		Name: name, Transport: &waypoint.ExternalAuthorizer_Grpc{Grpc: &waypoint.ExternalAuthorizer_GRPC{}},
		Service: r.serviceOf(in.Service, in.Port, path), Timeout: r.duration(in.Timeout, sub(path, "timeout"), false),
		FailOpen: in.FailOpen, StatusOnError: r.onError(in.StatusOnError, sub(path, "statusOnError")),
	}
	authorizerBody(in.IncludeRequestBodyInCheck, out)
	return out
}

func (r *reader) authorizerHTTP(name string, in *mesh.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationHttpProvider, path []any) *waypoint.ExternalAuthorizer {
	h := &waypoint.ExternalAuthorizer_HTTP{PathPrefix: in.PathPrefix, AddHeaders: in.IncludeAdditionalHeadersInCheck}
	out := &waypoint.ExternalAuthorizer{
		Name: name, Transport: &waypoint.ExternalAuthorizer_Http{Http: h},
		Service: r.serviceOf(in.Service, in.Port, path), Timeout: r.duration(in.Timeout, sub(path, "timeout"), false),
		FailOpen: in.FailOpen, StatusOnError: r.onError(in.StatusOnError, sub(path, "statusOnError")),
	}
	if p := in.PathPrefix; p != "" && p[0] != '/' {
		r.refuse(sub(path, "pathPrefix"), fmt.Sprintf("%q does not begin with /", clip(p)), "write /"+clip(p))
	}
	for _, k := range slices.Sorted(maps.Keys(in.IncludeAdditionalHeadersInCheck)) {
		r.header(k, sub(path, "includeAdditionalHeadersInCheck", k))
		r.headerValue(in.IncludeAdditionalHeadersInCheck[k], sub(path, "includeAdditionalHeadersInCheck", k))
	}
	check := append(slices.Clone(in.IncludeRequestHeadersInCheck), in.IncludeHeadersInCheck...) //nolint:staticcheck // people still write it
	h.CheckHeaders = object.Patterns(check)
	h.UpstreamHeaders = object.Patterns(in.HeadersToUpstreamOnAllow)
	h.DownstreamHeadersOnDeny = object.Patterns(in.HeadersToDownstreamOnDeny)
	h.DownstreamHeadersOnAllow = object.Patterns(in.HeadersToDownstreamOnAllow)
	for _, list := range [][]*waypoint.StringMatch{h.CheckHeaders, h.UpstreamHeaders, h.DownstreamHeadersOnDeny, h.DownstreamHeadersOnAllow} {
		for _, m := range list {
			m.IgnoreCase = true // names of headers have no case
		}
	}
	authorizerBody(in.IncludeRequestBodyInCheck, out)
	return out
}

func (r *reader) openTelemetry(in *mesh.MeshConfig_ExtensionProvider_OpenTelemetryTracingProvider, path []any) *waypoint.Tracing {
	out := &waypoint.Tracing{Otlp: r.serviceOf(in.Service, in.Port, path), MaxTagLength: in.MaxTagLength}
	if h := in.Http; h != nil {
		out.HttpPath = h.Path
		if h.Path == "" || h.Path[0] != '/' {
			r.refuse(sub(path, "http", "path"), fmt.Sprintf("%q is not a path", clip(h.Path)), "write it like /v1/traces")
		}
	}
	return out
}

// formatLabels converts a Struct of texts into a mapping; nested ones are left out with a warning.
func (r *reader) formatLabels(in *structpb.Struct, path []any) map[string]string {
	out := make(map[string]string)
	for _, k := range slices.Sorted(maps.Keys(in.GetFields())) {
		v := in.Fields[k]
		if s, ok := v.Kind.(*structpb.Value_StringValue); ok {
			r.short(s.StringValue, sub(path, k))
			out[k] = s.StringValue
			continue
		}
		r.warn(sub(path, k), "only text can be formatted, the label is left out", `write a format in quotes, like "%PROTOCOL%"`)
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func (r *reader) fileLog(name string, in *mesh.MeshConfig_ExtensionProvider_EnvoyFileAccessLogProvider, path []any) *waypoint.AccessLog {
	out := &waypoint.AccessLog{Name: name, File: in.Path}
	switch f := in.LogFormat.GetLogFormat().(type) {
	case *mesh.MeshConfig_ExtensionProvider_EnvoyFileAccessLogProvider_LogFormat_Text:
		r.short(f.Text, sub(path, "logFormat", "text"))
		out.Text = f.Text
	case *mesh.MeshConfig_ExtensionProvider_EnvoyFileAccessLogProvider_LogFormat_Labels:
		out.Json = r.formatLabels(f.Labels, sub(path, "logFormat", "labels"))
		out.JsonDefault = len(out.Json) == 0
	}
	return out
}

func (r *reader) otelLog(name string, in *mesh.MeshConfig_ExtensionProvider_EnvoyOpenTelemetryLogProvider, path []any) *waypoint.AccessLog {
	out := &waypoint.AccessLog{Name: name, Otlp: r.serviceOf(in.Service, in.Port, path)}
	if f := in.LogFormat; f != nil {
		r.short(f.Text, sub(path, "logFormat", "text"))
		out.Text = f.Text
		out.Attributes = r.formatLabels(f.Labels, sub(path, "logFormat", "labels"))
	}
	return out
}
