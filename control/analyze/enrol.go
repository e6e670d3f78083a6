package analyze

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/api/document"
	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/control/intake"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// ours are the labels the mesh reads on namespaces, pods and services.
var ours = []string{
	mesh.LabelDataplaneMode, mesh.LabelUseWaypoint, mesh.LabelUseWaypointNS, mesh.LabelWaypointFor, mesh.LabelIngressUseWaypoint,
	mesh.LabelUseWaypointCanary, mesh.LabelUseWaypointCanaryNS,
}

// foreign are labels under the same prefix that belong to others.
var foreign = []string{mesh.LabelRevision, "istio.io/tag", "istio.io/config", "istio.io/owned-by", "istio.io/global", "istio.io/gateway-name", "istio.io/benchmark"}

// enrolment looks at labels that take things into the mesh.
func (w *world) enrolment() {
	for _, r := range w.raw {
		labels, _ := document.At(r.o, "metadata", "labels").(map[string]any)
		if r.group != "" && r.group != "gateway.networking.k8s.io" && r.group != "networking.istio.io" {
			continue
		}
		for _, key := range slices.Sorted(keysOf(labels)) {
			w.label(r, key, fmt.Sprint(labels[key]))
		}
		if r.kind != "Namespace" && r.kind != "Pod" {
			continue
		}
		ambient := labels[mesh.LabelDataplaneMode] == mesh.DataplaneModeAmbient
		switch {
		case !ambient:
		case labels["istio-injection"] == "enabled":
			w.aboutRaw(status.InjectionAndAmbient, r, "metadata.labels", "it asks for sidecars (istio-injection=enabled) and for ambient mode: pods with a sidecar are not taken into the mesh").
				fix("remove label istio-injection and restart the pods")
		case labels["sidecar.istio.io/inject"] == "true":
			w.aboutRaw(status.InjectionAndAmbient, r, "metadata.labels", "it asks for a sidecar (sidecar.istio.io/inject=true) and for ambient mode: a pod with a sidecar is not taken into the mesh").
				fix("remove label sidecar.istio.io/inject")
		}
	}
}

// label looks at one label.
func (w *world) label(r *raw, key, value string) {
	if key == mesh.LabelDataplaneMode && value != mesh.DataplaneModeAmbient && value != mesh.DataplaneModeNone {
		w.aboutRaw(status.EnrolmentMisspelt, r, "metadata.labels["+key+"]", "%q is no mode: the mesh does not take it", value).fix("write %s or %s", mesh.DataplaneModeAmbient, mesh.DataplaneModeNone)
	}
	prefix, _, ok := strings.Cut(key, "/")
	if !ok || slices.Contains(ours, key) || slices.Contains(foreign, key) || !strings.Contains(prefix, "istio") || strings.HasPrefix(key, "topology.") {
		return
	}
	if prefix == "istio.io" || prefix == "ambient.istio.io" {
		if near := intake.Nearest(key, ours); near != "" {
			w.aboutRaw(status.EnrolmentMisspelt, r, "metadata.labels["+key+"]", "there is no such label").fix("did you mean %s?", near)
		}
	}
}

func keysOf(m map[string]any) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// sidecars finds pods with a proxy of their own where the mesh should be.
func (w *world) sidecars() {
	seen := map[string]bool{}
	for _, p := range w.pods {
		if !p.sidecar || p.isGateway() || !w.ambient(p.Namespace, p.Labels) || seen[p.by] {
			continue
		}
		seen[p.by] = true
		w.about(status.SidecarInAmbient, p.Key(), "spec.containers", "it has a sidecar, so that the node's proxy leaves it alone: nothing that is bound to waypoints or node proxies holds for it (%s)", p.by).
			fix("remove the sidecar: take label istio-injection or sidecar.istio.io/inject away and restart it")
	}
}

// missed finds pods of a mesh that runs that are to be in it and are not.
func (w *world) missed() {
	seen := map[string]bool{}
	for _, p := range w.pods {
		if !w.cfg.Live || w.places[p.Key()].file != "" || p.meshed || p.sidecar || p.HostNetwork || p.Deleting || p.isGateway() ||
			p.Phase != object.Running || !w.ambient(p.Namespace, p.Labels) || seen[p.by] {
			continue
		}
		seen[p.by] = true
		w.about(status.NotCaptured, p.Key(), "metadata.annotations", "it is to be in the mesh and is not, although it runs: what it sends and receives goes in plain text, past all policies (%s)", p.by).
			fix("\"ambitctl enrolment\" says why; the agent of node %s tries again all the time", p.Node)
	}
}

// outside finds policies over pods that no node proxy stands before. Waypoints say so themselves, see EndpointsNotInMesh.
func (w *world) outside() {
	check := func(k object.Key, sel object.Selector, what string) {
		if k.Namespace == w.cfg.RootNamespace {
			return // about the whole mesh, and that alone
		}
		var out []*pod
		in := 0
		for _, p := range w.byLabel[k.Namespace] {
			switch {
			case sel.Present && !sel.Matches(p.Labels), p.isGateway():
			case p.meshed, p.sidecar:
				in++
			default:
				out = append(out, p)
			}
		}
		if len(out) == 0 {
			return
		}
		why := "is not in the mesh"
		if out[0].HostNetwork {
			why = "is in its node's network, which the mesh leaves alone"
		}
		f := w.about(status.SelectsOutside, k, "spec.selector", "%s: %s %s%s", what, out[0].by, why, others(len(out)-1, in))
		if w.ambient(out[0].Namespace, out[0].Labels) && !out[0].HostNetwork {
			f.fix("the mesh is asked to take it: \"ambitctl enrolment\" says why it did not")
		} else if f.fix("take the pods into the mesh: label %s=%s on the namespace", mesh.LabelDataplaneMode, mesh.DataplaneModeAmbient); out[0].HostNetwork {
			f.fix("give the pod a network of its own, or protect it by other means")
		}
	}
	each(w, func(p *object.AuthorizationPolicy) {
		if len(p.TargetRefs) == 0 && p.Action != object.Audit {
			check(p.Key(), p.Selector, "the policy is not enforced everywhere it is about")
		}
	})
	each(w, func(p *object.PeerAuthentication) {
		if p.Mode == object.Strict {
			check(p.Key(), p.Selector, "plaintext is not refused everywhere it is about")
		}
	})
}

func others(out, in int) string {
	switch {
	case out > 0:
		return fmt.Sprintf(", nor are %d others", out)
	case in > 0:
		return fmt.Sprintf("; %d others are", in)
	}
	return ""
}
