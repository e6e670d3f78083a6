package deploy

import (
	"fmt"
	"slices"
)

// maxDepth bounds the recursion through documents that strangers write.
const maxDepth = 64

// merge lays a patch over a document as a strategic merge patch does: maps are merged, null removes, lists of things with
// a key are merged by it, other lists are replaced. Neither argument is changed, and the result may share their parts.
// Kubernetes API conventions, "Strategic Merge Patch".
func merge(doc, patch Object) (Object, error) {
	out, err := mergeMap(doc, patch, 0)
	if err != nil {
		return nil, err
	}
	return out, nil
}

// directive is how a patch says something about the place it is at.
const directive = "$patch"

func mergeMap(doc, patch map[string]any, depth int) (map[string]any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("it is nested more than %d levels deep", maxDepth)
	}
	switch patch[directive] {
	case "delete":
		return nil, nil
	case "replace":
		out := make(map[string]any, len(patch))
		for k, v := range patch {
			if k != directive {
				out[k] = v
			}
		}
		return out, nil
	case nil, "merge":
	default:
		return nil, fmt.Errorf("%s: %v is none of merge, replace and delete", directive, patch[directive])
	}
	out := make(map[string]any, len(doc)+len(patch))
	for k, v := range doc {
		out[k] = v
	}
	for k, v := range patch {
		if k == directive {
			continue
		}
		if v == nil {
			delete(out, k)
			continue
		}
		merged, err := mergeValue(k, out[k], v, depth+1)
		if err != nil {
			return nil, err
		}
		if merged == nil {
			delete(out, k)
			continue
		}
		out[k] = merged
	}
	return out, nil
}

func mergeValue(field string, old, patch any, depth int) (any, error) {
	switch p := patch.(type) {
	case map[string]any:
		o, _ := old.(map[string]any)
		m, err := mergeMap(o, p, depth)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field, err)
		}
		if m == nil {
			return nil, nil
		}
		return m, nil
	case []any:
		o, _ := old.([]any)
		l, err := mergeList(field, o, p, depth)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field, err)
		}
		return l, nil
	}
	if _, isMap := old.(map[string]any); isMap {
		return nil, fmt.Errorf("%s: %v where a mapping belongs", field, patch)
	}
	return patch, nil
}

// keys are the fields that tell the elements of a list apart, by the list's name. Kubernetes types, patchMergeKey.
func mergeKey(field string) string {
	switch field {
	case "containers", "initContainers", "volumes", "env", "imagePullSecrets", "secrets", "resourceClaims":
		return "name"
	case "volumeMounts":
		return "mountPath"
	case "volumeDevices":
		return "devicePath"
	case "ports":
		return "port" // of a Service; of a container, containerPort
	case "hostAliases":
		return "ip"
	case "topologySpreadConstraints":
		return "topologyKey"
	case "ownerReferences":
		return "uid"
	}
	return ""
}

func mergeList(field string, old, patch []any, depth int) ([]any, error) {
	key := mergeKey(field)
	if key == "" || slices.ContainsFunc(patch, func(v any) bool { return element(v)[directive] == "replace" && len(element(v)) == 1 }) {
		return slices.DeleteFunc(slices.Clone(patch), func(v any) bool { return element(v)[directive] != nil && len(element(v)) == 1 }), nil
	}
	if key == "port" && slices.ContainsFunc(slices.Concat(old, patch), func(v any) bool { return element(v)["containerPort"] != nil }) {
		key = "containerPort"
	}
	out := slices.Clone(old)
	for _, v := range patch {
		p := element(v)
		id, ok := p[key]
		if !ok {
			return nil, fmt.Errorf("an entry has no %s, by which entries are told apart", key)
		}
		i := slices.IndexFunc(out, func(o any) bool { return sameKey(element(o)[key], id) })
		var base map[string]any
		if i >= 0 {
			base = element(out[i])
		}
		merged, err := mergeMap(base, p, depth+1)
		if err != nil {
			return nil, err
		}
		switch {
		case merged == nil && i >= 0:
			out = slices.Delete(out, i, i+1)
		case merged == nil:
		case i >= 0:
			out[i] = merged
		default:
			out = append(out, merged)
		}
	}
	return out, nil
}

// element is v as a mapping, empty if it is none.
func element(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

// sameKey compares numbers by value: decoders differ in what they make of them.
func sameKey(a, b any) bool {
	x, ok1 := number(a)
	y, ok2 := number(b)
	if ok1 && ok2 {
		return x == y
	}
	return a == b
}

func number(v any) (float64, bool) {
	switch v := v.(type) {
	case int64:
		return float64(v), true
	case float64:
		return v, true
	case int:
		return float64(v), true
	}
	return 0, false
}
