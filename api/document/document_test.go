package document

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReading(t *testing.T) {
	var o map[string]any
	text := `{"a": {"text": "x", "number": 7.9, "map": {"k": "v", "n": 1}, "list": [{"i": 1}, "no", {"i": 2}]}}`
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	o["whole"], o["small"] = int64(8), 9
	for _, c := range []struct {
		name      string
		got, want any
	}{
		{"a value", At(o, "a", "text"), "x"},
		{"nothing there", At(o, "b", "text"), nil},
		{"a path through a text", At(o, "a", "text", "more"), nil},
		{"no path", At(nil), map[string]any(nil)},
		{"a text", Text(o, "a", "text"), "x"},
		{"a text that is a number", Text(o, "a", "number"), ""},
		{"a number of JSON", Number(o, "a", "number"), int64(7)},
		{"a number of YAML", Number(o, "whole"), int64(8)},
		{"a number of Go", Number(o, "small"), int64(9)},
		{"a number that is a text", Number(o, "a", "text"), int64(0)},
		{"strings", Strings(o, "a", "map"), map[string]string{"k": "v"}},
		{"no strings", Strings(o, "a", "list"), map[string]string{}},
		{"items", Items(o, "a", "list"), []map[string]any{{"i": 1.0}, {"i": 2.0}}},
		{"no items", Items(o, "a", "map"), []map[string]any(nil)},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}
