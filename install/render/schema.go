package render

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// schema is as much of a JSON schema as the charts' values are described with.
type schema struct {
	Description string             `json:"description"`
	Type        any                `json:"type"`
	Enum        []string           `json:"enum"`
	Pattern     string             `json:"pattern"`
	Examples    []string           `json:"examples"`
	Minimum     *float64           `json:"minimum"`
	Additional  *bool              `json:"additionalProperties"`
	Properties  map[string]*schema `json:"properties"`
}

// types that are allowed.
func (s *schema) types() []string {
	switch t := s.Type.(type) {
	case string:
		return []string{t}
	case []any:
		var out []string
		for _, e := range t {
			out = append(out, text(e))
		}
		return out
	}
	return nil
}

// fit gives what was written on a command line the type that is asked for: 1.31 and 2026 may be tags.
func (s *schema) fit(written string, v any) any {
	if t := s.types(); len(t) == 1 && t[0] == "string" {
		return written
	}
	return v
}

// howTo shows how a value of a type is written.
var howTo = map[string]string{
	"array": ": write it like [a, b], or {a,b} behind --set", "object": ": write it like {a: b}", "boolean": ": write true or false",
	"integer": ": write it like 600", "number": ": write it like 600",
}

// check reports everything that is wrong with v.
func (s *schema) check(path string, v any) []error {
	if v == nil {
		return []error{fmt.Errorf("%s has no value: leave it out to get the default", path)}
	}
	if t := s.types(); len(t) > 0 && !slices.ContainsFunc(t, func(t string) bool { return is(t, v) }) {
		return []error{fmt.Errorf("%s is %s, which is no %s%s", path, show(v), strings.Join(t, " and no "), howTo[t[0]])}
	}
	if str, ok := v.(string); ok && s.Enum != nil && !slices.Contains(s.Enum, str) {
		return []error{fmt.Errorf("%s is %q: use %s", path, str, listing(s.Enum))}
	}
	if str, ok := v.(string); ok && s.Pattern != "" {
		// The charts' own; a test reads them all.
		if fits, err := regexp.MatchString(s.Pattern, str); err != nil || !fits {
			return []error{fmt.Errorf("%s is %q: write it like %s", path, str, listing(s.Examples))}
		}
	}
	if n, ok := v.(float64); ok && s.Minimum != nil && n < *s.Minimum {
		return []error{fmt.Errorf("%s is %v: write %v or more", path, n, *s.Minimum)}
	}
	m, ok := v.(map[string]any)
	if !ok || s.Additional == nil {
		return nil
	}
	var out []error
	for _, k := range slices.Sorted(maps.Keys(m)) {
		at := k
		if path != "" {
			at = path + "." + k
		}
		p, known := s.Properties[k]
		if !known {
			out = append(out, fmt.Errorf("there is no value %s%s", at, s.hint(path, k)))
			continue
		}
		out = append(out, p.check(at, m[k])...)
	}
	return out
}

func is(t string, v any) bool {
	switch v := v.(type) {
	case string:
		return t == "string"
	case bool:
		return t == "boolean"
	case float64:
		return t == "number" || t == "integer" && v == float64(int64(v))
	case map[string]any:
		return t == "object"
	case []any, []string:
		return t == "array"
	}
	return false
}

func show(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return fmt.Sprintf("%q", v)
	case map[string]any:
		return "a mapping"
	case []any, []string:
		return "a list"
	default:
		return fmt.Sprint(v)
	}
}

func listing(list []string) string {
	var out []string
	for _, s := range list {
		if s == "" {
			s = `""`
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

// elsewhere are keys of Istio's values that are called, or kept, differently here.
var elsewhere = map[string]string{
	"pilot": "control", "istiod": "control", "istio-cni": "cni", "istio_cni": "cni", "meshConfig": "global", "components": "control.enabled, cni.enabled and ztunnel.enabled",
	"meshConfig.trustDomain": "global.trustDomain", "revision": "nothing: one mesh per namespace, upgraded in place",
	"global.nativeNftables": "cni.redirection=nftables", "global.variant": "nothing: images hold one program each",
	"global.meshID": "nothing, because a mesh is known by its trust domain,",
	"global.istiod": "control", "gateways": "gateway, or Gateways of the Gateway API", "ingressGateways": "gateway, or Gateways of the Gateway API",
	"spec": "its content, without apiVersion, kind and spec around it",
}

// retired are values that were taken once and meant nothing. What is installed may have them, and goes without.
var retired = [][]string{{"global", "meshID"}}

// hint says what may have been meant.
func (s *schema) hint(path, key string) string {
	full := key
	if path != "" {
		full = path + "." + key
	}
	if to, ok := elsewhere[full]; ok {
		return ": it is " + to + " here"
	}
	if to, ok := elsewhere[key]; ok {
		return ": it is " + to + " here"
	}
	best, at := "", len(key)/2+1
	for _, k := range slices.Sorted(maps.Keys(s.Properties)) {
		if d := distance(strings.ToLower(k), strings.ToLower(key)); d < at {
			best, at = k, d
		}
	}
	if best == "" {
		where := "the top"
		if path != "" {
			where = path
		}
		return "; there is, at " + where + ": " + strings.Join(slices.Sorted(maps.Keys(s.Properties)), ", ")
	}
	if path != "" {
		best = path + "." + best
	}
	return "; did you mean " + best + "?"
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			last, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, last+cost)
		}
	}
	return row[len(b)]
}

// schemaAt is the schema of a key, nil within free form.
func schemaAt(path []string) (*schema, error) {
	s, err := umbrella()
	for _, p := range path {
		if s == nil || err != nil {
			return nil, err
		}
		s = s.Properties[p]
	}
	return s, err
}
