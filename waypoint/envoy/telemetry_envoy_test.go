package envoy

import (
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// TestEveryOperator: what checkFormat lets through, Envoy takes.
func TestEveryOperator(t *testing.T) {
	example := map[string]string{
		argHeader.String(): ":path?X-A", argName.String(): "A_b", argPath.String(): "a.b:c/d", argMetadata.String(): "CLUSTER:a",
		argState.String(): "a.b:PLAIN", argTime.String(): "%Y-%m-%dT%H:%M:%S",
	}
	var all []string
	for name, argument := range operators {
		format := "%" + name + "%"
		if argument != nil {
			format = "%" + name + "(" + example[argument.String()] + ")%"
		}
		if err := checkFormat(format); err != nil {
			t.Error(err)
		}
		all = append(all, format)
	}
	log, err := sampleEnv().accessLog(&waypoint.AccessLog{Text: strings.Join(all, " ")}, kindTCP)
	if err != nil {
		t.Fatal(err)
	}
	l := Options{}.withDefaults().adminListener("logged", 1, "/", "/")
	l.AccessLog = append(l.AccessLog, log)
	if err := accepted(t, &bootstrapv3.Bootstrap_StaticResources{Listeners: []*listenerv3.Listener{l}}); err != nil {
		t.Error(err)
	}
}

// TestEveryExpression: what checkCEL lets through, Envoy takes, as a filter of a log and as a tag of a metric; what Envoy
// would refuse with the whole chain is refused before.
func TestEveryExpression(t *testing.T) {
	good := []string{
		"response.code >= 400", "request.path + 'x' == 'a' + \"b\"", "1 + 2.5 * 3u - -1 == 7 / 2", "response.code in [200, 404]",
		"int(request.headers['a']) > 3 || uint(3) == 3u && double(1) > 0.5", "has(request.headers.foo) ? size(request.path) > 3 : !true",
		"timestamp('2020-01-01T00:00:00Z') < request.time", "request.duration > duration('1s')", "bytes('a') == b'a'", "type(1) == int",
		`request.path.matches('^/a\\.b$') || request.path.matches(r"\d+") || request.path.matches(request.host)`,
		"request.path.contains('x') && !request.path.endsWith('y')", "nothing.of_the_kind == 1", "timestamp('x') < request.time",
	}
	l := Options{}.withDefaults().adminListener("logged", 1, "/", "/")
	for _, x := range good {
		if err := checkCEL(x); err != nil {
			t.Errorf("%s: %v", x, err)
			continue
		}
		log, err := sampleEnv().accessLog(&waypoint.AccessLog{Filter: x}, kindTCP)
		if err != nil {
			t.Fatal(err)
		}
		if x, err = tagFormat(x); err != nil {
			t.Fatal(err)
		}
		tag, err := sampleEnv().accessLog(&waypoint.AccessLog{Text: x}, kindTCP)
		if err != nil {
			t.Fatal(err)
		}
		l.AccessLog = append(l.AccessLog, log, tag)
	}
	if err := accepted(t, &bootstrapv3.Bootstrap_StaticResources{Listeners: []*listenerv3.Listener{l}}); err != nil {
		t.Error(err)
	}
	for _, x := range []string{
		"string(response.code) == '400'", "request.path.lowerAscii() == 'x'", "foo(1)", "request.path.matches('^/a(')", `request.path.matches("[")`, "1 +",
	} {
		if err := checkCEL(x); err == nil {
			t.Errorf("%s is taken", x)
		}
	}
	for value, want := range map[string]string{
		"request.host": "%CEL(request.host)%", "string(destination.port)": "%CEL(destination.port)%", "'x'": "%CEL('x')%",
		"%REQ(A)%:1": "%REQ(A)%:1", "string(a) + string(b)": "", "string(a": "", "%FOO%": "",
	} {
		if got, err := tagFormat(value); want != "" && got != want || (err != nil) != (want == "") {
			t.Errorf("%s: %q, %v", value, got, err)
		}
	}
}
