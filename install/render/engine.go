package render

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"reflect"
	"strconv"
	"strings"
	"text/template"

	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/install/charts"
)

// engine executes the templates of one chart.
type engine struct {
	root map[string]any
	t    *template.Template
	deep int
}

// maxIncludes bounds templates that include themselves.
const maxIncludes = 50

type document struct{ path, text string }

func (e *engine) render(chart string) ([]document, error) {
	names, err := templates(chart)
	if err != nil {
		return nil, err
	}
	e.t = template.New(chart).Option("missingkey=zero").Funcs(e.functions())
	for _, n := range names {
		text, err := charts.Files.ReadFile(n)
		if err != nil {
			return nil, err
		}
		if _, err := e.t.New(n).Parse(string(text)); err != nil {
			return nil, err
		}
	}
	var out []document
	for _, n := range names {
		if strings.HasPrefix(path.Base(n), "_") {
			continue
		}
		var b strings.Builder
		if err := e.t.ExecuteTemplate(&b, n, e.root); err != nil {
			return nil, err
		}
		// As Helm has it, what is not there prints as nothing.
		out = append(out, document{n, strings.ReplaceAll(b.String(), "<no value>", "")})
	}
	return out, nil
}

// functions are those of Helm's that the charts use, with the same meaning. A template that uses another one does not
// parse, and the tests of this package say so.
func (e *engine) functions() template.FuncMap {
	return template.FuncMap{
		"include":    e.include,
		"default":    func(def, v any) any { return either(v, def) },
		"quote":      func(v any) string { return strconv.Quote(text(v)) },
		"toYaml":     toYAML,
		"toJson":     toJSON,
		"indent":     indent,
		"nindent":    func(n int, s string) string { return "\n" + indent(n, s) },
		"contains":   func(sub, s string) bool { return strings.Contains(s, sub) },
		"hasSuffix":  func(sub, s string) bool { return strings.HasSuffix(s, sub) },
		"trimPrefix": func(cut, s string) string { return strings.TrimPrefix(s, cut) },
		"trimSuffix": func(cut, s string) string { return strings.TrimSuffix(s, cut) },
		"trunc":      func(n int, s string) string { return s[:min(n, len(s))] },
		"join":       join,
		"list":       func(v ...any) []any { return v },
		"dict":       dict,
		"get":        func(m map[string]any, key string) any { return either(m[key], "") },
		"has":        has,
		"int":        integer,
		"ternary": func(yes, no any, which bool) any {
			if which {
				return yes
			}
			return no
		},
	}
}

func (e *engine) include(name string, data any) (string, error) {
	if e.deep++; e.deep > maxIncludes {
		return "", fmt.Errorf("template %s includes itself", name)
	}
	defer func() { e.deep-- }()
	var b strings.Builder
	err := e.t.ExecuteTemplate(&b, name, data)
	return b.String(), err
}

// either is v unless it is empty.
func either(v, def any) any {
	if truth, ok := template.IsTrue(v); !ok || !truth {
		return def
	}
	return v
}

func text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	}
	return fmt.Sprint(v)
}

func toYAML(v any) (string, error) {
	data, err := yaml.Marshal(v)
	return strings.TrimSuffix(string(data), "\n"), err
}

func toJSON(v any) (string, error) {
	data, err := json.Marshal(v)
	return string(data), err
}

func indent(n int, s string) string {
	pad := strings.Repeat(" ", n)
	return pad + strings.ReplaceAll(s, "\n", "\n"+pad)
}

func join(sep string, v any) string {
	list, _ := v.([]any)
	var out []string
	for _, e := range list {
		out = append(out, text(e))
	}
	return strings.Join(out, sep)
}

func dict(kv ...any) (map[string]any, error) {
	if len(kv)%2 != 0 {
		return nil, errors.New("dict takes pairs")
	}
	out := map[string]any{}
	for i := 0; i < len(kv); i += 2 {
		out[text(kv[i])] = kv[i+1]
	}
	return out, nil
}

func has(v any, in any) bool {
	list, _ := in.([]any)
	for _, e := range list {
		if reflect.DeepEqual(e, v) {
			return true
		}
	}
	return false
}

func integer(v any) (int, error) {
	switch v := v.(type) {
	case int:
		return v, nil
	case int64:
		return int(v), nil
	case float64:
		return int(v), nil
	case string:
		return strconv.Atoi(v)
	}
	return 0, fmt.Errorf("%v is no number", v)
}

// files are a chart's files beside its templates, for .Files.
type files map[string][]byte

func newFiles(chart string) files {
	out := files{}
	var walk func(dir string)
	walk = func(dir string) {
		// The tree is compiled in: reading it cannot fail.
		entries, _ := charts.Files.ReadDir(dir)
		for _, e := range entries {
			name := path.Join(dir, e.Name())
			if e.IsDir() {
				walk(name)
			} else if data, err := charts.Files.ReadFile(name); err == nil {
				out[strings.TrimPrefix(name, chart+"/")] = data
			}
		}
	}
	walk(chart + "/files")
	return out
}

// Get is the content of a file, or "".
func (f files) Get(name string) string { return string(f[name]) }

// Glob are the files whose path matches.
func (f files) Glob(pattern string) files {
	out := files{}
	for name, data := range f {
		if ok, err := path.Match(pattern, name); err == nil && ok {
			out[name] = data
		}
	}
	return out
}
