package intake

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/api/admission"
	"github.com/ambit-mesh/ambit/control/status"
)

// TestAdmissionAgrees: what an API server denies is refused here, what it warns of has a warning here, and what is fine
// there is fine here. Each rule has a sample of its mistake.
func TestAdmissionAgrees(t *testing.T) {
	rules := map[string]admission.Rule{}
	for _, r := range admission.Rules() {
		rules[r.Resource.Kind+" "+r.Name] = r
	}
	for _, doc := range samples(t, "bad.yaml") {
		if len(doc.Items) != 1 {
			t.Fatalf("line %d: %d objects", doc.Line, len(doc.Items))
		}
		it := doc.Items[0]
		id := it.Key.Kind.String() + " " + it.Key.Name
		rule, ok := rules[id]
		if !ok {
			t.Errorf("%s: there is no such rule", id)
			continue
		}
		delete(rules, id)
		refused, warned := false, false
		for _, e := range it.Entries {
			refused = refused || e.Severity == status.Refused
			warned = warned || e.Severity == status.Warning
		}
		switch {
		case rule.Warn && refused:
			t.Errorf("%s only warns, and the object is refused here: %v", id, it.Entries)
		case !rule.Warn && !refused:
			t.Errorf("%s denies what is taken here: %v", id, it.Entries)
		case rule.Warn && !warned && !elsewhere(rule):
			t.Errorf("%s warns of what nobody warns of here", id)
		}
	}
	for id := range rules {
		if !strings.HasPrefix(id, "EnvoyFilter ") && !strings.HasPrefix(id, "Sidecar ") {
			t.Errorf("%s has no sample", id)
		}
	}
	for _, doc := range samples(t, "good.yaml") {
		for _, it := range doc.Items {
			for _, e := range it.Entries {
				if e.Severity == status.Refused {
					t.Errorf("%s is good for the API server, and refused here: %s", it.Key, e)
				}
			}
		}
	}
}

// elsewhere says that a warning is given where more is known than the document.
func elsewhere(r admission.Rule) bool {
	return r.Resource.Kind == "Gateway" || r.Resource.Kind == "Namespace"
}

func samples(t *testing.T, file string) []Document {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "api", "admission", "testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	var out []Document
	for _, d := range NewDecoder(Limits{}).File(file, data, nil) {
		if d.Broken {
			t.Fatalf("%s line %d is broken", file, d.Line)
		}
		if d.Ignored == "" {
			out = append(out, d)
		}
	}
	return out
}
