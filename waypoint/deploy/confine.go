package deploy

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/api/mesh"
)

// ErrConfined is wrapped when an overlay that is confined changes what is not for it to change.
var ErrConfined = errors.New("not for a Gateway's own parameters")

// Whoever may write Gateways and ConfigMaps need not be allowed to run pods. What is rendered is made with the mesh's
// rights, so an overlay of his decides how much of a gateway runs and where, and never what runs, as whom, with which of the
// node's or the namespace's things: a field that is not named here is not his. Paths are in words, * stands for any one.
func open(key string) []string {
	common := []string{"metadata labels", "metadata annotations"}
	switch key {
	case keyDeployment:
		const pod, container = "spec template spec ", "spec template spec containers " + Container + " "
		return append(common,
			"spec replicas", "spec strategy", "spec minReadySeconds", "spec revisionHistoryLimit", "spec progressDeadlineSeconds", "spec paused",
			"spec template metadata labels", "spec template metadata annotations",
			pod+"affinity", pod+"nodeSelector", pod+"tolerations", pod+"topologySpreadConstraints", pod+"priorityClassName", pod+"schedulerName",
			pod+"terminationGracePeriodSeconds", pod+"imagePullSecrets",
			container+"resources", container+"imagePullPolicy", container+"lifecycle preStop sleep",
			container+"startupProbe *Seconds", container+"startupProbe *Threshold", container+"readinessProbe *Seconds", container+"readinessProbe *Threshold",
			container+"env AMBIT_LOG_LEVEL value", container+"env AMBIT_ENVOY_LOG_LEVEL value", container+"env AMBIT_DRAIN_WAIT value",
			container+"env TERMINATION_DRAIN_DURATION_SECONDS value", container+"env GOGC value",
		)
	case keyService:
		for _, f := range []string{
			"type", "ports", "externalTrafficPolicy", "internalTrafficPolicy", "trafficDistribution", "loadBalancerClass", "loadBalancerIP",
			"loadBalancerSourceRanges", "allocateLoadBalancerNodePorts", "healthCheckNodePort", "ipFamilies", "ipFamilyPolicy",
			"sessionAffinity", "sessionAffinityConfig",
		} {
			common = append(common, "spec "+f)
		}
		return common
	case keyServiceAccount:
		return append(common, "imagePullSecrets", "automountServiceAccountToken")
	case keyAutoscaler:
		return append(common, "spec minReplicas", "spec maxReplicas", "spec metrics", "spec behavior")
	case keyBudget:
		return append(common, "spec minAvailable", "spec maxUnavailable", "spec unhealthyPodEvictionPolicy")
	}
	return nil
}

// confine refuses a change of a document in which something differs that is not open.
func confine(key string, before, after Object, systemNamespace string) error {
	d := differ{}
	for _, p := range open(key) {
		d.open = append(d.open, strings.Fields(p))
	}
	d.walk(nil, before, after)
	if key == keyDeployment {
		d.reserved(before, after)
	}
	if len(d.found) == 0 {
		return nil
	}
	return fmt.Errorf("%s is %w: only replicas, resources, placement, labels and the like are; what else is to be changed belongs into a ConfigMap for the class in namespace %s (label %s), or is let through everywhere by control.gatewayOverlays=any",
		strings.Join(d.found[0], "."), ErrConfined, systemNamespace, mesh.LabelDefaultsForClass)
}

// reservedAnnotations begin the names of annotations by which runtimes and network plugins give a pod what its spec alone would not: more
// networks, another profile of its confinement, settings of the runtime.
var reservedAnnotations = []string{
	"k8s.v1.cni.cncf.io/", "v1.multus-cni.io/",
	"container.apparmor.security.beta.kubernetes.io/", "container.seccomp.security.alpha.kubernetes.io/", "seccomp.security.alpha.kubernetes.io/",
	"io.kubernetes.cri-o", "io.katacontainers.",
}

func reservedAnnotation(name string) bool {
	return slices.ContainsFunc(reservedAnnotations, func(p string) bool { return strings.HasPrefix(name, p) })
}

// reservedPriority begins the names of priority classes that are the cluster's own: k8s.io/kubernetes pkg/apis/scheduling, SystemPriorityClassPrefix.
const reservedPriority = "system-"

// reserved finds what is not the Gateway's owner's to say within fields that are open.
func (d *differ) reserved(before, after Object) {
	path := []string{"spec", "template", "metadata", "annotations"}
	b, a := at(before, path), at(after, path)
	for _, k := range slices.Sorted(maps.Keys(joined(b, a))) {
		if reservedAnnotation(k) && !equal(b[k], a[k]) {
			d.found = append(d.found, append(slices.Clone(path), k))
		}
	}
	path = []string{"spec", "template", "spec"}
	class := at(after, path)["priorityClassName"]
	if name, _ := class.(string); strings.HasPrefix(name, reservedPriority) && !equal(at(before, path)["priorityClassName"], class) {
		d.found = append(d.found, append(path, "priorityClassName "+name))
	}
}

// at is the object at a path; nil where there is none.
func at(o map[string]any, path []string) map[string]any {
	for _, k := range path {
		o, _ = o[k].(map[string]any)
	}
	return o
}

// differ looks for differences between two documents.
type differ struct {
	open  [][]string
	found [][]string
}

func (d *differ) walk(path []string, before, after any) {
	if equal(before, after) || slices.ContainsFunc(d.open, func(p []string) bool { return within(path, p) }) {
		return
	}
	b, okB := before.(map[string]any)
	a, okA := after.(map[string]any)
	if (okA || after == nil) && (okB || before == nil) {
		for _, k := range slices.Sorted(maps.Keys(joined(b, a))) {
			d.walk(append(slices.Clone(path), k), b[k], a[k])
		}
		return
	}
	if len(path) > 0 {
		if key := mergeKey(path[len(path)-1]); key == "name" {
			d.list(path, key, before, after)
			return
		}
	}
	d.found = append(d.found, path)
}

// list compares lists whose elements have names. Their order has a meaning only among those who have it already.
func (d *differ) list(path []string, key string, before, after any) {
	byName := func(list any) map[string]any {
		out := map[string]any{}
		items, _ := list.([]any)
		for _, v := range items {
			e := maps.Clone(element(v))
			name := fmt.Sprint(e[key])
			delete(e, key)
			if out[name] != nil {
				d.found = append(d.found, append(slices.Clone(path), name)) // one would hide the other
			}
			out[name] = e
		}
		return out
	}
	b, a := byName(before), byName(after)
	for _, k := range slices.Sorted(maps.Keys(joined(b, a))) {
		was, is := b[k], a[k]
		if (was == nil) != (is == nil) && len(element(is)) == 0 {
			d.found = append(d.found, append(slices.Clone(path), k)) // one without fields would pass unseen
			continue
		}
		d.walk(append(slices.Clone(path), k), was, is)
	}
}

func joined(a, b map[string]any) map[string]any {
	all := maps.Clone(a)
	if all == nil {
		all = map[string]any{}
	}
	maps.Copy(all, b)
	return all
}

// within says whether a path is that of a pattern, or leads on from it. A word of a pattern that starts with * stands for
// those that end so.
func within(path, pattern []string) bool {
	if len(path) < len(pattern) {
		return false
	}
	for i, p := range pattern {
		end, any := strings.CutPrefix(p, "*")
		if path[i] != p && !(any && strings.HasSuffix(path[i], end)) {
			return false
		}
	}
	return true
}

// equal compares numbers by value, as sameKey does.
func equal(a, b any) bool {
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		return ok && maps.EqualFunc(x, y, equal)
	case []any:
		y, ok := b.([]any)
		return ok && slices.EqualFunc(x, y, equal)
	case nil, string, bool, int, int64, float64:
		if _, list := b.([]any); list {
			return false
		}
		if _, m := b.(map[string]any); m {
			return false
		}
		return sameKey(a, b)
	}
	return reflect.DeepEqual(a, b)
}
