package stats

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

const input = `# TYPE envoy_istio_requests_total counter
envoy_istio_requests_total{reporter="waypoint",source_principal="spiffe://x",source_app=""} 1
# TYPE envoy_server_live gauge
envoy_server_live{} 1
# TYPE envoy_istio_requests_total counter
envoy_istio_requests_total{reporter="waypoint",source_principal="",source_app="a\"=\"\",b"} 2

# TYPE envoy_istio_request_bytes histogram
envoy_istio_request_bytes_bucket{le="1",a=""} 0
envoy_istio_request_bytes_bucket{le="+Inf",a=""} 3
envoy_istio_request_bytes_sum{a=""} 7.5
envoy_istio_request_bytes_count{a=""} 3
`

const want = `# TYPE istio_requests_total counter
istio_requests_total{reporter="waypoint",source_principal="spiffe://x",source_app="unknown"} 1
istio_requests_total{reporter="waypoint",source_principal="unknown",source_app="a\"=\"\",b"} 2
# TYPE envoy_server_live gauge
envoy_server_live{} 1
# TYPE istio_request_bytes histogram
istio_request_bytes_bucket{le="1",a="unknown"} 0
istio_request_bytes_bucket{le="+Inf",a="unknown"} 3
istio_request_bytes_sum{a="unknown"} 7.5
istio_request_bytes_count{a="unknown"} 3
`

func TestRewrite(t *testing.T) {
	var out bytes.Buffer
	if err := Rewrite(&out, strings.NewReader(input)); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	if _, err := parser.TextToMetricFamilies(&out); err != nil {
		t.Errorf("Prometheus cannot read it: %v", err)
	}
	if err := Rewrite(io.Discard, strings.NewReader(strings.Repeat("x", maxLine+1))); err == nil {
		t.Error("a line without end is read")
	}
}

// What Prometheus could read before it can read after.
func FuzzRewrite(f *testing.F) {
	f.Add(input)
	f.Add(`a{b="\\",c=""} 1` + "\n")
	f.Fuzz(func(t *testing.T, text string) {
		parser := expfmt.NewTextParser(model.UTF8Validation)
		before, err := parser.TextToMetricFamilies(strings.NewReader(text))
		if err != nil || strings.Contains(text, "\r") {
			t.Skip()
		}
		var out bytes.Buffer
		if err := Rewrite(&out, strings.NewReader(text)); err != nil {
			t.Skip()
		}
		for name := range before {
			if strings.HasPrefix(name, "envoy_istio_") || strings.HasPrefix(name, "istio_") {
				t.Skip() // names may fall together
			}
		}
		after, err := parser.TextToMetricFamilies(&out)
		if err != nil {
			t.Fatalf("%q became %q: %v", text, out.String(), err)
		}
		for name, f := range before {
			if len(after[name].GetMetric()) != len(f.GetMetric()) {
				t.Fatalf("%q became %q", text, out.String())
			}
		}
	})
}
