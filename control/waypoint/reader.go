package waypoint

import (
	"cmp"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/control/jwks"
	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
)

// reader is how a unit sees the world: whatever is looked at, found or not, is written down.
type reader struct {
	m      *Model
	topics set[topic]
	wants  set[unitID]
}

func (r *reader) begin() {
	if r.topics == nil {
		r.topics, r.wants = set[topic]{}, set[unitID]{}
		return
	}
	reset(&r.topics)
	reset(&r.wants)
}

// get returns an object of a known type, nil when there is none.
func get[T object.Object](r *reader, k object.Key) T {
	r.topics.add(about(k))
	o, _ := r.m.objects[k].(T)
	return o
}

// list returns the objects of one type on a list, the oldest first.
func list[T object.Object](r *reader, t topic) []T {
	r.topics.add(t)
	var all []T
	for k := range r.m.lists[t] {
		if o, ok := r.m.objects[k].(T); ok {
			r.topics.add(about(k))
			all = append(all, o)
		}
	}
	slices.SortFunc(all, func(a, b T) int { return byAge(a.Metadata(), b.Metadata()) })
	return all
}

// members returns what is on a list without looking at it.
func (r *reader) members(t topic) set[object.Key] {
	r.topics.add(t)
	return r.m.lists[t]
}

// byAge is the order in which objects of one kind are asked: the oldest first, then by name.
func byAge(a, b *object.Meta) int {
	return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

// host returns what is known of a hostname in a namespace.
func (r *reader) host(ns, host string) (model.Host, bool) {
	r.topics.add(named(theHost, ns, host))
	h, ok := r.m.hosts[hostName{ns, host}]
	return h, ok
}

// find returns whom a hostname means to an object of a namespace: the one of its own namespace, else the one that stands
// for the name everywhere, else the first.
func (r *reader) find(from, host string) (model.Host, bool) {
	if h, ok := r.host(from, host); ok {
		return h, true
	}
	r.topics.add(named(hostname, "", host))
	var best model.Host
	found := false
	for ns := range r.m.namespacesOf[host] {
		h := r.m.hosts[hostName{ns, host}]
		if h.Private {
			continue
		}
		if !found || h.Canonical && !best.Canonical || h.Canonical == best.Canonical && h.Namespace < best.Namespace {
			best, found = h, true
		}
	}
	return best, found
}

// namesOf returns the hostnames an object has, sorted.
func (r *reader) namesOf(k object.Key) []string {
	r.topics.add(topic{hostsOf, k})
	var names []string
	for h := range r.m.hostsOf[k] {
		names = append(names, h.host)
	}
	slices.Sort(names)
	return names
}

// behind returns what is behind a Gateway.
func (r *reader) behind(gw gatewayName) set[hostName] {
	r.topics.add(topic{boundTo, gw.key()})
	return r.m.bound[gw]
}

// keys returns a key set that is given by address. Asking makes it needed.
func (r *reader) keys(s jwks.Source) jwks.Set {
	r.topics.add(keysTopic(theKeys, s))
	k, ok := r.m.keys[s]
	if !ok {
		r.m.keys[s] = jwks.Set{}
		r.m.keysChanged = true
	}
	return k
}

func keysTopic(a aspect, s jwks.Source) topic {
	return topic{a, object.Key{Namespace: s.Issuer + "\n" + s.Timeout.String(), Name: s.URI}}
}

// mesh returns the mesh configuration, which may be empty but is never nil.
func (r *reader) mesh() *object.MeshConfig {
	r.topics.add(topic{aspect: theMesh})
	c, _ := r.m.objects[object.Key{Kind: object.KindConfigMap, Namespace: r.m.cfg.RootNamespace, Name: meshConfigName}].(*object.ConfigMap)
	if c == nil || c.Mesh == nil {
		return &object.MeshConfig{}
	}
	return c.Mesh
}

// labels of a namespace.
func (r *reader) labels(ns string) object.Labels {
	n := get[*object.Namespace](r, object.Key{Kind: object.KindNamespace, Name: ns})
	if n == nil {
		return object.Labels{}
	}
	return n.Labels
}

// wildcards yields the hosts that stand for a name: itself and the wildcards over it, the most specific first.
func wildcards(name string) []string {
	all := []string{name}
	for rest := name; ; {
		_, after, ok := strings.Cut(rest, ".")
		if !ok {
			return append(all, "*")
		}
		all = append(all, "*."+after)
		rest = after
	}
}

// exported reports whether something of a namespace may be seen in another one. Empty means what def says, and that
// empty means everywhere. Istio pilot/pkg/model/push_context.go.
func exported(to, def []string, from, by string) bool {
	if len(to) == 0 {
		to = def
	}
	if len(to) == 0 {
		return true
	}
	for _, t := range to {
		if t == "*" || t == by || t == "." && from == by {
			return true
		}
	}
	return false
}
