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

// What may stand in an operator's parentheses.
var (
	argHeader   = regexp.MustCompile(`^:?[A-Za-z0-9_-]+(\?:?[A-Za-z0-9_-]+)?$`)
	argName     = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)
	argPath     = regexp.MustCompile(`^[A-Za-z0-9_./-]+(:[A-Za-z0-9_./-]+)*$`)
	argMetadata = regexp.MustCompile(`^(DYNAMIC|CLUSTER|ROUTE|UPSTREAM_HOST|VIRTUAL_HOST)(:[A-Za-z0-9_./-]+)+$`)
	argState    = regexp.MustCompile(`^[A-Za-z0-9_./-]+(:(PLAIN|TYPED))?$`)
	argTime     = regexp.MustCompile(`^[A-Za-z0-9_%/:. +-]*$`)
)

// operators are those of Envoy 1.40, docs configuration/observability/access_log/usage, with what their parentheses must
// hold; nil: they have none. Envoy refuses a whole filter chain for one it cannot read.
var operators = map[string]*regexp.Regexp{
	"REQ": argHeader, "RESP": argHeader, "TRAILER": argHeader,
	"REQUEST_HEADER": argHeader, "RESPONSE_HEADER": argHeader, "RESPONSE_TRAILER": argHeader,
	"DYNAMIC_METADATA": argPath, "UPSTREAM_METADATA": argPath, "CLUSTER_METADATA": argPath, "METADATA": argMetadata,
	"FILTER_STATE": argState, "UPSTREAM_FILTER_STATE": argState, "QUERY_PARAM": argName, "ENVIRONMENT": argName,
	"START_TIME": argTime, "EMIT_TIME": argTime,
	"RESPONSE_CODE_DETAILS": nil, "GRPC_STATUS": nil, "GRPC_STATUS_NUMBER": nil,
	"ACCESS_LOG_TYPE": nil, "BYTES_RECEIVED": nil, "BYTES_SENT": nil, "CONNECTION_ID": nil,
	"CONNECTION_TERMINATION_DETAILS": nil, "CUSTOM_FLAGS": nil, "DOWNSTREAM_DIRECT_REMOTE_ADDRESS": nil,
	"DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT": nil, "DOWNSTREAM_LOCAL_ADDRESS": nil,
	"DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT": nil, "DOWNSTREAM_LOCAL_PORT": nil, "DOWNSTREAM_LOCAL_URI_SAN": nil,
	"DOWNSTREAM_PEER_SUBJECT": nil, "DOWNSTREAM_PEER_URI_SAN": nil, "DOWNSTREAM_REMOTE_ADDRESS": nil,
	"DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": nil, "DOWNSTREAM_REMOTE_PORT": nil, "DOWNSTREAM_TLS_CIPHER": nil,
	"DOWNSTREAM_TLS_VERSION": nil, "DOWNSTREAM_TRANSPORT_FAILURE_REASON": nil, "DOWNSTREAM_WIRE_BYTES_RECEIVED": nil,
	"DOWNSTREAM_WIRE_BYTES_SENT": nil, "DURATION": nil, "HOSTNAME": nil, "LOCAL_REPLY_BODY": nil, "PATH": nil,
	"PROTOCOL": nil, "REQUESTED_SERVER_NAME": nil, "REQUEST_DURATION": nil, "REQUEST_HEADERS_BYTES": nil,
	"REQUEST_TX_DURATION": nil, "RESPONSE_CODE": nil, "RESPONSE_DURATION": nil, "RESPONSE_FLAGS": nil,
	"RESPONSE_FLAGS_LONG": nil, "RESPONSE_HEADERS_BYTES": nil, "RESPONSE_TRAILERS_BYTES": nil,
	"RESPONSE_TX_DURATION": nil, "ROUTE_NAME": nil, "SPAN_ID": nil, "STREAM_ID": nil, "TRACE_ID": nil, "UNIQUE_ID": nil,
	"UPSTREAM_CLUSTER": nil, "UPSTREAM_CLUSTER_RAW": nil, "UPSTREAM_HOST": nil, "UPSTREAM_HOST_NAME": nil,
	"UPSTREAM_LOCAL_ADDRESS": nil, "UPSTREAM_PEER_URI_SAN": nil, "UPSTREAM_PROTOCOL": nil,
	"UPSTREAM_REMOTE_ADDRESS": nil, "UPSTREAM_REMOTE_PORT": nil, "UPSTREAM_REQUEST_ATTEMPT_COUNT": nil,
	"UPSTREAM_TRANSPORT_FAILURE_REASON": nil, "UPSTREAM_WIRE_BYTES_RECEIVED": nil, "UPSTREAM_WIRE_BYTES_SENT": nil,
	"VIRTUAL_CLUSTER_NAME": nil,
}

// bare are operators that need no parentheses though they may have them.
var bare = []string{"START_TIME", "EMIT_TIME"}

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
		name, argument := rest[at[2]:at[3]], ""
		if at[4] >= 0 {
			argument = rest[at[4]:at[5]]
		}
		permitted, known := operators[name]
		switch {
		case name == "CEL":
			if err := checkCEL(argument); err != nil {
				return fmt.Errorf("%%CEL(%s)%%: %w", argument, err)
			}
		case !known:
			return fmt.Errorf("no operator %%%s%%: see Envoy's list of access log operators", name)
		case permitted == nil && at[4] >= 0:
			return fmt.Errorf("%%%s%% has no argument", name)
		case permitted != nil && at[4] < 0 && !slices.Contains(bare, name), permitted != nil && at[4] >= 0 && !permitted.MatchString(argument):
			return fmt.Errorf("%%%s%% does not take %q in parentheses", name, argument)
		}
		rest = rest[at[1]:]
	}
}
