package analyze

import (
	"fmt"
	"testing"
)

// TestSuppressed: an object may name what it does not want to hear by code, by name, or all of it.
func TestSuppressed(t *testing.T) {
	const doc = "apiVersion: networking.istio.io/v1\nkind: ProxyConfig\nmetadata: {name: p, annotations: {ambit.io/analyze-suppress: %q}}\n"
	for text, found := range map[string]int{"AMB107": 0, "amb107": 0, "KindWithoutEffect": 0, "AMB101, KindWithoutEffect": 0, "*": 0, "AMB10": 1, "": 1} {
		if r := Run(Config{}, []Document{{Name: "p.yaml", Data: fmt.Appendf(nil, doc, text)}}); len(r.Findings) != found {
			t.Errorf("%q: %v, want %d", text, r.Findings, found)
		}
	}
}
