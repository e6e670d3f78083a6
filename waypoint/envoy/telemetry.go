package envoy

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// telemetry is what holds for a target: facts are merged already, so the most specific that there is.
func (e *Env) telemetry(t target) *waypoint.Telemetry {
	for _, p := range slices.Backward(t.policies) {
		if p.GetTelemetry() != nil {
			return p.GetTelemetry()
		}
	}
	return e.Gateway.GetMesh().GetTelemetry()
}

// accessLogs are all loggers of a chain: metrics first, then the logs people read.
func (e *Env) accessLogs(t target, kind string) ([]*accesslogv3.AccessLog, []Problem) {
	logs, problems := e.statsLogs(t, kind)
	for _, l := range e.telemetry(t).GetAccessLogs() {
		log, err := e.accessLog(l, kind)
		if err != nil {
			problems = append(problems, Problem{
				Object: "Telemetry",
				Text:   fmt.Sprintf("access log %q: %v; this log is not written", l.GetName(), err),
			})
			continue
		}
		logs = append(logs, log)
	}
	return logs, problems
}

// literal is a format that gives s.
func literal(s string) string { return strings.ReplaceAll(s, "%", "%%") }

const maxFormat = 8 << 10

// operator is one of a format. Arguments end at the first ")" that a "%" or a length follows.
var operator = regexp.MustCompile(`%([A-Z0-9_]+)(?:\((.*?)\))?(?::[0-9]+)?%`)

// operators are those of Envoy 1.40, docs configuration/observability/access_log/usage; true: arguments are needed.
// Envoy refuses a whole filter chain for one it does not know.
var operators = map[string]bool{
	"REQ": true, "RESP": true, "TRAILER": true, "REQUEST_HEADER": true, "RESPONSE_HEADER": true, "RESPONSE_TRAILER": true,
	"DYNAMIC_METADATA": true, "UPSTREAM_METADATA": true, "CLUSTER_METADATA": true, "METADATA": true, "FILTER_STATE": true,
	"UPSTREAM_FILTER_STATE": true, "QUERY_PARAM": true, "ENVIRONMENT": true, "COMMON_DURATION": true,
	"START_TIME": false, "EMIT_TIME": false, "PROTOCOL": false, "UPSTREAM_PROTOCOL": false, "RESPONSE_CODE": false,
	"RESPONSE_CODE_DETAILS": false, "CONNECTION_TERMINATION_DETAILS": false, "RESPONSE_FLAGS": false, "RESPONSE_FLAGS_LONG": false,
	"BYTES_RECEIVED": false, "BYTES_SENT": false, "DURATION": false, "REQUEST_DURATION": false, "RESPONSE_DURATION": false,
	"RESPONSE_TX_DURATION": false, "REQUEST_TX_DURATION": false, "REQUEST_HEADERS_BYTES": false, "RESPONSE_HEADERS_BYTES": false,
	"RESPONSE_TRAILERS_BYTES": false, "ROUTE_NAME": false, "VIRTUAL_CLUSTER_NAME": false, "UPSTREAM_HOST": false,
	"UPSTREAM_HOST_NAME": false, "UPSTREAM_CLUSTER": false, "UPSTREAM_CLUSTER_RAW": false, "UPSTREAM_LOCAL_ADDRESS": false,
	"UPSTREAM_REMOTE_ADDRESS": false, "UPSTREAM_REMOTE_PORT": false, "UPSTREAM_REQUEST_ATTEMPT_COUNT": false,
	"UPSTREAM_TRANSPORT_FAILURE_REASON": false, "UPSTREAM_PEER_URI_SAN": false, "UPSTREAM_WIRE_BYTES_SENT": false,
	"UPSTREAM_WIRE_BYTES_RECEIVED": false, "DOWNSTREAM_REMOTE_ADDRESS": false, "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": false,
	"DOWNSTREAM_REMOTE_PORT": false, "DOWNSTREAM_DIRECT_REMOTE_ADDRESS": false, "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT": false,
	"DOWNSTREAM_LOCAL_ADDRESS": false, "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT": false, "DOWNSTREAM_LOCAL_PORT": false,
	"DOWNSTREAM_PEER_URI_SAN": false, "DOWNSTREAM_LOCAL_URI_SAN": false, "DOWNSTREAM_PEER_SUBJECT": false,
	"DOWNSTREAM_TLS_VERSION": false, "DOWNSTREAM_TLS_CIPHER": false, "DOWNSTREAM_TRANSPORT_FAILURE_REASON": false,
	"DOWNSTREAM_WIRE_BYTES_SENT": false, "DOWNSTREAM_WIRE_BYTES_RECEIVED": false, "REQUESTED_SERVER_NAME": false,
	"CONNECTION_ID": false, "STREAM_ID": false, "UNIQUE_ID": false, "HOSTNAME": false, "TRACE_ID": false, "SPAN_ID": false,
	"GRPC_STATUS": false, "GRPC_STATUS_NUMBER": false, "ACCESS_LOG_TYPE": false, "LOCAL_REPLY_BODY": false, "CUSTOM_FLAGS": false,
	"PATH": false,
}

// checkFormat says what Envoy would not understand of a format a user wrote.
func checkFormat(format string) error {
	if len(format) > maxFormat {
		return fmt.Errorf("the format has %d bytes, %d are permitted", len(format), maxFormat)
	}
	for rest := strings.ReplaceAll(format, "%%", ""); ; {
		i := strings.IndexByte(rest, '%')
		if i < 0 {
			return nil
		}
		rest = rest[i:]
		at := operator.FindStringSubmatchIndex(rest)
		if at == nil || at[0] != 0 {
			return errors.New("after a % there must be an operator of Envoy's access logs and another %: write %% for a percent sign")
		}
		name := rest[at[2]:at[3]]
		needs, known := operators[name]
		if !known {
			return fmt.Errorf("no operator %%%s%%: see Envoy's list of access log operators", name)
		}
		if needs && (at[4] < 0 || at[4] == at[5]) {
			return fmt.Errorf("%%%s%% needs an argument in parentheses", name)
		}
		rest = rest[at[1]:]
	}
}
