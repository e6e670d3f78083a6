package intake

import (
	"fmt"
	"maps"
	"slices"

	telemetry "istio.io/api/telemetry/v1alpha1"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/object"
)

// telemetry converts a Telemetry. Istio pkg/config/validation ValidateTelemetry.
func (r *reader) telemetry(m object.Meta, spec *telemetry.Telemetry) *object.Telemetry {
	out := &object.Telemetry{Meta: m}
	out.Selector, out.TargetRefs = r.policyTargets(spec.Selector, spec.TargetRef, spec.TargetRefs, m.Namespace)
	if n := len(spec.Tracing) + len(spec.Metrics) + len(spec.AccessLogging); !r.fewer(n, maxValues, at("spec"), "entry") {
		return nil
	}
	if len(spec.Tracing) > 1 {
		r.warn(at("spec", "tracing"), "only the first entry that fits counts", "put the entries together")
	}
	for i, t := range spec.Tracing {
		out.Tracing = append(out.Tracing, r.tracing(t, at("spec", "tracing", i)))
	}
	for i, t := range spec.Metrics {
		out.Metrics = append(out.Metrics, r.metrics(t, at("spec", "metrics", i)))
	}
	for i, t := range spec.AccessLogging {
		p := at("spec", "accessLogging", i)
		l := object.TelemetryLogging{Side: side(int32(t.Match.GetMode())), Providers: r.providers(t.Providers, p), Filter: t.Filter.GetExpression()}
		if d := t.Disabled; d != nil {
			l.Disabled = &d.Value
		}
		r.short(l.Filter, sub(p, "filter", "expression"))
		out.Logging = append(out.Logging, l)
	}
	r.leftOut(spec)
	return out
}

// maxExpression bounds CEL and formats.
const maxExpression = 4 << 10

func (r *reader) short(s string, path []any) {
	if len(s) > maxExpression {
		r.refuse(path, fmt.Sprintf("the expression has %d characters, at most %d are allowed", len(s), maxExpression), "shorten it")
	}
}

// side converts telemetry's WorkloadMode, whose zero is both.
func side(mode int32) object.Side {
	switch telemetry.WorkloadMode(mode) {
	case telemetry.WorkloadMode_CLIENT:
		return object.ClientSide
	case telemetry.WorkloadMode_SERVER:
		return object.ServerSide
	}
	return object.BothSides
}

func (r *reader) providers(in []*telemetry.ProviderRef, path []any) []string {
	if !r.fewer(len(in), maxRouteItems, sub(path, "providers"), "provider") {
		return nil
	}
	var out []string
	for i, p := range in {
		if p.Name == "" {
			r.refuse(sub(path, "providers", i, "name"), "the field is missing", "write the name of one of the mesh configuration's extensionProviders")
		}
		out = append(out, r.d.words.one(p.Name))
	}
	return out
}

func (r *reader) tracing(in *telemetry.Tracing, path []any) object.TelemetryTracing {
	out := object.TelemetryTracing{Side: side(int32(in.Match.GetMode())), Providers: r.providers(in.Providers, path), Settings: &waypoint.Tracing{}}
	if d := in.DisableSpanReporting; d != nil {
		out.Disabled = &d.Value
	}
	if s := in.RandomSamplingPercentage; s != nil {
		r.perMillion(s.Value, sub(path, "randomSamplingPercentage"))
		out.Settings.Sampling = s
	}
	if !r.fewer(len(in.CustomTags), maxValues, sub(path, "customTags"), "tag") {
		return out
	}
	for _, name := range slices.Sorted(maps.Keys(in.CustomTags)) {
		p, in := sub(path, "customTags", name), in.CustomTags[name]
		if in.GetFormatter() != nil {
			r.warn(sub(p, "formatter"), "tags of this kind are left out", "use literal, header or environment")
			continue
		}
		out.Settings.Tags = append(out.Settings.Tags, r.traceTag(name, in.GetLiteral(), in.GetHeader(), in.GetEnvironment(), p))
	}
	return out
}

// traceTag converts a tag of a Telemetry; those of the mesh configuration have the same form.
func (r *reader) traceTag(name string, literal *telemetry.Tracing_Literal, header *telemetry.Tracing_RequestHeader, environment *telemetry.Tracing_Environment, path []any) *waypoint.Tracing_Tag {
	out := &waypoint.Tracing_Tag{Name: name}
	switch {
	case literal != nil:
		out.From = &waypoint.Tracing_Tag_Literal{Literal: literal.Value}
	case header != nil:
		out.From = &waypoint.Tracing_Tag_Header{Header: r.header(header.Name, sub(path, "header", "name"))}
		out.DefaultValue = header.DefaultValue
	case environment != nil:
		out.From = &waypoint.Tracing_Tag_Environment{Environment: environment.Name}
		out.DefaultValue = environment.DefaultValue
		if environment.Name == "" {
			r.refuse(sub(path, "environment", "name"), "the field is missing", "write the name of a variable")
		}
	default:
		r.refuse(path, "it is not said what the tag's value is", "write literal, header or environment")
	}
	return out
}

func (r *reader) metrics(in *telemetry.Metrics, path []any) object.TelemetryMetrics {
	out := object.TelemetryMetrics{Providers: r.providers(in.Providers, path)}
	if !r.fewer(len(in.Overrides), maxValues, sub(path, "overrides"), "override") {
		return out
	}
	for i, o := range in.Overrides {
		p := sub(path, "overrides", i)
		to := &waypoint.MetricOverride{Disabled: o.Disabled}
		switch m := o.Match.GetMetricMatch().(type) {
		case *telemetry.MetricSelector_Metric:
			if m.Metric != telemetry.MetricSelector_ALL_METRICS {
				to.Metric = m.Metric.String()
			}
		case *telemetry.MetricSelector_CustomMetric:
			to.Metric = m.CustomMetric
			if m.CustomMetric == "" {
				r.refuse(sub(p, "match", "customMetric"), "the name is empty", "write the name of a metric")
			}
		}
		if !r.fewer(len(o.TagOverrides), maxValues, sub(p, "tagOverrides"), "tag") {
			return out
		}
		for _, name := range slices.Sorted(maps.Keys(o.TagOverrides)) {
			t, tp := o.TagOverrides[name], sub(p, "tagOverrides", name)
			switch {
			case name == "":
				r.refuse(tp, "the name of the tag is empty", "write a name before the colon")
			case t.GetOperation() == telemetry.MetricsOverrides_TagOverride_REMOVE:
				if t.Value != "" {
					r.refuse(sub(tp, "value"), "a tag that is removed has no value", "remove the field, or write operation: UPSERT")
				}
				to.Remove = append(to.Remove, name)
			case t.GetValue() == "":
				r.refuse(sub(tp, "value"), "the field is missing", "write an expression, or operation: REMOVE")
			default:
				r.short(t.Value, sub(tp, "value"))
				if to.Tags == nil {
					to.Tags = make(map[string]string)
				}
				to.Tags[name] = t.Value
			}
		}
		out.Overrides = append(out.Overrides, object.TelemetryOverride{Side: side(int32(o.Match.GetMode())), Override: to})
	}
	return out
}
