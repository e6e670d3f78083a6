// Package document reads Kubernetes documents as they come out of JSON: maps, lists, strings and numbers, of which any may be
// missing or of another kind than expected. What is not there, or not what was asked for, is the zero value; who has to tell the
// two apart decodes into a type instead.
//
// It knows no kind of object and changes nothing. Start reading at At.
package document

// At is the value at a path of keys, or nil.
func At(o map[string]any, path ...string) any {
	var v any = o
	for _, p := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[p]
	}
	return v
}

// Text is the string at a path, or "".
func Text(o map[string]any, path ...string) string {
	s, _ := At(o, path...).(string)
	return s
}

// Number is the whole number at a path, or 0. A fraction is cut off.
func Number(o map[string]any, path ...string) int64 {
	switch n := At(o, path...).(type) {
	case int64:
		return n
	case float64:
		return int64(n)
	case int:
		return int64(n)
	}
	return 0
}

// Strings is the map of strings at a path: never nil, a copy, and without what is no string.
func Strings(o map[string]any, path ...string) map[string]string {
	out := map[string]string{}
	m, _ := At(o, path...).(map[string]any)
	for k, v := range m {
		if s, ok := v.(string); ok {
			out[k] = s
		}
	}
	return out
}

// Items are the mappings in the list at a path; what is no mapping is left out.
func Items(o map[string]any, path ...string) []map[string]any {
	list, _ := At(o, path...).([]any)
	var out []map[string]any
	for _, v := range list {
		if m, ok := v.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}
