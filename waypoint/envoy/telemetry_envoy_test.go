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
