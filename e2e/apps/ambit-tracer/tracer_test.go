package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	tracev1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
)

func TestTree(t *testing.T) {
	var s store
	one := func(id, parent byte, start uint64) *trace.Span {
		sp := &trace.Span{TraceId: []byte{1}, SpanId: []byte{id}, Name: string('a' + rune(id)), Kind: trace.Span_SPAN_KIND_SERVER, StartTimeUnixNano: start, EndTimeUnixNano: start + 1000}
		if parent > 0 {
			sp.ParentSpanId = []byte{parent}
		}
		return sp
	}
	_, err := traces{store: &s}.Export(t.Context(), &tracev1.ExportTraceServiceRequest{ResourceSpans: []*trace.ResourceSpans{{
		ScopeSpans: []*trace.ScopeSpans{{Spans: []*trace.Span{one(2, 1, 20), one(1, 0, 10), one(3, 9, 30)}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	s.handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/traces?spans=3", nil))
	want := "trace 01\n  ? server b status= 0s\n    ? server c status= 0s\n  ? server d status= 0s\n"
	if got := w.Body.String(); got != want {
		t.Errorf("tree:\n%swant:\n%s", got, want)
	}
	w = httptest.NewRecorder()
	s.handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/traces?spans=4", nil))
	if w.Code != http.StatusNotFound || strings.Contains(w.Body.String(), "trace 01") {
		t.Errorf("four spans: %d %s", w.Code, w.Body)
	}
}
