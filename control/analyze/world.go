package analyze

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/api/document"
	"github.com/ambit-mesh/ambit/api/folder"
	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/control/intake"
	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// world is everything the documents say, in forms that analyzers can ask.
type world struct {
	cfg Config
	dec *intake.Decoder

	objects map[object.Key]object.Object
	places  map[object.Key]place
	// raw has all objects as they are written, also of kinds that the mesh does not read.
	raw        []*raw
	byName     map[name]*raw
	suppressed map[name]codes
	pods       []*pod
	byLabel    map[string][]*pod // of a namespace
	findings   []Finding
	parents    map[object.Key][]model.Part // of routes, as the models see them
	addresses  int                         // given to imagined pods so far
}

// place is where an object is written.
type place struct {
	file string
	line int
}

type name struct{ kind, namespace, name string }

// raw is an object as it is written.
type raw struct {
	place
	name
	group, version string
	o              map[string]any
}

// pod is a pod, or one that is to be expected.
type pod struct {
	*object.Pod
	// by is what makes it: "Deployment shop/web", or the pod itself.
	by   string
	spec map[string]any
	// meshed says that the mesh takes it, or is to take it.
	meshed bool
	// sidecar says that it has a proxy of its own.
	sidecar bool
}

// unbounded is what a control plane bounds for a folder it watches and nobody has to for one reading: what kustomize
// writes of a whole platform is one stream.
var unbounded = intake.Limits{Bytes: math.MaxInt, Documents: math.MaxInt}

func newWorld(cfg Config) *world {
	cfg.RootNamespace = cmp.Or(cfg.RootNamespace, mesh.SystemNamespace)
	cfg.Namespace = cmp.Or(cfg.Namespace, "default")
	cfg.ClusterDomain = cmp.Or(cfg.ClusterDomain, mesh.DefaultClusterDomain)
	if len(cfg.Revisions) == 0 {
		cfg.Revisions = []string{mesh.DefaultRevision}
	}
	return &world{
		cfg: cfg, dec: intake.NewDecoder(unbounded, intake.ClusterDomain(cfg.ClusterDomain), intake.Namespace(cfg.Namespace)),
		objects: map[object.Key]object.Object{}, places: map[object.Key]place{}, byName: map[name]*raw{}, suppressed: map[name]codes{}, byLabel: map[string][]*pod{},
	}
}

// read takes in what a document says.
func (w *world) read(d Document) {
	live := w.cfg.Live && d.Name == ""
	if live && w.readLive(d.Data) {
		return
	}
	said := false
	for _, doc := range w.dec.File(d.Name, d.Data, nil) {
		if doc.Broken && len(doc.Data) > 0 {
			switch kindOfText(doc.Data) {
			case template:
				w.template(doc)
				continue
			case stranger:
				if d.Found {
					if !said {
						w.stranger(d.Name, doc)
					}
					said = true
					continue
				}
			}
		}
		for _, it := range doc.Items {
			if !live {
				for _, e := range it.Entries {
					w.findings = append(w.findings, From(e))
				}
			}
			if it.Object == nil {
				continue
			}
			k := it.Key
			if was, ok := w.places[k]; ok && was.file != "" && !live {
				w.places[k] = place{d.Name, it.Line}
				w.about(status.DefinedTwice, k, "metadata.name", "it is defined at %s:%d as well", was.file, was.line).
					fix("keep one of the two; in a folder the first one counts, with kubectl the last")
			}
			w.objects[k] = w.kept(it.Object)
			if !live {
				w.places[k] = place{d.Name, it.Line}
			}
		}
	}
	for part := range folder.Documents(d.Data) {
		var o map[string]any
		if yaml.Unmarshal(part.Data, &o) == nil {
			at := place{d.Name, firstLine(part)}
			if live {
				at = place{}
			}
			w.take(o, at)
		}
	}
}

// kept is what an object will be once it is applied: the status of a running one stays.
func (w *world) kept(o object.Object) object.Object {
	switch was := w.objects[o.Key()].(type) {
	case *object.Pod:
		if w.cfg.Live {
			return was // pods are not changed by applying them
		}
	case *object.Gateway:
		if now, ok := o.(*object.Gateway); ok && len(now.Status) == 0 {
			now.Status = was.Status
		}
	}
	return o
}

// readLive takes in an object of one of Kubernetes' own kinds. The API server has checked them, and may know fields that
// nobody here does. It reports whether the object was one.
func (w *world) readLive(data []byte) bool {
	var o map[string]any
	if json.Unmarshal(data, &o) != nil {
		return false
	}
	kind, _ := object.ParseKind(document.Text(o, "kind"))
	var to interface {
		metav1.Object
	}
	switch kind {
	case object.KindNamespace:
		to = &corev1.Namespace{}
	case object.KindPod:
		to = &corev1.Pod{}
	case object.KindService:
		to = &corev1.Service{}
	default:
		return false
	}
	if json.Unmarshal(data, to) != nil {
		return false
	}
	meta := metav1.ObjectMeta{Name: to.GetName(), Namespace: to.GetNamespace()}
	if in, _ := w.dec.Convert(kind, meta, to); in != nil {
		w.objects[in.Key()] = in
	}
	w.take(o, place{})
	return true
}

// firstLine is where a document begins, past blank lines and comments.
func firstLine(d folder.Document) int {
	line := d.Line
	for l := range bytes.Lines(d.Data) {
		if l = bytes.TrimSpace(l); len(l) > 0 && l[0] != '#' {
			break
		}
		line++
	}
	return line
}

// take keeps an object, or those of a list, as written.
func (w *world) take(o map[string]any, at place) {
	kind := document.Text(o, "kind")
	if items, ok := o["items"].([]any); ok && strings.HasSuffix(kind, "List") {
		for _, item := range items {
			if m, ok := item.(map[string]any); ok {
				if document.Text(m, "kind") == "" {
					m["kind"], m["apiVersion"] = strings.TrimSuffix(kind, "List"), o["apiVersion"]
				}
				w.take(m, at)
			}
		}
		return
	}
	r := &raw{place: at, o: o, name: name{kind, document.Text(o, "metadata", "namespace"), document.Text(o, "metadata", "name")}}
	if g, v, ok := strings.Cut(document.Text(o, "apiVersion"), "/"); ok {
		r.group, r.version = g, v
	} else {
		r.version = g
	}
	if k, ok := object.ParseKind(kind); r.namespace == "" && !(ok && k.ClusterScoped()) {
		r.namespace = w.cfg.Namespace
	}
	if kind == "" || r.name.name == "" {
		return
	}
	key := r.name
	key.kind = r.group + "/" + kind
	if was := w.byName[key]; was != nil {
		w.raw = slices.DeleteFunc(w.raw, func(o *raw) bool { return o == was })
	}
	w.byName[key] = r
	w.raw = append(w.raw, r)
	if s := document.Text(o, "metadata", "annotations", AnnotationSuppress); s != "" {
		w.suppressed[r.name] = strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
	}
}

// into decodes a value into a Go struct, leaving out what that does not know.
func into(v, to any) bool {
	b, err := json.Marshal(v)
	return err == nil && json.Unmarshal(b, to) == nil
}

// each visits the objects of a type, in order of key.
func each[T object.Object](w *world, f func(T)) {
	var all []T
	for _, o := range w.objects {
		if t, ok := o.(T); ok {
			all = append(all, t)
		}
	}
	slices.SortFunc(all, func(a, b T) int { return strings.Compare(a.Key().String(), b.Key().String()) })
	for _, o := range all {
		f(o)
	}
}

// namespaceLabels are those of a namespace, with the one Kubernetes gives to each.
func (w *world) namespaceLabels(ns string) object.Labels {
	all := map[string]string{"kubernetes.io/metadata.name": ns}
	if o, ok := w.objects[object.Key{Kind: object.KindNamespace, Name: ns}]; ok {
		maps.Copy(all, o.Metadata().Labels.Map())
	}
	return object.MakeLabels(all)
}

// ambient reports whether the mesh is asked to take a pod.
func (w *world) ambient(ns string, labels object.Labels) bool {
	if v, ok := labels.Lookup(mesh.LabelDataplaneMode); ok {
		return v == mesh.DataplaneModeAmbient
	}
	return w.namespaceLabels(ns).Get(mesh.LabelDataplaneMode) == mesh.DataplaneModeAmbient
}

// gather makes the list of pods.
func (w *world) gather() {
	made := map[object.Key]*pod{}
	for _, p := range w.pods {
		made[p.Key()] = p
	}
	each(w, func(o *object.Pod) {
		if made[o.Key()] != nil || o.Phase.Terminal() {
			return
		}
		p := &pod{Pod: o, by: o.Key().String()}
		if r := w.byName[name{"/Pod", o.Namespace, o.Name}]; r != nil {
			p.spec, _ = r.o["spec"].(map[string]any)
			p.sidecar = document.Text(r.o, "metadata", "annotations", mesh.AnnotationSidecarStatus) != ""
		}
		if o.Owner.Kind != "" {
			p.by = o.Owner.Kind + " " + o.Namespace + "/" + o.Owner.Name
		}
		w.pods = append(w.pods, p)
	})
	slices.SortFunc(w.pods, func(a, b *pod) int { return strings.Compare(a.Key().String(), b.Key().String()) })
	for _, p := range w.pods {
		p.sidecar = p.sidecar || hasSidecar(p.spec)
		p.meshed = p.Annotations.Get(mesh.AnnotationRedirection) == mesh.RedirectionEnabled
		if !w.cfg.Live || w.places[p.Key()].file != "" {
			p.meshed = p.meshed || w.ambient(p.Namespace, p.Labels) && !p.HostNetwork && !p.sidecar
		}
		w.byLabel[p.Namespace] = append(w.byLabel[p.Namespace], p)
	}
}

// hasSidecar finds Istio's proxy among the containers; the pod of a gateway is one.
func hasSidecar(spec map[string]any) bool {
	all := append(document.Items(spec, "containers"), document.Items(spec, "initContainers")...)
	return len(document.Items(spec, "containers")) > 1 && slices.ContainsFunc(all, func(c map[string]any) bool { return document.Text(c, "name") == "istio-proxy" })
}

// isGateway tells the pods of waypoints and gateways.
func (p *pod) isGateway() bool { return p.Labels.Has(mesh.LabelGatewayName) }
