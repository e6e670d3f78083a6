package render

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/install/charts"
)

//go:embed profiles/*.yaml
var profiles embed.FS

// Values are what a mesh is to be like: for each chart its values, and under "global" those of all. Charts also have
// "enabled".
type Values struct {
	Profile string
	tree    map[string]any // complete: defaults, profile, then what was given
	given   map[string]any
}

// DefaultProfile is the one that is meant when none is named.
const DefaultProfile = "ambient"

// Profiles are the names of all.
func Profiles() []string {
	entries, _ := profiles.ReadDir("profiles") // compiled in
	var out []string
	for _, e := range entries {
		out = append(out, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return out
}

// A Source is something that gives values: a file's content, or one setting KEY=VALUE.
type Source struct {
	// Name is how errors call it.
	Name string
	// File is YAML; Set is KEY=VALUE, with dots in KEY.
	File []byte
	Set  string

	installed bool
}

// Installed are the values of a mesh that is there already, as they are recorded.
func Installed(values string) Source {
	return Source{Name: "values of the mesh that is installed", File: []byte(values), installed: true}
}

// NewValues puts values together: the charts' defaults, then a profile, then the sources in their order. Everything that is
// wrong is reported at once.
func NewValues(profile string, sources ...Source) (*Values, error) {
	given, named, err := gather(sources)
	if err != nil {
		return nil, err
	}
	if profile == "" {
		profile = named
	}
	if profile == "" {
		profile = DefaultProfile
	}
	v := &Values{Profile: profile, tree: map[string]any{}, given: given}
	s, err := umbrella()
	if err != nil {
		return nil, err
	}
	if problems := s.check("", given); len(problems) > 0 {
		return nil, errors.Join(placed(s, problems, sources)...)
	}
	data, err := profiles.ReadFile("profiles/" + profile + ".yaml")
	if err != nil {
		return nil, fmt.Errorf("there is no profile %q: use %s", profile, strings.Join(Profiles(), ", "))
	}
	preset := map[string]any{}
	if err := yaml.Unmarshal(data, &preset); err != nil {
		return nil, fmt.Errorf("profile %s: %w", profile, err)
	}
	for _, name := range charts.Names() {
		defaults, err := chartValues(name)
		if err != nil {
			return nil, err
		}
		v.tree["global"] = defaults["global"]
		delete(defaults, "global")
		defaults["enabled"] = name != charts.Gateway
		v.tree[name] = defaults
	}
	merge(preset, given)
	cover(v.tree, preset)
	if problems := v.judge(); len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return v, nil
}

// gather merges the sources.
func gather(sources []Source) (given map[string]any, profile string, err error) {
	given = map[string]any{}
	var problems []error
	for _, s := range sources {
		var add map[string]any
		if s.Set != "" {
			if add, err = parseSet(s.Set); err != nil {
				problems = append(problems, err)
				continue
			}
		} else if add, err = parseFile(s.File); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", s.Name, err))
			continue
		}
		if p, ok := add["profile"].(string); ok {
			profile = p
		}
		if s.installed {
			for _, path := range retired {
				forget(add, path)
			}
		}
		merge(given, add)
	}
	delete(given, "profile")
	return given, profile, errors.Join(problems...)
}

// forget takes a value out.
func forget(tree map[string]any, path []string) {
	for len(path) > 1 {
		next, _ := tree[path[0]].(map[string]any)
		tree, path = next, path[1:]
	}
	delete(tree, path[0])
}

// parseFile reads a file of values.
func parseFile(data []byte) (out map[string]any, err error) {
	var doc any
	if yaml.Unmarshal(data, &doc) == nil && doc != nil && !is("object", doc) {
		return nil, fmt.Errorf("it is %s: write a mapping, as in control: {replicaCount: 3}", show(doc))
	}
	err = yaml.UnmarshalStrict(data, &out)
	return out, err
}

// placed says of problems in which file they are, the last one that counts. What a --set says is seen by itself.
func placed(s *schema, problems []error, sources []Source) []error {
	for _, src := range slices.Backward(sources) {
		var tree map[string]any
		if src.Set != "" || yaml.Unmarshal(src.File, &tree) != nil {
			continue
		}
		delete(tree, "profile")
		for _, own := range s.check("", tree) {
			for i, p := range problems {
				if p.Error() == own.Error() {
					problems[i] = fmt.Errorf("%s: %w", src.Name, p)
				}
			}
		}
	}
	return problems
}

// chartValues are the defaults of one chart.
func chartValues(name string) (map[string]any, error) {
	data, err := charts.Files.ReadFile(name + "/values.yaml")
	if err != nil {
		return nil, err
	}
	var out map[string]any
	if err := yaml.Unmarshal(data, &out); err != nil {
		return nil, fmt.Errorf("chart %s: %w", name, err)
	}
	return out, nil
}

// Enabled reports whether a chart is part of the mesh.
func (v *Values) Enabled(chart string) bool {
	on, _ := v.At(chart, "enabled").(bool)
	return on
}

// Disable leaves a chart out.
func (v *Values) Disable(chart string) { v.tree[chart].(map[string]any)["enabled"] = false }

// SetPlatform fills in what runs the cluster, where that was found out rather than given.
func (v *Values) SetPlatform(name string) { v.tree["global"].(map[string]any)["platform"] = name }

// Chart are the values of one chart, as Helm would have them: its own, and the global ones. The caller owns the result.
func (v *Values) Chart(name string) map[string]any {
	own, _ := v.tree[name].(map[string]any)
	out := clone(own)
	delete(out, "enabled")
	global, _ := v.tree["global"].(map[string]any)
	out["global"] = clone(global)
	return out
}

// At is the value at a path of the whole tree.
func (v *Values) At(path ...string) any {
	var at any = v.tree
	for _, p := range path {
		m, _ := at.(map[string]any)
		at = m[p]
	}
	return at
}

// Text is the string at a path, or "".
func (v *Values) Text(path ...string) string {
	s, _ := v.At(path...).(string)
	return s
}

// Says reports whether a value was given, rather than left at its default.
func (v *Values) Says(path ...string) bool {
	var at any = v.given
	for _, p := range path {
		m, _ := at.(map[string]any)
		var ok bool
		if at, ok = m[p]; !ok {
			return false
		}
	}
	return true
}

// Given are the values that were given, beside profile and defaults: what has to be known to install the same again.
func (v *Values) Given() map[string]any { return clone(v.given) }

// merge lays over on top of onto. Mappings are merged, everything else is replaced.
func merge(onto, over map[string]any) {
	for k, v := range over {
		add, ok1 := v.(map[string]any)
		old, ok2 := onto[k].(map[string]any)
		if ok1 && ok2 {
			merge(old, add)
			continue
		}
		if ok1 {
			v = clone(add)
		}
		onto[k] = v
	}
}

// cover lays over on top of defaults. As with Helm (helm.sh/helm/v4 pkg/chart/common/util, coalesceTablesFullKey), null drops one.
func cover(defaults, over map[string]any) {
	for k, v := range over {
		add, ok1 := v.(map[string]any)
		old, ok2 := defaults[k].(map[string]any)
		switch {
		case ok1 && ok2:
			cover(old, add)
		case v == nil && defaults[k] != nil:
			delete(defaults, k)
		default:
			defaults[k] = cloneAny(v)
		}
	}
}

func clone(m map[string]any) map[string]any {
	out := maps.Clone(m)
	if out == nil {
		out = map[string]any{}
	}
	for k, v := range out {
		out[k] = cloneAny(v)
	}
	return out
}

func cloneAny(v any) any {
	switch v := v.(type) {
	case map[string]any:
		return clone(v)
	case []any:
		out := slices.Clone(v)
		for i := range out {
			out[i] = cloneAny(out[i])
		}
		return out
	}
	return v
}

// parseSet reads KEY=VALUE. The value is YAML if that is a list, a mapping, a number or a truth value, as with Helm's --set, or null;
// a dot that belongs to a key is written \. .
func parseSet(s string) (map[string]any, error) {
	key, value, ok := strings.Cut(s, "=")
	if !ok || key == "" {
		return nil, fmt.Errorf("--set %s: write KEY=VALUE, as in --set control.replicaCount=3", s)
	}
	var path []string
	for part := range strings.SplitSeq(strings.ReplaceAll(key, `\.`, "\x00"), ".") {
		if part == "" {
			return nil, fmt.Errorf("--set %s: an empty key between two dots", s)
		}
		path = append(path, strings.ReplaceAll(part, "\x00", "."))
	}
	v, err := scalar(value)
	if err != nil {
		return nil, fmt.Errorf("--set %s: %w", s, err)
	}
	if at, err := schemaAt(path); err == nil && at != nil {
		v = at.fit(value, v)
	}
	for i := len(path) - 1; i >= 0; i-- {
		v = map[string]any{path[i]: v}
	}
	return v.(map[string]any), nil
}

func scalar(s string) (any, error) {
	switch {
	case s == "true" || s == "false":
		return s == "true", nil
	case strings.EqualFold(s, "null"):
		return nil, nil
	case strings.HasPrefix(s, "{") || strings.HasPrefix(s, "["):
		var v any
		if err := yaml.Unmarshal([]byte(s), &v); err != nil {
			// Helm writes lists as {a,b}.
			return nil, fmt.Errorf("%q is no YAML: write lists as [a, b] and mappings as {a: b}: %w", s, err)
		}
		if m, ok := v.(map[string]any); ok && set(m) {
			// Templates know lists of anything only.
			list := make([]any, 0, len(m))
			for _, k := range slices.Sorted(maps.Keys(m)) {
				list = append(list, k)
			}
			return list, nil
		}
		return v, nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && (s == "0" || s[0] != '0') {
		return float64(n), nil
	}
	return s, nil
}

// set reports whether a mapping is Helm's way to write a list: {a,b}.
func set(m map[string]any) bool {
	for _, v := range m {
		if v != nil {
			return false
		}
	}
	return len(m) > 0
}

// schemas of the charts, and of all values together.
func umbrella() (*schema, error) {
	no := false
	root := &schema{Type: "object", Additional: &no, Properties: map[string]*schema{
		"profile": {Type: "string"},
	}}
	for _, name := range charts.Names() {
		data, err := charts.Files.ReadFile(name + "/values.schema.json")
		if err != nil {
			return nil, err
		}
		s := new(schema)
		if err := json.Unmarshal(data, s); err != nil {
			return nil, fmt.Errorf("chart %s: %w", name, err)
		}
		root.Properties["global"] = s.Properties["global"]
		delete(s.Properties, "global")
		s.Properties["enabled"] = &schema{Type: "boolean"}
		root.Properties[name] = s
	}
	return root, nil
}
