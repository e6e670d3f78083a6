package envoy

import (
	"fmt"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// edits are header edits in Envoy's form. Envoy removes first and adds then.
type edits struct {
	add    []*corev3.HeaderValueOption
	remove []string
	// authority is what the request's host is set to; Envoy has that elsewhere.
	authority string
}

// maxHeaderValue is Envoy's limit, config/core/v3/base.proto HeaderValue.
const maxHeaderValue = 16384

// headerEdits translates edits of a request's or a response's headers. Pseudo headers cannot be edited, except that the
// host of a request may be set. Istio pilot/pkg/networking/core/route TranslateHeadersOperations.
func headerEdits(h *waypoint.HeaderEdits, request bool) (edits, error) {
	var out edits
	for _, v := range h.GetSet() {
		if name := strings.ToLower(v.GetName()); request && (name == "host" || name == ":authority") {
			if strings.ContainsAny(v.GetValue(), "\r\n\x00") || v.GetValue() == "" {
				return edits{}, fmt.Errorf("%q is no value for the host", v.GetValue())
			}
			out.authority = v.GetValue()
			continue
		}
		if err := editable(v); err != nil {
			return edits{}, err
		}
		out.add = append(out.add, setHeader(v.GetName(), headerFormat(v.GetValue())))
	}
	for _, v := range h.GetAdd() {
		if err := editable(v); err != nil {
			return edits{}, err
		}
		option := setHeader(v.GetName(), headerFormat(v.GetValue()))
		option.AppendAction = corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD
		out.add = append(out.add, option)
	}
	for _, name := range h.GetRemove() {
		if err := editable(&waypoint.HeaderValue{Name: name}); err != nil {
			return edits{}, err
		}
		out.remove = append(out.remove, strings.ToLower(name))
	}
	return out, nil
}

func setHeader(name, format string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:         &corev3.HeaderValue{Key: strings.ToLower(name), Value: format},
		AppendAction:   corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		KeepEmptyValue: true,
	}
}

func editable(v *waypoint.HeaderValue) error {
	name := strings.ToLower(v.GetName())
	switch {
	case strings.HasPrefix(name, ":"), name == "host":
		return fmt.Errorf("header %q cannot be edited: it is part of the request line or the status", v.GetName())
	case !isToken(name):
		return fmt.Errorf("%q is no header name", v.GetName())
	case strings.ContainsAny(v.GetValue(), "\r\n\x00"):
		return fmt.Errorf("the value of header %s has a line break", v.GetName())
	case len(headerFormat(v.GetValue())) > maxHeaderValue:
		return fmt.Errorf("the value of header %s is longer than %d bytes", v.GetName(), maxHeaderValue)
	}
	return nil
}

// variables are what a header value may refer to: things of this request, and nothing of the machine (environment, files).
// The value is whether the name takes an argument in parentheses.
var variables = map[string]bool{
	"PROTOCOL": false, "HOSTNAME": false, "START_TIME": false, "RESPONSE_CODE": false, "RESPONSE_FLAGS": false, "ROUTE_NAME": false,
	"DOWNSTREAM_REMOTE_ADDRESS": false, "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": false, "DOWNSTREAM_REMOTE_PORT": false,
	"DOWNSTREAM_DIRECT_REMOTE_ADDRESS": false, "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT": false,
	"DOWNSTREAM_LOCAL_ADDRESS": false, "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT": false, "DOWNSTREAM_LOCAL_PORT": false,
	"DOWNSTREAM_PEER_URI_SAN": false, "DOWNSTREAM_PEER_SUBJECT": false, "DOWNSTREAM_TLS_VERSION": false, "DOWNSTREAM_TLS_CIPHER": false,
	"UPSTREAM_REMOTE_ADDRESS": false, "UPSTREAM_HOST": false, "UPSTREAM_CLUSTER": false, "REQUESTED_SERVER_NAME": false,
	"REQ": true, "RESP": true, "DYNAMIC_METADATA": true,
}

// headerFormat turns a value as Istio's users write it into Envoy's format: %% and a lone % are the character, and only
// the variables above are variables. Istio pkg/config/validation ValidateHTTPHeaderValue has the syntax.
func headerFormat(value string) string {
	var out strings.Builder
	for value != "" {
		i := strings.IndexByte(value, '%')
		if i < 0 {
			out.WriteString(value)
			break
		}
		out.WriteString(value[:i])
		value = value[i:]
		if strings.HasPrefix(value, "%%") {
			out.WriteString("%%")
			value = value[2:]
			continue
		}
		if n := variable(value); n > 0 {
			out.WriteString(value[:n])
			value = value[n:]
			continue
		}
		out.WriteString("%%")
		value = value[1:]
	}
	return out.String()
}

// escapeFormat makes Envoy take text as it stands.
func escapeFormat(s string) string { return strings.ReplaceAll(s, "%", "%%") }

// variable is the length of the variable that text begins with; 0 if it begins with none.
func variable(text string) int {
	end := strings.IndexByte(text[1:], '%')
	if end < 0 {
		return 0
	}
	body := text[1 : 1+end]
	name, argument, hasArgument := strings.Cut(body, "(")
	takes, known := variables[name]
	if !known || takes != hasArgument {
		return 0
	}
	if hasArgument {
		argument, length, closed := strings.Cut(argument, ")")
		if !closed || !isArgument(name, argument) || !isLength(length) {
			return 0
		}
	}
	return end + 2
}

// isArgument: NAME?OTHER of REQ and RESP, namespace:key:... of metadata.
func isArgument(name, argument string) bool {
	separator := "?"
	if name == "DYNAMIC_METADATA" {
		separator = ":"
	}
	parts := strings.Split(argument, separator)
	if name != "DYNAMIC_METADATA" && len(parts) > 2 {
		return false
	}
	for _, part := range parts {
		if separator == "?" {
			part = strings.TrimPrefix(part, ":")
		}
		if !isToken(part) {
			return false
		}
	}
	return true
}

// isLength: ":12" at the end cuts the value.
func isLength(s string) bool {
	if s == "" {
		return true
	}
	if s[0] != ':' || len(s) < 2 || len(s) > 6 {
		return false
	}
	return strings.Trim(s[1:], "0123456789") == ""
}
