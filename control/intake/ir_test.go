package intake

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/control/object"
)

// Each file of testdata/ir is configuration as people write it; the golden file beside it is what it became.
func TestConversion(t *testing.T) {
	files, err := filepath.Glob("testdata/ir/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no test data", err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for _, d := range NewDecoder(Limits{}).File(filepath.Base(f), data, nil) {
				for _, it := range d.Items {
					fmt.Fprintf(&b, "--- # %s\n", it.Key)
					for _, e := range it.Entries {
						fmt.Fprintf(&b, "# %s %s\n", e.Severity, e)
					}
					if it.Object == nil {
						t.Errorf("%s is refused: %v", it.Key, it.Entries)
						continue
					}
					out, err := yaml.Marshal(plainly(t, reflect.ValueOf(it.Object)))
					if err != nil {
						t.Fatal(err)
					}
					b.Write(out)
				}
			}
			golden := f + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(b.String(), "\n")); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// plainly turns a value into maps and lists without what is empty.
func plainly(t *testing.T, v reflect.Value) any {
	t.Helper()
	if !v.IsValid() || v.IsZero() {
		return nil
	}
	switch x := v.Interface().(type) {
	case proto.Message:
		text, err := protojson.Marshal(x)
		if err != nil {
			t.Fatal(err)
		}
		var out any
		if err := json.Unmarshal(text, &out); err != nil {
			t.Fatal(err)
		}
		return out
	case object.Labels:
		return x.Map()
	case fmt.Stringer:
		return x.String()
	case *object.AuthorizationPolicy:
		var rules []any
		for _, r := range x.WaypointRules() {
			rules = append(rules, plainly(t, reflect.ValueOf(r)))
		}
		return rules
	}
	switch v.Kind() {
	case reflect.Pointer:
		return plainly(t, v.Elem())
	case reflect.Struct:
		out := map[string]any{}
		for i := range v.NumField() {
			if f := plainly(t, v.Field(i)); f != nil && v.Type().Field(i).Name != "Meta" {
				out[v.Type().Field(i).Name] = f
			}
		}
		return out
	case reflect.Slice:
		var out []any
		for i := range v.Len() {
			out = append(out, plainly(t, v.Index(i)))
		}
		return out
	case reflect.Map:
		out := map[string]any{}
		for _, k := range v.MapKeys() {
			out[fmt.Sprint(k)] = plainly(t, v.MapIndex(k))
		}
		return out
	}
	return v.Interface()
}
