package waypoint

import (
	"slices"

	"google.golang.org/protobuf/proto"

	facts "github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/object"
)

// meshTelemetry is what the mesh configuration alone says, without any Telemetry.
func (r *reader) meshTelemetry(gw gatewayName) *facts.Telemetry {
	c := r.mesh()
	t := &facts.Telemetry{}
	if c.AccessLogFile != "" {
		t.AccessLogs = append(t.AccessLogs, meshAccessLog(c))
	}
	r.logTo(t, gw, c.DefaultAccessLogging, "")
	if c.Tracing != nil || len(c.DefaultTracing) > 0 {
		t.Tracing = &facts.Tracing{}
		if c.Tracing != nil {
			t.Tracing = proto.Clone(c.Tracing).(*facts.Tracing)
		}
		r.traceTo(t.Tracing, gw, c.DefaultTracing)
		r.provided(gw, t.Tracing.Otlp)
		r.provided(gw, t.Tracing.Zipkin)
	}
	return t
}

// orNil is nil for a Telemetry that says nothing.
func orNil(t *facts.Telemetry) *facts.Telemetry {
	if len(t.AccessLogs) == 0 && len(t.Metrics) == 0 && t.Tracing == nil {
		return nil
	}
	return t
}

func meshAccessLog(c *object.MeshConfig) *facts.AccessLog {
	l := &facts.AccessLog{Name: "mesh", File: c.AccessLogFile, JsonDefault: c.AccessLogJSON}
	if !c.AccessLogJSON {
		l.Text = c.AccessLogFormat
	}
	return l
}

// telemetry merges the mesh configuration, the Telemetry of the root namespace and of the Gateway's, and those bound to
// the Gateway or a service: each later one decides what it speaks of. Of several in one place the oldest counts. Istio
// pilot/pkg/model/telemetry.go applicableTelemetries.
func (r *reader) telemetry(gw gatewayName, targeted []*object.Telemetry) *facts.Telemetry {
	t := r.meshTelemetry(gw)
	seen := map[*object.Telemetry]bool{}
	apply := func(o *object.Telemetry) {
		if !seen[o] {
			seen[o] = true
			r.applyTelemetry(t, gw, o)
		}
	}
	for _, ns := range []string{r.m.cfg.RootNamespace, gw.ns} {
		for _, o := range list[*object.Telemetry](r, named(policiesIn, ns, "")) {
			if !o.Selector.Present {
				apply(o)
				break
			}
		}
	}
	for _, o := range targeted {
		apply(o)
	}
	return t
}

// applyTelemetry puts what a Telemetry says over what is there.
func (r *reader) applyTelemetry(t *facts.Telemetry, gw gatewayName, o *object.Telemetry) {
	for i := range o.Tracing {
		if o.Tracing[i].Side != object.ClientSide {
			r.applyTracing(t, gw, &o.Tracing[i])
		}
	}
	named := false // logs that this Telemetry named; before, all are inherited
	for i := range o.Logging {
		l := &o.Logging[i]
		switch {
		case l.Side == object.ClientSide:
		case l.Disabled != nil && *l.Disabled:
			t.AccessLogs = without(t.AccessLogs, l.Providers)
		case len(l.Providers) > 0:
			if !named {
				t.AccessLogs, named = nil, true
			}
			r.logTo(t, gw, l.Providers, l.Filter)
		default:
			r.inheritLogs(t, gw, l.Filter)
		}
	}
	for _, m := range o.Metrics {
		for _, ov := range m.Overrides {
			if ov.Side != object.ClientSide && ov.Override != nil {
				t.Metrics = append(t.Metrics, ov.Override)
			}
		}
	}
}

// inheritLogs is what an entry without providers means: the logs there are, else the mesh's default, else Envoy's own.
func (r *reader) inheritLogs(t *facts.Telemetry, gw gatewayName, filter string) {
	if len(t.AccessLogs) == 0 {
		r.logTo(t, gw, r.mesh().DefaultAccessLogging, "")
	}
	if len(t.AccessLogs) == 0 {
		t.AccessLogs = append(t.AccessLogs, &facts.AccessLog{Name: "envoy"})
	}
	t.AccessLogs = filtered(t.AccessLogs, filter)
}

// without leaves out the logs of some providers, all when none is named.
func without(logs []*facts.AccessLog, names []string) []*facts.AccessLog {
	if len(names) == 0 {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(logs), func(l *facts.AccessLog) bool { return slices.Contains(names, l.Name) })
}

func filtered(logs []*facts.AccessLog, filter string) []*facts.AccessLog {
	if filter == "" {
		return logs
	}
	var out []*facts.AccessLog
	for _, l := range logs {
		l = proto.Clone(l).(*facts.AccessLog)
		l.Filter = filter
		out = append(out, l)
	}
	return out
}

func (r *reader) applyTracing(t *facts.Telemetry, gw gatewayName, tr *object.TelemetryTracing) {
	out := &facts.Tracing{}
	if t.Tracing != nil {
		out = proto.Clone(t.Tracing).(*facts.Tracing)
	}
	if len(tr.Providers) > 0 {
		out.Otlp, out.Zipkin, out.HttpPath = nil, nil, ""
		r.traceTo(out, gw, tr.Providers)
	}
	if s := tr.Settings; s != nil {
		if s.Sampling != nil {
			out.Sampling = s.Sampling
		}
		if len(s.Tags) > 0 {
			out.Tags = s.Tags
		}
		if s.MaxTagLength != 0 {
			out.MaxTagLength = s.MaxTagLength
		}
	}
	if tr.Disabled != nil {
		out.Disabled = *tr.Disabled
	}
	t.Tracing = out
}

// traceTo takes over where the first provider that traces sends spans. There is one destination for spans.
func (r *reader) traceTo(t *facts.Tracing, gw gatewayName, names []string) {
	for _, name := range names {
		p, ok := r.mesh().Provider(name)
		if !ok || p.Tracing == nil {
			continue
		}
		from := proto.Clone(p.Tracing).(*facts.Tracing)
		r.provided(gw, from.Otlp)
		r.provided(gw, from.Zipkin)
		t.Otlp, t.Zipkin, t.HttpPath = from.Otlp, from.Zipkin, from.HttpPath
		if from.MaxTagLength != 0 {
			t.MaxTagLength = from.MaxTagLength
		}
		if from.ServiceName != "" {
			t.ServiceName = from.ServiceName
		}
		return
	}
}

// logTo adds the access logs of providers.
func (r *reader) logTo(t *facts.Telemetry, gw gatewayName, names []string, filter string) {
	for _, name := range names {
		p, ok := r.mesh().Provider(name)
		var l *facts.AccessLog
		switch {
		case ok && p.AccessLog != nil:
			l = proto.Clone(p.AccessLog).(*facts.AccessLog)
			r.provided(gw, l.Otlp)
		case !ok && name == "envoy": // there without being configured. Istio pkg/config/mesh DefaultMeshConfig.
			l = &facts.AccessLog{}
		default:
			continue
		}
		l.Name = name
		if filter != "" {
			l.Filter = filter
		}
		t.AccessLogs = append(t.AccessLogs, l)
	}
}
