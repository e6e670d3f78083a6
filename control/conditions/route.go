package conditions

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

func isRoute(kind string) bool { return strings.HasSuffix(kind, "Route") }

// hasAncestors says whether a kind's status is that of a Gateway API policy: with an entry for each Gateway it matters to.
func hasAncestors(kind string) bool { return kind == "BackendTLSPolicy" }

// ancestors are the entries of others, and one of ours for each Gateway in the report.
func (w *Writer) ancestors(old Object, r Report) []any {
	list := []any{}
	var before []Object
	entries, _ := old["ancestors"].([]any)
	for _, v := range entries {
		a, _ := v.(map[string]any)
		if a["controllerName"] != controller {
			list = append(list, v)
			continue
		}
		before = append(before, a)
	}
	for _, p := range r.Parents {
		kind, name, _ := strings.Cut(p.Name, " ")
		ns, name, _ := strings.Cut(name, "/")
		ref := Object{"group": "gateway.networking.k8s.io", "kind": kind, "namespace": ns, "name": name}
		var then any
		if j := slices.IndexFunc(before, func(a Object) bool { return reflect.DeepEqual(a["ancestorRef"], any(ref)) }); j >= 0 {
			then = before[j]["conditions"]
		}
		list = append(list, Object{"ancestorRef": ref, "controllerName": controller, "conditions": w.conditions(then, r.Generation, p.Conditions)})
	}
	return list
}

// ParentName is how reports name a parentRef of an object in a namespace: kind, namespace/name, section and port.
func ParentName(namespace string, ref Object) string {
	kind, _ := ref["kind"].(string)
	if kind == "" {
		kind = "Gateway"
	}
	if ns, _ := ref["namespace"].(string); ns != "" {
		namespace = ns
	}
	s := fmt.Sprintf("%s %s/%v", kind, namespace, ref["name"])
	if section, _ := ref["sectionName"].(string); section != "" {
		s += " section " + section
	}
	if port := ref["port"]; port != nil {
		s += fmt.Sprintf(" port %v", port)
	}
	return s
}

// parents are the entries of others, and one of ours for each parent that there is a report of.
func (w *Writer) parents(o, old Object, r Report) []any {
	list := []any{}
	var before []Object
	entries, _ := old["parents"].([]any)
	for _, v := range entries {
		p, _ := v.(map[string]any)
		if p["controllerName"] != controller {
			list = append(list, v)
			continue
		}
		before = append(before, p)
	}
	spec, _ := o["spec"].(map[string]any)
	refs, _ := spec["parentRefs"].([]any)
	for _, v := range refs {
		ref, _ := v.(map[string]any)
		i := slices.IndexFunc(r.Parents, func(p Parent) bool { return p.Name == ParentName(r.Namespace, ref) })
		if i < 0 {
			continue
		}
		var then any
		if j := slices.IndexFunc(before, func(p Object) bool { return reflect.DeepEqual(p["parentRef"], any(ref)) }); j >= 0 {
			then = before[j]["conditions"]
		}
		list = append(list, Object{
			"parentRef": ref, "controllerName": controller, "conditions": w.conditions(then, r.Generation, r.Parents[i].Conditions),
		})
	}
	return list
}
