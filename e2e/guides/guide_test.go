package guides

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	guide := strings.ReplaceAll(strings.TrimSpace(`
# Title
'''sh
echo a
echo b
'''
'''text
a
'''
Some words.
'''text
not compared
'''
'''yaml
kind: X
'''
'''sh
true
'''
`), "'", "`")
	got, err := Parse(strings.NewReader(guide))
	if err != nil {
		t.Fatal(err)
	}
	want := []Step{{Line: 2, Command: "echo a\necho b", Want: []string{"a"}}, {Line: 16, Command: "true"}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if _, err := Parse(strings.NewReader("```sh\necho")); err == nil {
		t.Error("an open block was accepted")
	}
}

func TestCompare(t *testing.T) {
	out := "NAME  AGE\npod-abc   3s\ndone\n"
	for _, tc := range []struct {
		name string
		want []string
		miss string
	}{
		{"blanks do not count", []string{"NAME AGE"}, ""},
		{"wildcards", []string{"pod-…  …s", "done"}, ""},
		{"skipped lines", []string{"NAME AGE", "…", "done"}, ""},
		{"order counts", []string{"done", "NAME AGE"}, "NAME AGE"},
		{"a whole line, not a part of it", []string{"pod-abc"}, "pod-abc"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := Compare(tc.want, out); got != tc.miss {
				t.Errorf("missing %q, want %q", got, tc.miss)
			}
		})
	}
}
