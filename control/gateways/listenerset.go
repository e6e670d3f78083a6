package gateways

import (
	"cmp"
	"maps"
	"slices"

	"github.com/ambit-mesh/ambit/api/document"
	"github.com/ambit-mesh/ambit/waypoint/deploy"
)

const kindListenerSet = "ListenerSet"

// parentOf is the Gateway that a ListenerSet adds to.
func parentOf(o Object) name {
	return name{
		cmp.Or(document.Text(o, "spec", "parentRef", "namespace"), document.Text(o, "metadata", "namespace")),
		document.Text(o, "spec", "parentRef", "name"),
	}
}

// added are the listeners that ListenerSets add to a Gateway: their ports must be open too. Whether a listener as such is
// good is told elsewhere; one without a usable port opens nothing.
func (r *Reconciler) added(gateway Object, id name) []deploy.Listener {
	sets := r.where(kindListenerSet, "", func(k Key, o Object) bool { return parentOf(o) == id && r.admits(gateway, k.Namespace) })
	var list []deploy.Listener
	for _, s := range sets {
		for _, l := range document.Items(s, "spec", "listeners") {
			if port := document.Number(l, "port"); port >= 1 && port <= 65535 {
				list = append(list, deploy.Listener{Name: document.Text(l, "name"), Protocol: document.Text(l, "protocol"), Port: int(port)})
			}
		}
	}
	return list
}

// admits says whether a Gateway takes ListenerSets of a namespace; by default it takes none. r.mu is held.
func (r *Reconciler) admits(gateway Object, namespace string) bool {
	allowed, _ := document.At(gateway, "spec", "allowedListeners", "namespaces").(map[string]any)
	switch document.Text(allowed, "from") {
	case "All":
		return true
	case "Same":
		return namespace == document.Text(gateway, "metadata", "namespace")
	case "Selector":
		return selects(allowed["selector"], document.Strings(r.objects[Key{Kind: "Namespace", Name: namespace}], "metadata", "labels"))
	}
	return false
}

// selects says whether labels fit a selector. An expression that is not understood fits nothing.
func selects(selector any, labels map[string]string) bool {
	s, _ := selector.(map[string]any)
	for k, v := range maps.All(document.Strings(s, "matchLabels")) {
		if labels[k] != v {
			return false
		}
	}
	for _, e := range document.Items(s, "matchExpressions") {
		v, has := labels[document.Text(e, "key")]
		values, _ := e["values"].([]any)
		in := slices.Contains(values, any(v))
		switch op := document.Text(e, "operator"); {
		case op == "In" && has && in, op == "NotIn" && (!has || !in), op == "Exists" && has, op == "DoesNotExist" && !has:
		default:
			return false
		}
	}
	return s != nil
}
