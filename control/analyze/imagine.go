package analyze

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/api/document"
	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/control/object"
)

// Files say what is to be. To judge a policy one has to know the pods there will be, and that a Gateway will be served.

// templates says where the pods of a kind are described.
var templates = map[name][]string{
	{kind: "apps/Deployment"}:  {"spec", "template"},
	{kind: "apps/StatefulSet"}: {"spec", "template"},
	{kind: "apps/DaemonSet"}:   {"spec", "template"},
	{kind: "apps/ReplicaSet"}:  {"spec", "template"},
	{kind: "batch/Job"}:        {"spec", "template"},
	{kind: "batch/CronJob"}:    {"spec", "jobTemplate", "spec", "template"},
}

// imagine adds a pod for everything that makes some, and lets pods run and Gateways be served.
func (w *world) imagine() {
	each(w, func(p *object.Pod) {
		if p.Phase == object.Pending && len(p.IPs) == 0 && w.places[p.Key()].file != "" {
			w.run(p)
		}
	})
	for _, r := range w.raw {
		path, ok := templates[name{kind: r.group + "/" + r.kind}]
		if !ok || document.At(r.o, "spec", "replicas") == 0 || r.file == "" {
			continue
		}
		var t corev1.PodTemplateSpec
		if !into(document.At(r.o, path...), &t) {
			continue // the API server will say what is wrong with it
		}
		meta := metav1.ObjectMeta{Name: r.name.name + "-0", Namespace: r.namespace, Labels: t.Labels, Annotations: t.Annotations}
		o, _ := w.dec.Convert(object.KindPod, meta, &corev1.Pod{ObjectMeta: meta, Spec: t.Spec})
		p, ok := o.(*object.Pod)
		if !ok {
			continue
		}
		if w.cfg.Live && w.runs(p) {
			continue
		}
		w.run(p)
		w.objects[p.Key()], w.places[p.Key()] = p, r.place
		spec, _ := document.At(r.o, append(path, "spec")...).(map[string]any)
		w.pods = append(w.pods, &pod{Pod: p, by: r.kind + " " + r.namespace + "/" + r.name.name, spec: spec})
	}
	each(w, func(g *object.Gateway) {
		if len(g.Status) > 0 || w.places[g.Key()].file == "" {
			return
		}
		served := *g
		served.Status = []object.GatewayAddress{{Kind: object.AddressHostname, Value: g.Name + "." + g.Namespace + ".svc." + w.cfg.ClusterDomain}}
		w.objects[g.Key()] = &served
	})
}

// runs reports whether pods like it run already.
func (w *world) runs(p *object.Pod) bool {
	for k, o := range w.objects {
		if k.Kind == object.KindPod && k.Namespace == p.Namespace && o.Metadata().Labels.Contains(p.Labels) {
			return true
		}
	}
	return false
}

// run makes a pod one that runs. Objects are not changed once they were handed out: nobody has it yet.
func (w *world) run(p *object.Pod) {
	w.addresses++
	n := w.addresses
	p.Phase, p.Ready = object.Running, true
	// Addresses for documentation and benchmarks, which nothing real has (RFC 2544).
	p.IPs = []netip.Addr{netip.AddrFrom4([4]byte{198, 18 + byte(n>>16&1), byte(n >> 8), byte(n)})}
	if w.ambient(p.Namespace, p.Labels) && !p.HostNetwork && p.Annotations.Get(mesh.AnnotationRedirection) == "" {
		all := p.Annotations.Map()
		if all == nil {
			all = map[string]string{}
		}
		all[mesh.AnnotationRedirection] = mesh.RedirectionEnabled
		p.Annotations = object.MakeLabels(all)
	}
	if p.Node == "" {
		p.Node = fmt.Sprintf("node-%d", n)
	}
}
