package envoy

import (
	"fmt"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tagv3 "github.com/envoyproxy/go-control-plane/envoy/type/tracing/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// tracing makes spans of a chain's requests. A trace that a client has begun goes on (W3C Trace Context, or B3 with
// Zipkin); whether it is sampled was decided where it began.
func (e *Env) tracing(t target) (*hcmv3.HttpConnectionManager_Tracing, []Problem) {
	want := e.telemetry(t).GetTracing()
	if want == nil || want.GetDisabled() || want.GetOtlp() == nil && want.GetZipkin() == nil {
		return nil, nil
	}
	provider, err := e.tracer(want)
	if err != nil {
		return nil, []Problem{{Object: "Telemetry", Text: fmt.Sprintf("tracing: %v; no spans are sent", err)}}
	}
	sampling := 1.0 // Istio's default of 1 %
	if want.GetSampling() != nil {
		sampling = min(max(want.GetSampling().GetValue(), 0), 100)
	}
	out := &hcmv3.HttpConnectionManager_Tracing{
		ClientSampling:  &typev3.Percent{Value: 100},
		RandomSampling:  &typev3.Percent{Value: sampling},
		OverallSampling: &typev3.Percent{Value: 100},
		Provider:        provider,
		CustomTags:      tags(want.GetTags()),
		// A span for the request as it came and one for each try at the destination.
		SpawnUpstreamSpan: wrapperspb.Bool(true),
		Operation:         operation(t),
		UpstreamOperation: operation(t),
	}
	if n := want.GetMaxTagLength(); n > 0 {
		out.MaxPathTagLength = uint32Value(n)
	}
	return out, nil
}

// operation names spans as Istio does, by what was asked for and not by the path: names are to be few.
func operation(t target) string {
	switch {
	case t.edge:
		return "%REQ(:AUTHORITY)%/*"
	case t.hostname == "":
		return "%DOWNSTREAM_LOCAL_ADDRESS%/*"
	}
	return literal(t.hostname) + ":" + portText(t.port) + "/*"
}

func (e *Env) tracer(want *waypoint.Tracing) (*tracev3.Tracing_Http, error) {
	if b := want.GetZipkin(); b != nil {
		cluster, err := e.collector(b)
		if err != nil {
			return nil, err
		}
		return tracer("envoy.tracers.zipkin", &tracev3.ZipkinConfig{
			CollectorCluster:         cluster,
			CollectorEndpoint:        "/api/v2/spans",
			CollectorEndpointVersion: tracev3.ZipkinConfig_HTTP_JSON,
			CollectorHostname:        b.GetHostname(),
			TraceId_128Bit:           true,
		}), nil
	}
	cluster, err := e.collector(want.GetOtlp())
	if err != nil {
		return nil, err
	}
	config := &tracev3.OpenTelemetryConfig{ServiceName: e.tracedName(want)}
	if path := want.GetHttpPath(); path != "" {
		config.HttpService = &corev3.HttpService{HttpUri: &corev3.HttpUri{
			Uri:              fmt.Sprintf("http://%s:%d%s", want.GetOtlp().GetHostname(), want.GetOtlp().GetPort(), path),
			HttpUpstreamType: &corev3.HttpUri_Cluster{Cluster: cluster},
			Timeout:          durationpb.New(10 * time.Second),
		}}
	} else {
		config.GrpcService = envoyGRPC(cluster)
	}
	return tracer("envoy.tracers.opentelemetry", config), nil
}

func tracer(name string, config proto.Message) *tracev3.Tracing_Http {
	return &tracev3.Tracing_Http{Name: name, ConfigType: &tracev3.Tracing_Http_TypedConfig{TypedConfig: toAny(config)}}
}

// tracedName is what spans say they come from; Istio writes it as workload.namespace.
func (e *Env) tracedName(want *waypoint.Tracing) string {
	if want.GetServiceName() != "" {
		return want.GetServiceName()
	}
	return e.Options.Workload + "." + e.Options.Namespace
}

func tags(want []*waypoint.Tracing_Tag) []*tagv3.CustomTag {
	var out []*tagv3.CustomTag
	for _, w := range want {
		if w.GetName() == "" {
			continue
		}
		tag := &tagv3.CustomTag{Tag: w.GetName()}
		switch from := w.GetFrom().(type) {
		case *waypoint.Tracing_Tag_Literal:
			if from.Literal == "" {
				continue // Envoy refuses it
			}
			tag.Type = &tagv3.CustomTag_Literal_{Literal: &tagv3.CustomTag_Literal{Value: from.Literal}}
		case *waypoint.Tracing_Tag_Header:
			tag.Type = &tagv3.CustomTag_RequestHeader{RequestHeader: &tagv3.CustomTag_Header{Name: from.Header, DefaultValue: w.GetDefaultValue()}}
		case *waypoint.Tracing_Tag_Environment:
			tag.Type = &tagv3.CustomTag_Environment_{Environment: &tagv3.CustomTag_Environment{Name: from.Environment, DefaultValue: w.GetDefaultValue()}}
		default:
			continue
		}
		out = append(out, tag)
	}
	return out
}
