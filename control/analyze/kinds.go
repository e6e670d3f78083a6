package analyze

import (
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// unused are kinds of Istio's and the Gateway API's that mean nothing here, with what to do instead. Sidecar and
// EnvoyFilter are the control plane's own to speak of.
var unused = map[string][2]string{
	"networking.istio.io/Gateway":                 {"gateways at the edge are those of the Gateway API: nothing serves it", "write a Gateway of gateway.networking.k8s.io with gatewayClassName istio, and HTTPRoutes"},
	"networking.istio.io/ProxyConfig":             {"there is no proxy for it beside applications, and a waypoint takes its settings elsewhere", "set resources by the Gateway's infrastructure.parametersRef, and telemetry by a Telemetry"},
	"networking.istio.io/WorkloadGroup":           {"nothing makes WorkloadEntries of it", "write a WorkloadEntry for each workload"},
	"install.istio.io/IstioOperator":              {"it is about an installation of Istio", "put what is meant into values of ambitctl install"},
	"gateway.networking.k8s.io/UDPRoute":          {"the mesh carries TCP", "let UDP go without the mesh"},
	"gateway.networking.x-k8s.io/XBackend":        {"the kind is an experiment of the Gateway API that nothing here reads", "write a ServiceEntry"},
	"gateway.networking.x-k8s.io/XListenerSet":    {"the kind was an experiment of the Gateway API", "write a ListenerSet of gateway.networking.k8s.io/v1"},
	"policy.networking.k8s.io/AdminNetworkPolicy": {"node proxies do not enforce it", "leave it to the cluster's network plugin; see NetworkPolicies for what of the mesh it sees"},
}

// kinds finds objects of kinds that have no use here.
func (w *world) kinds() {
	for _, r := range w.raw {
		if u, ok := unused[r.group+"/"+r.kind]; ok {
			w.aboutRaw(status.KindWithoutEffect, r, "kind", "%s", u[0]).Fix = u[1]
		}
	}
}

// successors are the versions that should be written today.
var successors = map[string]string{
	"networking.istio.io": "v1", "security.istio.io": "v1", "telemetry.istio.io": "v1", "gateway.networking.k8s.io": "v1",
}

// versions finds old ones in files. What an API server answers with is for it to choose.
func (w *world) versions() {
	for _, r := range w.raw {
		now, ok := successors[r.group]
		if !ok || r.file == "" || r.version == now || r.kind == "EnvoyFilter" || r.kind == "ProxyConfig" {
			continue
		}
		if _, known := object.ParseKind(r.kind); known && slices.Contains([]string{"v1alpha1", "v1alpha2", "v1alpha3", "v1beta1"}, r.version) {
			w.aboutRaw(status.OldVersion, r, "apiVersion", "%s/%s has a successor", r.group, r.version).fix("write apiVersion: %s/%s", r.group, now)
		}
	}
}

// classes finds Gateways that nobody serves.
func (w *world) classes() {
	each(w, func(g *object.Gateway) {
		switch g.Class {
		case mesh.GatewayClassWaypoint, mesh.GatewayClassIngress, mesh.GatewayClassEastWest:
			return
		}
		if _, ok := w.objects[object.Key{Kind: object.KindGatewayClass, Name: g.Class}]; ok {
			return
		}
		f := w.about(status.UnknownClass, g.Key(), "spec.gatewayClassName", "there is no GatewayClass %q, and the mesh serves %s and %s", g.Class, mesh.GatewayClassWaypoint, mesh.GatewayClassIngress)
		if f.fix("write one of them, or create the class"); strings.Contains(g.Class, "waypoint") {
			f.fix("write gatewayClassName: %s", mesh.GatewayClassWaypoint)
		}
	})
}

// controllers are the names by which classes say that their Gateways are run by this mesh; see waypoint/deploy.
var controllers = []string{"istio.io/mesh-controller", "istio.io/gateway-controller"}

// revisions finds Gateways of ours that are labelled for another control plane. Nobody says so in their status: it is that
// control plane's to write, if there is one.
func (w *world) revisions() {
	each(w, func(g *object.Gateway) {
		run := g.Class == mesh.GatewayClassWaypoint || g.Class == mesh.GatewayClassIngress
		if c, ok := w.objects[object.Key{Kind: object.KindGatewayClass, Name: g.Class}].(*object.GatewayClass); ok {
			run = slices.Contains(controllers, c.Controller)
		}
		if !run {
			return
		}
		of, remove := "its label", "kubectl label gateway "+g.Name+" -n "+g.Namespace
		rev := g.Labels.Get(mesh.LabelRevision)
		if ns, ok := w.objects[object.Key{Kind: object.KindNamespace, Name: g.Namespace}].(*object.Namespace); ok && rev == "" {
			of, remove = "the label of its namespace", "kubectl label namespace "+g.Namespace
			rev = ns.Labels.Get(mesh.LabelRevision)
		}
		if rev == "" || slices.Contains(w.cfg.Revisions, rev) {
			return
		}
		w.about(status.OtherRevision, g.Key(), "metadata.labels["+mesh.LabelRevision+"]", "%s is %q, and the control plane serves Gateways of revision %s: it runs nothing for this one", of, rev, strings.Join(w.cfg.Revisions, ", ")).
			fix("%s %s- or, if no other control plane is meant, have it served here: --set 'control.revisions={%s,%s}'", remove, mesh.LabelRevision, strings.Join(w.cfg.Revisions, ","), rev)
	})
}
