package gateways

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/waypoint/deploy"
)

const kindListenerSet = "ListenerSet"

// parentOf is the Gateway that a ListenerSet adds to.
func parentOf(o Object) name {
	return name{
		cmp.Or(text(o, "spec", "parentRef", "namespace"), text(o, "metadata", "namespace")),
		text(o, "spec", "parentRef", "name"),
	}
}

// added are the listeners that ListenerSets add to a Gateway: their ports must be open too. Whether a listener as such is
// good is told elsewhere; one without a usable port opens nothing.
func (r *Reconciler) added(gateway Object, id name) []deploy.Listener {
	sets := r.where(func(k Key, o Object) bool {
		return k.Kind == kindListenerSet && parentOf(o) == id && r.admits(gateway, k.Namespace)
	})
	slices.SortFunc(sets, func(a, b Object) int { return strings.Compare(keyOf(a).String(), keyOf(b).String()) })
	var list []deploy.Listener
	for _, s := range sets {
		for _, l := range items(s, "spec", "listeners") {
			if port := whole(l, "port"); port >= 1 && port <= 65535 {
				list = append(list, deploy.Listener{Name: text(l, "name"), Protocol: text(l, "protocol"), Port: int(port)})
			}
		}
	}
	return list
}

// admits says whether a Gateway takes ListenerSets of a namespace; by default it takes none. r.mu is held.
func (r *Reconciler) admits(gateway Object, namespace string) bool {
	allowed, _ := at(gateway, "spec", "allowedListeners", "namespaces").(map[string]any)
	switch text(allowed, "from") {
	case "All":
		return true
	case "Same":
		return namespace == text(gateway, "metadata", "namespace")
	case "Selector":
		return selects(allowed["selector"], texts(r.objects[Key{Kind: "Namespace", Name: namespace}], "metadata", "labels"))
	}
	return false
}

// selects says whether labels fit a selector. An expression that is not understood fits nothing.
func selects(selector any, labels map[string]string) bool {
	s, _ := selector.(map[string]any)
	for k, v := range maps.All(texts(s, "matchLabels")) {
		if labels[k] != v {
			return false
		}
	}
	for _, e := range items(s, "matchExpressions") {
		v, has := labels[text(e, "key")]
		values, _ := e["values"].([]any)
		in := slices.Contains(values, any(v))
		switch op := text(e, "operator"); {
		case op == "In" && has && in, op == "NotIn" && (!has || !in), op == "Exists" && has, op == "DoesNotExist" && !has:
		default:
			return false
		}
	}
	return s != nil
}
