package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	logsv1 "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
)

// keep is how many spans and how many log lines are remembered; older ones go.
const keep = 10_000

// span is the part of a span that is shown.
type span struct {
	trace, id, parent, service, kind, name, status string
	start                                          uint64
	took                                           time.Duration
}

// store holds what was collected. The zero value is ready.
type store struct {
	mu    sync.Mutex
	spans []span   // guarded by mu
	lines []string // guarded by mu
}

type traces struct {
	tracev1.UnimplementedTraceServiceServer
	store *store
}

// Export implements the collector's side of OTLP for traces.
func (t traces) Export(_ context.Context, in *tracev1.ExportTraceServiceRequest) (*tracev1.ExportTraceServiceResponse, error) {
	t.store.mu.Lock()
	defer t.store.mu.Unlock()
	for _, rs := range in.GetResourceSpans() {
		service := attribute(rs.GetResource().GetAttributes(), "service.name")
		for _, ss := range rs.GetScopeSpans() {
			for _, s := range ss.GetSpans() {
				t.store.spans = append(t.store.spans, span{
					trace: hex.EncodeToString(s.GetTraceId()), id: hex.EncodeToString(s.GetSpanId()), parent: hex.EncodeToString(s.GetParentSpanId()),
					service: service, kind: kindOf(s.GetKind()), name: s.GetName(), status: attribute(s.GetAttributes(), "http.status_code"),
					start: s.GetStartTimeUnixNano(), took: time.Duration(s.GetEndTimeUnixNano() - s.GetStartTimeUnixNano()), //nolint:gosec // nanoseconds of one request
				})
			}
		}
	}
	t.store.spans = t.store.spans[max(0, len(t.store.spans)-keep):]
	return &tracev1.ExportTraceServiceResponse{}, nil
}

type logs struct {
	logsv1.UnimplementedLogsServiceServer
	store *store
}

// Export implements the collector's side of OTLP for logs.
func (l logs) Export(_ context.Context, in *logsv1.ExportLogsServiceRequest) (*logsv1.ExportLogsServiceResponse, error) {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	for _, rl := range in.GetResourceLogs() {
		for _, sl := range rl.GetScopeLogs() {
			for _, r := range sl.GetLogRecords() {
				parts := []string{text(r.GetBody())}
				for _, a := range r.GetAttributes() {
					parts = append(parts, a.GetKey()+"="+text(a.GetValue()))
				}
				l.store.lines = append(l.store.lines, strings.TrimSpace(strings.Join(parts, " ")))
			}
		}
	}
	l.store.lines = l.store.lines[max(0, len(l.store.lines)-keep):]
	return &logsv1.ExportLogsServiceResponse{}, nil
}

func attribute(in []*common.KeyValue, key string) string {
	for _, a := range in {
		if a.GetKey() == key {
			return text(a.GetValue())
		}
	}
	return ""
}

func text(v *common.AnyValue) string {
	switch v := v.GetValue().(type) {
	case nil:
		return ""
	case *common.AnyValue_StringValue:
		return v.StringValue
	case *common.AnyValue_IntValue:
		return strconv.FormatInt(v.IntValue, 10)
	default:
		return fmt.Sprint(v)
	}
}

func kindOf(k trace.Span_SpanKind) string {
	return strings.ToLower(strings.TrimPrefix(k.String(), "SPAN_KIND_"))
}

// handler shows the newest trace with at least ?spans=N spans, and the log lines. 404 means that there is nothing yet.
func (s *store) handler() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /ready", func(http.ResponseWriter, *http.Request) {})
	m.HandleFunc("GET /traces", func(w http.ResponseWriter, r *http.Request) {
		least, err := strconv.Atoi(cmp.Or(r.URL.Query().Get("spans"), "1"))
		if err != nil {
			http.Error(w, "spans: how many at least", http.StatusBadRequest)
			return
		}
		if tree := s.newest(least); tree != "" {
			fmt.Fprint(w, tree)
			return
		}
		http.Error(w, "no such trace yet", http.StatusNotFound)
	})
	m.HandleFunc("GET /logs", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.lines) == 0 {
			http.Error(w, "no log line yet", http.StatusNotFound)
			return
		}
		fmt.Fprintln(w, strings.Join(s.lines, "\n"))
	})
	return m
}

// newest draws the latest trace that has at least so many spans.
func (s *store) newest(least int) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	byTrace := map[string][]span{}
	for _, sp := range s.spans {
		byTrace[sp.trace] = append(byTrace[sp.trace], sp)
	}
	best := ""
	for id, spans := range byTrace {
		if len(spans) >= least && (best == "" || begin(spans) > begin(byTrace[best])) {
			best = id
		}
	}
	if best == "" {
		return ""
	}
	return draw(best, byTrace[best])
}

func begin(spans []span) uint64 {
	return slices.MinFunc(spans, func(a, b span) int { return cmp.Compare(a.start, b.start) }).start
}

// draw indents each span below its parent. Spans whose parent was not collected stand at the left.
func draw(id string, spans []span) string {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.start, b.start) })
	known := map[string]bool{}
	for _, sp := range spans {
		known[sp.id] = true
	}
	var b strings.Builder
	fmt.Fprintf(&b, "trace %s\n", id)
	var below func(parent string, depth int)
	below = func(parent string, depth int) {
		for _, sp := range spans {
			if sp.parent != parent && (depth > 0 || known[sp.parent]) {
				continue
			}
			fmt.Fprintf(&b, "%s%s %s %s status=%s %v\n", strings.Repeat("  ", depth+1), cmp.Or(sp.service, "?"), sp.kind, sp.name, sp.status, sp.took.Round(10*time.Microsecond))
			if depth < len(spans) { // a loop of parents must not go on for ever
				below(sp.id, depth+1)
			}
		}
	}
	below("", 0)
	return b.String()
}
