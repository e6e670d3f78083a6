package analyze

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/api/folder"
)

// TestStrangers: what is no object is an error where it was named, and no more than worth knowing where it was found.
func TestStrangers(t *testing.T) {
	for _, tt := range []struct {
		text         string
		named, found string
	}{
		{"apiVersion: v2\nname: web\nversion: 1.0.0\n", "error AMB103", "info AMB101"},
		{"on: push\n---\njobs: {a: b}\n", "error AMB103", "info AMB101"},
		{"- op: replace\n  path: /a\n", "error AMB103", "info AMB101"},
		{"apiVersion: v1\nknid: Pod\nmetadata: {name: a}\n", "error AMB103 did you mean kind", "error AMB103 did you mean kind"},
		{"\xff\xfea\x00:\x00 \x00{\x00{\x00", "error AMB101 UTF-8", "error AMB101 UTF-8"},
		{"a: \x80{{\n", "error AMB101 UTF-8", "error AMB101 UTF-8"},
		{"a: [b\n", "error AMB101", "error AMB101"},
		{"{{ if .Values.x }}\napiVersion: v1\nkind: Service\nmetadata: {name: {{ .Values.n }}}\n{{ end }}\n", "it looks like a Helm template", "it looks like a Helm template"},
		{"{{ include \"a\" . }}\n", "it looks like a Helm template", "it looks like a Helm template"},
		{"apiVersion: v1\nkind: Namespace\nmetadata: {name: a, annotations: {text: \"{{ $labels }}\"}}\n", "", ""},
	} {
		for _, found := range []bool{false, true} {
			want := tt.named
			if found {
				want = tt.found
			}
			r := Run(Config{}, []Document{{Name: "x.yaml", Data: []byte(tt.text), Found: found}})
			got := ""
			for _, f := range r.Findings {
				got += fmt.Sprintln(f.Level, f.Code, f.Problem, f.Fix)
			}
			one := len(r.Findings) == 1 || want != "" && !found && strings.HasPrefix(want, "error")
			for _, word := range strings.Fields(want) {
				if !strings.Contains(got, word) {
					t.Errorf("found %v: %q: no %q in %s", found, tt.text, word, got)
				}
			}
			if want == "" && got != "" || want != "" && !one {
				t.Errorf("found %v: %q: %s", found, tt.text, got)
			}
		}
	}
}

// TestLarge: a stream is read to its end, however long it is.
func TestLarge(t *testing.T) {
	var b strings.Builder
	for i := 0; b.Len() <= folder.MaxFileSize; i++ {
		fmt.Fprintf(&b, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c%d}\ndata: {text: %q}\n---\n", i, strings.Repeat("x", 4096))
	}
	b.WriteString("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p}\nspec: {mtls: {mode: STRIKT}}\n")
	r := Run(Config{}, []Document{{Name: "big.yaml", Data: []byte(b.String())}})
	if len(r.Findings) != 1 || r.Findings[0].Object != "p" {
		t.Errorf("%v", r.Findings)
	}
}
