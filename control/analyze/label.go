package analyze

import (
	"cmp"
	"slices"

	"github.com/ambit-mesh/ambit/api/document"
	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// excluded are the namespaces that agents leave alone unless told otherwise (value cni.excludeNamespaces).
var excluded = []string{"kube-system"}

// unread finds labels of the mesh where nobody reads them: on what makes pods instead of on the pods, among annotations, and
// on namespaces that the mesh leaves alone.
func (w *world) unread() {
	for _, r := range w.raw {
		if path, ok := templates[name{kind: r.group + "/" + r.kind}]; ok {
			own, _ := document.At(r.o, "metadata", "labels").(map[string]any)
			pods, _ := document.At(r.o, append(slices.Clone(path), "metadata", "labels")...).(map[string]any)
			for _, key := range slices.Sorted(keysOf(own)) {
				if slices.Contains(ours, key) && pods[key] != own[key] {
					w.aboutRaw(status.EnrolmentMisspelt, r, "metadata.labels["+key+"]", "nobody reads the label of a %s: its pods are made with those of the template", r.kind).
						fix("put it into %s.metadata.labels", dotted(path))
				}
			}
			continue
		}
		if r.group != "" || r.kind != "Namespace" && r.kind != "Pod" && r.kind != "Service" {
			continue
		}
		notes, _ := document.At(r.o, "metadata", "annotations").(map[string]any)
		for _, key := range slices.Sorted(keysOf(notes)) {
			if slices.Contains(ours, key) {
				w.aboutRaw(status.EnrolmentMisspelt, r, "metadata.annotations["+key+"]", "it is a label, and nobody reads it among the annotations").fix("put it into metadata.labels")
			}
		}
		if r.kind == "Namespace" && slices.Contains(excluded, r.name.name) && document.Text(r.o, "metadata", "labels", mesh.LabelDataplaneMode) == mesh.DataplaneModeAmbient {
			f := w.aboutRaw(status.EnrolmentMisspelt, r, "metadata.labels["+mesh.LabelDataplaneMode+"]", "agents leave the namespace alone: its pods are not taken into the mesh")
			f.fix("take the label away, or the namespace out of cni.excludeNamespaces")
			f.Level = Warning
		}
	}
}

func dotted(path []string) string {
	out := path[0]
	for _, p := range path[1:] {
		out += "." + p
	}
	return out
}

// ownWaypoints finds pods whose own label names a waypoint that there is not, or that does not take traffic to pods. For
// Services and namespaces the control plane says it.
func (w *world) ownWaypoints() {
	seen := map[string]bool{}
	for _, p := range w.pods {
		v := p.Labels.Get(mesh.LabelUseWaypoint)
		if v == "" || v == "none" || p.isGateway() || seen[p.by] {
			continue
		}
		seen[p.by] = true
		of := ""
		if p.by != p.Key().String() {
			of = " (" + p.by + ")"
		}
		field := "metadata.labels[" + mesh.LabelUseWaypoint + "]"
		k := object.Key{Kind: object.KindGateway, Namespace: cmp.Or(p.Labels.Get(mesh.LabelUseWaypointNS), p.Namespace), Name: v}
		g, ok := w.objects[k].(*object.Gateway)
		if !ok {
			w.about(status.WaypointMissing, p.Key(), field, "waypoint \"%s/%s\" is not ready: there is no such Gateway%s", k.Namespace, k.Name, of).
				fix("create it, or take label %s away", mesh.LabelUseWaypoint)
			continue
		}
		takes := w.waypointFor(g)
		if takes != "workload" && takes != "all" {
			w.about(status.WaypointForOthers, p.Key(), field, "waypoint \"%s/%s\" handles traffic of type %q, and the label of a pod is about traffic to its address%s", k.Namespace, k.Name, takes, of).
				fix("put the label on the Service, or set label %s on the Gateway to all", mesh.LabelWaypointFor)
		}
	}
}

// waypointFor is the kind of traffic a waypoint takes.
func (w *world) waypointFor(g *object.Gateway) string {
	class := object.Labels{}
	if c := w.objects[object.Key{Kind: object.KindGatewayClass, Name: g.Class}]; c != nil {
		class = c.Metadata().Labels
	}
	return cmp.Or(g.Labels.Get(mesh.LabelWaypointFor), class.Get(mesh.LabelWaypointFor), "service")
}
