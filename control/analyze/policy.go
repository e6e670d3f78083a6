package analyze

import (
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/control/intake"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// selectors finds policies that choose nothing.
func (w *world) selectors() {
	check := func(k object.Key, field string, sel object.Selector) {
		if !sel.Present || sel.Labels.Empty() || len(w.pods) == 0 {
			return
		}
		everywhere := k.Namespace == w.cfg.RootNamespace
		chosen := false
		for _, p := range w.pods {
			chosen = chosen || (everywhere || p.Namespace == k.Namespace) && sel.Matches(p.Labels)
		}
		each(w, func(e *object.WorkloadEntry) {
			chosen = chosen || (everywhere || e.Namespace == k.Namespace) && (sel.Matches(e.Workload.Labels) || sel.Matches(e.Labels))
		})
		each(w, func(e *object.ServiceEntry) {
			chosen = chosen || (everywhere || e.Namespace == k.Namespace) && slices.ContainsFunc(e.Endpoints, func(x object.Workload) bool { return sel.Matches(x.Labels) })
		})
		if chosen {
			return
		}
		f := w.about(status.SelectsNothing, k, field, "no workload of namespace %s has labels %s", k.Namespace, sel.Labels)
		f.fix("correct the labels")
		if near := w.nearLabels(k.Namespace, sel.Labels); near != "" {
			f.fix("did you mean %s?", near)
		}
	}
	each(w, func(p *object.AuthorizationPolicy) { check(p.Key(), "spec.selector", p.Selector) })
	each(w, func(p *object.PeerAuthentication) { check(p.Key(), "spec.selector", p.Selector) })
	each(w, func(p *object.RequestAuthentication) { check(p.Key(), "spec.selector", p.Selector) })
	each(w, func(p *object.NetworkPolicy) {
		if len(p.Pods.Expressions) == 0 {
			check(p.Key(), "spec.podSelector", object.Selector{Present: true, Labels: p.Pods.MatchLabels})
		}
	})
}

// nearLabels are labels that some workload has, and that differ from those wanted by a slip of the pen.
func (w *world) nearLabels(ns string, want object.Labels) string {
	for key, value := range want.All() {
		var values []string
		for _, p := range w.byLabel[ns] {
			rest := want.Map()
			delete(rest, key)
			if v, ok := p.Labels.Lookup(key); ok && p.Labels.Contains(object.MakeLabels(rest)) && !slices.Contains(values, v) {
				values = append(values, v)
			}
		}
		if near := intake.Nearest(value, values); near != "" {
			all := want.Map()
			all[key] = near
			return object.MakeLabels(all).String()
		}
	}
	return ""
}

// strict finds clients that mutual TLS will keep out.
func (w *world) strict() {
	var outside []string
	for _, p := range w.pods {
		if !p.meshed && !p.sidecar && !p.HostNetwork && !p.isGateway() && !strings.HasPrefix(p.Namespace, "kube-") && p.Namespace != w.cfg.RootNamespace && p.Namespace != mesh.SystemNamespace && !slices.Contains(outside, p.Namespace) {
			outside = append(outside, p.Namespace)
		}
	}
	each(w, func(p *object.PeerAuthentication) {
		others := slices.DeleteFunc(slices.Clone(outside), func(ns string) bool { return ns == p.Namespace && !p.Selector.Present })
		if p.Mode != object.Strict || len(others) == 0 {
			return
		}
		w.about(status.StrictLocksOut, p.Key(), "spec.mtls.mode", "pods of %s are not in the mesh, and cannot connect where it holds", names("namespace", others)).
			fix("take them into the mesh (label %s=%s), or make exceptions in portLevelMtls", mesh.LabelDataplaneMode, mesh.DataplaneModeAmbient)
	})
}

// names lists a few.
func names(what string, all []string) string {
	if len(all) > 1 {
		what += "s"
	}
	if more := len(all) - 5; more > 0 {
		return what + " " + strings.Join(all[:5], ", ") + " and others"
	}
	return what + " " + strings.Join(all, ", ")
}
