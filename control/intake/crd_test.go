package intake

import (
	"fmt"
	"math"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/ambit-mesh/ambit/api/crd"
	"github.com/ambit-mesh/ambit/api/folder"
)

// schema is as much of OpenAPI as our definitions use.
type schema struct {
	Type                 string             `yaml:"type"`
	Format               string             `yaml:"format"`
	Description          string             `yaml:"description"`
	Default              any                `yaml:"default"`
	Enum                 []string           `yaml:"enum"`
	Required             []string           `yaml:"required"`
	Properties           map[string]*schema `yaml:"properties"`
	Items                *schema            `yaml:"items"`
	Pattern              string             `yaml:"pattern"`
	MinLength, MaxLength *int
	Minimum, Maximum     *float64
	MinItems, MaxItems   *int
	Preserve             bool `yaml:"x-kubernetes-preserve-unknown-fields"`
	Validations          []struct {
		Message, Rule string
	} `yaml:"x-kubernetes-validations"`
}

// UnmarshalYAML reads the camel-case names as well.
func (s *schema) UnmarshalYAML(n *yaml.Node) error {
	type bare schema
	if err := n.Decode((*bare)(s)); err != nil {
		return err
	}
	var more struct {
		MinLength *int     `yaml:"minLength"`
		MaxLength *int     `yaml:"maxLength"`
		Minimum   *float64 `yaml:"minimum"`
		Maximum   *float64 `yaml:"maximum"`
		MinItems  *int     `yaml:"minItems"`
		MaxItems  *int     `yaml:"maxItems"`
	}
	err := n.Decode(&more)
	s.MinLength, s.MaxLength, s.Minimum, s.Maximum, s.MinItems, s.MaxItems = more.MinLength, more.MaxLength, more.Minimum, more.Maximum, more.MinItems, more.MaxItems
	return err
}

// check lists what the schema has against a value.
func (s *schema) check(v any, path string) []string {
	var out []string
	bad := func(format string, args ...any) { out = append(out, path+": "+fmt.Sprintf(format, args...)) }
	number := func(n float64) {
		if s.Minimum != nil && n < *s.Minimum || s.Maximum != nil && n > *s.Maximum {
			bad("%v is out of range", n)
		}
	}
	switch x := v.(type) {
	case nil:
	case string:
		if s.Type != "string" {
			bad("text for %s", s.Type)
		}
		if len(s.Enum) > 0 && !slices.Contains(s.Enum, x) {
			bad("%q is none of %v", x, s.Enum)
		}
		if s.Pattern != "" && !regexp.MustCompile(s.Pattern).MatchString(x) {
			bad("%q is not like %s", x, s.Pattern)
		}
		if s.MinLength != nil && len(x) < *s.MinLength || s.MaxLength != nil && len(x) > *s.MaxLength {
			bad("%q has a wrong length", x)
		}
	case bool:
		if s.Type != "boolean" {
			bad("a boolean for %s", s.Type)
		}
	case int:
		if s.Type != "integer" || s.Format == "int32" && (x > math.MaxInt32 || x < math.MinInt32) {
			bad("a number for %s", s.Type)
		}
		number(float64(x))
	case float64:
		bad("a fraction for %s", s.Type)
	case []any:
		if s.Type != "array" {
			bad("a list for %s", s.Type)
			return out
		}
		if s.MinItems != nil && len(x) < *s.MinItems || s.MaxItems != nil && len(x) > *s.MaxItems {
			bad("%d entries", len(x))
		}
		for i, e := range x {
			out = append(out, s.Items.check(e, fmt.Sprintf("%s[%d]", path, i))...)
		}
	case map[string]any:
		if s.Type != "object" {
			bad("a mapping for %s", s.Type)
			return out
		}
		for _, name := range s.Required {
			if x[name] == nil {
				bad("%s is missing", name)
			}
		}
		for name, e := range x {
			if p := s.Properties[name]; p != nil {
				out = append(out, p.check(e, path+"."+name)...)
			} else if !s.Preserve && len(s.Properties) > 0 {
				bad("there is no %s", name)
			}
		}
	}
	return out
}

// definitions are our schemas by kind.
func definitions(t *testing.T) map[string]*schema {
	t.Helper()
	files, err := crd.All()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*schema{}
	for _, f := range files {
		var d struct {
			Metadata struct{ Name string }
			Spec     struct {
				Group    string
				Names    struct{ Kind, Plural string }
				Versions []struct {
					Name            string
					Served, Storage bool
					Schema          struct {
						OpenAPIV3Schema *schema `yaml:"openAPIV3Schema"`
					}
				}
			}
		}
		if err := yaml.Unmarshal(f.YAML, &d); err != nil {
			t.Fatalf("%s: %v", f.Name, err)
		}
		if d.Spec.Group != crd.Group || d.Metadata.Name != d.Spec.Names.Plural+"."+crd.Group || f.Name != d.Spec.Names.Plural+".yaml" {
			t.Errorf("%s: names do not fit: %+v", f.Name, d.Spec.Names)
		}
		if v := d.Spec.Versions; len(v) != 1 || v[0].Name != crd.Version || !v[0].Served || !v[0].Storage {
			t.Errorf("%s: versions %+v", f.Name, v)
		}
		out[d.Spec.Names.Kind] = d.Spec.Versions[0].Schema.OpenAPIV3Schema
	}
	return out
}

// What the decoder takes, the schema takes, and the other way round but for what a schema cannot say.
func TestSchemasAgreeWithTheDecoder(t *testing.T) {
	defs := definitions(t)
	if len(defs) != 2 {
		t.Fatalf("%d definitions", len(defs))
	}
	samples := 0
	for _, f := range []string{"testdata/ir/layer7.yaml", "testdata/bad-layer7.yaml"} {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		d := NewDecoder(Limits{})
		for part := range folder.Documents(data) {
			var o map[string]any
			if err := yaml.Unmarshal(part.Data, &o); err != nil {
				t.Fatal(err)
			}
			def := defs[fmt.Sprint(o["kind"])]
			if def == nil || o["apiVersion"] != crd.Group+"/"+crd.Version {
				continue
			}
			samples++
			problems := def.check(o, "")
			it := d.File(f, part.Data, nil)[0].Items[0]
			switch {
			case it.Object != nil && len(problems) > 0:
				t.Errorf("%s: the decoder takes what the schema does not: %v", it.Key, problems)
			case it.Object == nil && len(problems) == 0 && it.Key.Name != "nothing":
				t.Errorf("%s: the schema takes what the decoder does not: %v", it.Key, it.Entries)
			}
		}
	}
	if samples < 5 {
		t.Errorf("only %d samples", samples)
	}
}

// Every field of the schema is one of the decoder's, and none is missing.
func TestSchemasHaveTheFields(t *testing.T) {
	defs := definitions(t)
	d := NewDecoder(Limits{})
	var compare func(s *schema, typ reflect.Type, path string)
	compare = func(s *schema, typ reflect.Type, path string) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			if typ.Kind() == reflect.Slice {
				if s.Type != "array" || s.Items == nil || s.MaxItems == nil {
					t.Errorf("%s: must be a bounded array", path)
					return
				}
				s = s.Items
			}
			typ = typ.Elem()
		}
		if s.Type == "string" && s.MaxLength == nil && s.Enum == nil && s.Pattern == "" {
			t.Errorf("%s: the text has no bound", path)
		}
		if typ.Kind() != reflect.Struct {
			return
		}
		fields := d.shapeOf(typ)
		for name, index := range fields.fields {
			if s.Properties[name] == nil {
				t.Errorf("%s.%s: not in the schema", path, name)
				continue
			}
			compare(s.Properties[name], typ.FieldByIndex(index).Type, path+"."+name)
		}
		for name := range s.Properties {
			if !fields.has(name) {
				t.Errorf("%s.%s: not in the decoder", path, name)
			}
		}
	}
	compare(defs["LocalRateLimitPolicy"].Properties["spec"], reflect.TypeFor[rateLimitSpec](), "spec")
	compare(defs["ExtensionPolicy"].Properties["spec"], reflect.TypeFor[extensionSpec](), "spec")
	for kind, def := range defs {
		if def.Description == "" || strings.Contains(def.Description, "\n") {
			t.Errorf("%s: wants one sentence or two of description", kind)
		}
	}
}
