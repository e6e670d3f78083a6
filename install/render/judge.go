package render

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/ambit-mesh/ambit/install/charts"
)

// overlayKeys are the documents that may be given for a class of Gateways: those of waypoint/deploy, which a test in e2e
// holds them to. What else stands there has the control plane refuse every Gateway of the class.
var overlayKeys = []string{"deployment", "horizontalPodAutoscaler", "podDisruptionBudget", "service", "serviceAccount"}

// label is a name as namespaces have it (RFC 1123).
var label = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// judge finds what no schema says: values that render well and mean nothing. Null is what was left out.
func (v *Values) judge() []error {
	var out []error
	say := func(format string, args ...any) { out = append(out, fmt.Errorf(format, args...)) }
	if name := v.Text(charts.CNI, "cniConfFileName"); v.At(charts.CNI, "chained") == false && name != "" && !strings.HasSuffix(name, ".conf") {
		say("cni.cniConfFileName is %q, and cni.chained is false: what is not chained has a .conf of its own, as istio-cni.conf; leave the name out, or chain", name)
	}
	for _, chart := range []string{charts.Control, charts.CNI, charts.Ztunnel} {
		if !v.Enabled(chart) {
			continue
		}
		for _, image := range []string{"image", "gatewayImage"} {
			if name := v.Text(chart, image); name != "" && !strings.Contains(name, "/") && v.Text(chart, "hub") == "" && v.Text("global", "hub") == "" {
				say("global.hub is empty: write it like registry.example/ambit, or %s.%s with its registry", chart, image)
			}
		}
		env, _ := v.At(chart, "env").(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(env)) {
			switch env[name].(type) {
			case map[string]any, []any:
				say("%s.env.%s is %s: write text; a dot that belongs to the name is written \\.", chart, name, show(env[name]))
			}
		}
		out = append(out, v.quantities(chart)...)
	}
	for _, path := range [][]string{{charts.Control, "gatewayNamespaces"}, {charts.Control, "secretNamespaces"}, {charts.CNI, "excludeNamespaces"}} {
		list, _ := v.At(path...).([]any)
		for _, ns := range list {
			if s, ok := ns.(string); !ok || !label.MatchString(s) {
				say("%s has %s, which is no namespace: use lower-case letters, digits and dashes", strings.Join(path, "."), show(ns))
			}
		}
	}
	out = append(out, v.waypoints()...)
	classes, _ := v.At(charts.Control, "gatewayClasses").(map[string]any)
	for _, class := range slices.Sorted(maps.Keys(classes)) {
		documents, ok := classes[class].(map[string]any)
		if !ok && classes[class] != nil {
			say("control.gatewayClasses.%s is %s: write a mapping of %s", class, show(classes[class]), listing(overlayKeys))
		}
		for _, key := range slices.Sorted(maps.Keys(documents)) {
			at := "control.gatewayClasses." + class + "." + key
			if _, ok := documents[key].(map[string]any); !slices.Contains(overlayKeys, key) {
				say("there is no value %s: there is %s", at, strings.Join(overlayKeys, ", "))
			} else if !ok && documents[key] != nil {
				say("%s is %s: write a mapping, as in {spec: {…}}", at, show(documents[key]))
			}
		}
	}
	return out
}

// revision is what the value of a label may be.
var revision = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$`)

// waypoints finds what the control plane would not start with.
func (v *Values) waypoints() (out []error) {
	say := func(format string, args ...any) { out = append(out, fmt.Errorf(format, args...)) }
	list, given := v.At(charts.Control, "revisions").([]any)
	if given && len(list) == 0 {
		say("control.revisions is empty: write the control plane's own revision, as in [default]")
	}
	for _, r := range list {
		if s, ok := r.(string); !ok || !revision.MatchString(s) {
			say("control.revisions has %s, which cannot be the value of a label: use letters, digits, dashes, dots and underscores", show(r))
		}
	}
	scale := func(name string) float64 {
		switch n := v.At(charts.Control, "waypoints", "autoscaling", name).(type) {
		case int:
			return float64(n)
		case int64:
			return float64(n)
		case float64:
			return n
		}
		return 0
	}
	const at = "control.waypoints.autoscaling."
	switch least, most := scale("minReplicas"), scale("maxReplicas"); {
	case most == 0 && least > 1:
		say("%sminReplicas is %v and there is no autoscaler: write %smaxReplicas, too, or how many pods there are into control.gatewayClasses.istio-waypoint.deployment.spec.replicas", at, least, at)
	case most > 0 && least > most:
		say("%sminReplicas is %v, more than %smaxReplicas, which is %v", at, least, at, most)
	}
	return out
}

// quantities finds resources of containers that an API server would refuse.
func (v *Values) quantities(chart string) (out []error) {
	all, _ := v.At(chart, "resources").(map[string]any)
	for _, what := range slices.Sorted(maps.Keys(all)) {
		at := chart + ".resources." + what
		if what == "claims" {
			continue
		}
		if what != "limits" && what != "requests" {
			out = append(out, fmt.Errorf("there is no value %s: there is claims, limits, requests", at))
			continue
		}
		list, ok := all[what].(map[string]any)
		if !ok && all[what] != nil {
			out = append(out, fmt.Errorf("%s is %s: write a mapping, as in {cpu: 100m, memory: 128Mi}", at, show(all[what])))
		}
		for _, name := range slices.Sorted(maps.Keys(list)) {
			if list[name] == nil {
				continue
			}
			if _, err := resource.ParseQuantity(fmt.Sprint(list[name])); err != nil {
				out = append(out, fmt.Errorf("%s.%s is %s, which is no quantity: write it like 100m or 128Mi", at, name, show(list[name])))
			}
		}
	}
	return out
}
