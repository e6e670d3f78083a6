package gateways

import (
	"reflect"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/api/document"
	"github.com/ambit-mesh/ambit/api/mesh"
)

// rendered are the kinds that are made for Gateways.
func rendered(kind string) bool { return slices.Contains(renderedKinds(), kind) }

func renderedKinds() []string {
	return []string{"Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget", "Service", "ServiceAccount"}
}

// Wants says whether a Reconciler has a use for objects of the kind with these labels; a source need not hand over others.
// It wants less than all Services, and all of the kinds that Gateways refer to by name.
func Wants(kind string, labels map[string]string) bool {
	switch kind {
	case "Gateway", "GatewayClass", kindListenerSet, "ConfigMap", "Namespace":
		return true
	case "Pod":
		return labels[mesh.LabelGatewayName] != ""
	}
	return rendered(kind)
}

// Put tells that an object is there, or is different now.
func (r *Reconciler) Put(o Object) {
	k := keyOf(o)
	if !Wants(k.Kind, document.Strings(o, "metadata", "labels")) {
		r.Remove(k)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.objects[k]
	if old != nil && reflect.DeepEqual(old, o) {
		return
	}
	// Whoever had it, as well as whoever has it, may see a difference.
	r.touch(k, old)
	r.keep(k, o)
	r.touch(k, o)
}

// Remove tells that an object is gone.
func (r *Reconciler) Remove(k Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.objects[k]
	if old == nil {
		return
	}
	r.touch(k, old)
	r.drop(k)
	if k.Kind == "Gateway" {
		delete(r.reports, name{k.Namespace, k.Name})
	}
}

// keep remembers an object. r.mu is held, as in drop.
func (r *Reconciler) keep(k Key, o Object) {
	r.objects[k] = o
	p := shelf{k.Kind, k.Namespace}
	if r.shelves[p] == nil {
		r.shelves[p] = map[Key]Object{}
	}
	r.shelves[p][k] = o
}

func (r *Reconciler) drop(k Key) {
	delete(r.objects, k)
	p := shelf{k.Kind, k.Namespace}
	if delete(r.shelves[p], k); len(r.shelves[p]) == 0 {
		delete(r.shelves, p)
	}
}

// forget drops an object that Run has deleted.
func (r *Reconciler) forget(k Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(k)
}

// Synced tells that everything there is has been Put.
func (r *Reconciler) Synced() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.synced = true
	r.markAll()
}

// Forget takes back everything that was Put, and Synced: Run does nothing until that is called again. Whoever stops telling
// what there is calls it, before anybody starts again; a Gateway that was made meanwhile would otherwise look as if it were
// not there while what runs for it is. Reports stay, for they come from elsewhere.
func (r *Reconciler) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.synced, r.all = false, false
	r.objects, r.shelves, r.dirty = map[Key]Object{}, map[shelf]map[Key]Object{}, map[name]bool{}
}

// touch marks the Gateways that an object matters to.
func (r *Reconciler) touch(k Key, o Object) {
	if o == nil {
		return
	}
	switch k.Kind {
	case "Gateway":
		r.mark(name{k.Namespace, k.Name})
	case "GatewayClass":
		r.markAll()
	case "Namespace":
		// Clusters that make and delete namespaces all day have Gateways in others.
		for g := range r.shelves[shelf{"Gateway", k.Name}] {
			r.mark(name{g.Namespace, g.Name})
		}
		for _, set := range r.shelves[shelf{kindListenerSet, k.Name}] {
			r.mark(parentOf(set)) // which may take those of namespaces with some labels
		}
	case kindListenerSet:
		r.mark(parentOf(o))
	case "ConfigMap":
		// They are few, and so are Gateways.
		if document.Strings(o, "metadata", "labels")[mesh.LabelDefaultsForClass] != "" {
			r.markAll()
			return
		}
		for g, doc := range r.shelves[shelf{"Gateway", k.Namespace}] {
			if document.Text(doc, "spec", "infrastructure", "parametersRef", "name") == k.Name {
				r.mark(name{g.Namespace, g.Name})
			}
		}
	default:
		if n := document.Strings(o, "metadata", "labels")[mesh.LabelGatewayName]; n != "" {
			r.mark(name{k.Namespace, n})
			return
		}
		// Somebody else's object may have been in the way of ours, or be one that a Gateway names.
		for g := range r.shelves[shelf{"Gateway", k.Namespace}] {
			r.mark(name{g.Namespace, g.Name})
		}
	}
}

// owner is the Gateway that an object is or was made for. r.mu is held.
func (r *Reconciler) owner(k Key) (name, bool) {
	if k.Kind == "Gateway" {
		return name{k.Namespace, k.Name}, true
	}
	if !rendered(k.Kind) {
		return name{}, false
	}
	labels := document.Strings(r.objects[k], "metadata", "labels")
	n := labels[mesh.LabelGatewayName]
	return name{k.Namespace, n}, n != "" && ours(labels[mesh.LabelGatewayManaged])
}

func (r *Reconciler) get(k Key) Object {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.objects[k]
}

// where returns the objects of a kind that fit, in one namespace or, if that is empty, in all, in the order of their names.
// fit is called with r.mu held; nil fits all.
func (r *Reconciler) where(kind, namespace string, fit func(Key, Object) bool) []Object {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []Object
	look := func(p shelf) {
		for k, o := range r.shelves[p] {
			if fit == nil || fit(k, o) {
				list = append(list, o)
			}
		}
	}
	if namespace != "" {
		look(shelf{kind, namespace})
	} else {
		for p := range r.shelves {
			if p.kind == kind {
				look(p)
			}
		}
	}
	slices.SortFunc(list, func(a, b Object) int { return strings.Compare(keyOf(a).String(), keyOf(b).String()) })
	return list
}
