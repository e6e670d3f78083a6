package envoy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	celv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	otelv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/open_telemetry/v3"
	otlpv1 "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

const standardOutput = "/dev/stdout"

// defaultText has Istio's columns, because pipelines parse them: Istio pilot/pkg/model/telemetry_logging.go
// EnvoyTextLogFormat. The upstream's time is measured, for the header that would have it is not sent to clients.
const defaultText = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" " +
	"%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% " +
	"\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% " +
	"%RESPONSE_DURATION% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" " +
	"\"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% " +
	"%DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"

// defaultFields are the same as an object, and who the client is besides.
var defaultFields = map[string]string{
	"start_time": "%START_TIME%", "method": "%REQ(:METHOD)%", "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
	"protocol": "%PROTOCOL%", "response_code": "%RESPONSE_CODE%", "response_flags": "%RESPONSE_FLAGS%",
	"response_code_details": "%RESPONSE_CODE_DETAILS%", "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
	"upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%", "bytes_received": "%BYTES_RECEIVED%",
	"bytes_sent": "%BYTES_SENT%", "duration": "%DURATION%", "upstream_service_time": "%RESPONSE_DURATION%",
	"x_forwarded_for": "%REQ(X-FORWARDED-FOR)%", "user_agent": "%REQ(USER-AGENT)%", "request_id": "%REQ(X-REQUEST-ID)%",
	"authority": "%REQ(:AUTHORITY)%", "upstream_host": "%UPSTREAM_HOST%", "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
	"upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%", "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
	"downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%", "requested_server_name": "%REQUESTED_SERVER_NAME%",
	"route_name": "%ROUTE_NAME%", "source_principal": "%FILTER_STATE(" + statePeer + ":PLAIN)%",
}

// accessLog is one log of a chain.
func (e *Env) accessLog(l *waypoint.AccessLog, kind string) (*accesslogv3.AccessLog, error) {
	l = e.withPeer(l)
	filter, err := logFilter(l.GetFilter(), kind)
	if err != nil {
		return nil, err
	}
	formats := slices.Concat([]string{l.GetText()}, slices.Collect(maps.Values(l.GetJson())), slices.Collect(maps.Values(l.GetAttributes())))
	for _, f := range formats {
		if err := checkFormat(f); err != nil {
			return nil, err
		}
	}
	if l.GetOtlp() != nil {
		return e.otlpLog(l, filter)
	}
	file := &filev3.FileAccessLog{Path: l.GetFile(), AccessLogFormat: &filev3.FileAccessLog_LogFormat{LogFormat: textOf(l)}}
	if file.Path == "" {
		file.Path = standardOutput
	}
	if !strings.HasPrefix(file.GetPath(), "/") {
		return nil, fmt.Errorf("file %q: must be an absolute path", file.GetPath())
	}
	if len(l.GetJson()) > 0 || l.GetJsonDefault() {
		file.AccessLogFormat = &filev3.FileAccessLog_LogFormat{LogFormat: jsonOf(l)}
	}
	return &accesslogv3.AccessLog{
		Name: "envoy.access_loggers.file", Filter: filter,
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: toAny(file)},
	}, nil
}

// peerFormat has the peer of a connection that came through a tunnel where a format asks for that of the connection: its
// certificate was shown two listeners before.
func (e *Env) peerFormat(format string) string {
	if e.Gateway.GetKind() == waypoint.Gateway_EDGE {
		return format
	}
	return strings.ReplaceAll(format, "%DOWNSTREAM_PEER_URI_SAN%", state(statePeer))
}

func (e *Env) withPeer(l *waypoint.AccessLog) *waypoint.AccessLog {
	l = proto.CloneOf(l)
	l.Text = e.peerFormat(l.GetText())
	for _, formats := range []map[string]string{l.Json, l.Attributes} {
		for name, f := range formats {
			formats[name] = e.peerFormat(f)
		}
	}
	return l
}

func textOf(l *waypoint.AccessLog) *corev3.SubstitutionFormatString {
	text := l.GetText()
	if text == "" {
		text = defaultText
	}
	if !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	f := textFormat(text)
	f.OmitEmptyValues = false // a "-" keeps the columns of a line in their places
	return f
}

func jsonOf(l *waypoint.AccessLog) *corev3.SubstitutionFormatString {
	fields := l.GetJson()
	if len(fields) == 0 {
		fields = defaultFields
	}
	object := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for name, format := range fields {
		object.Fields[name] = structpb.NewStringValue(format)
	}
	return &corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: object}}
}

// otlpLog sends OpenTelemetry log records to a collector.
func (e *Env) otlpLog(l *waypoint.AccessLog, filter *accesslogv3.AccessLogFilter) (*accesslogv3.AccessLog, error) {
	cluster, err := e.collector(l.GetOtlp())
	if err != nil {
		return nil, err
	}
	text := l.GetText()
	if text == "" {
		text = strings.TrimSuffix(defaultText, "\n")
	}
	config := &otelv3.OpenTelemetryAccessLogConfig{
		LogName:              l.GetName(),
		GrpcService:          envoyGRPC(cluster),
		DisableBuiltinLabels: true,
		Body:                 otlpString(text),
		Attributes:           &otlpv1.KeyValueList{},
	}
	if config.LogName == "" {
		config.LogName = "otel_envoy_accesslog" // Istio's name for logs that have none
	}
	for _, name := range slices.Sorted(maps.Keys(l.GetAttributes())) {
		config.Attributes.Values = append(config.Attributes.Values, &otlpv1.KeyValue{Key: name, Value: otlpString(l.GetAttributes()[name])})
	}
	return &accesslogv3.AccessLog{
		Name: "envoy.access_loggers.open_telemetry", Filter: filter,
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: toAny(config)},
	}, nil
}

func otlpString(s string) *otlpv1.AnyValue {
	return &otlpv1.AnyValue{Value: &otlpv1.AnyValue_StringValue{StringValue: s}}
}

// collector is the cluster of a service that takes telemetry.
func (e *Env) collector(b *waypoint.Backend) (string, error) {
	if b.GetBroken() != "" {
		return "", fmt.Errorf("collector %s: %s", b.GetHostname(), b.GetBroken())
	}
	if e.Destination(b.GetNamespace(), b.GetHostname()) == nil {
		return "", fmt.Errorf("collector %s/%s: no such service: make one, or a ServiceEntry", b.GetNamespace(), b.GetHostname())
	}
	return e.clusterName(b, kindHTTP), nil
}

// logFilter leaves out, of a TCP chain, the entries only metrics need, and what the user does not want to see.
func logFilter(expression, kind string) (*accesslogv3.AccessLogFilter, error) {
	var all []*accesslogv3.AccessLogFilter
	if kind == kindTCP {
		all = append(all, ofTypes(datav3.AccessLogType_TcpConnectionEnd, datav3.AccessLogType_NotSet))
	}
	if expression != "" {
		if err := checkCEL(expression); err != nil {
			return nil, fmt.Errorf("filter %q: %w", expression, err)
		}
		all = append(all, &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ExtensionFilter{
			ExtensionFilter: &accesslogv3.ExtensionFilter{
				Name:       "envoy.access_loggers.extension_filters.cel",
				ConfigType: &accesslogv3.ExtensionFilter_TypedConfig{TypedConfig: toAny(&celv3.ExpressionFilter{Expression: expression})},
			},
		}})
	}
	switch len(all) {
	case 0:
		return nil, nil
	case 1:
		return all[0], nil
	}
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_AndFilter{
		AndFilter: &accesslogv3.AndFilter{Filters: all},
	}}, nil
}
