package analyze

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/control/status"
)

// running are the codes that only a mesh that runs has.
var running = []status.Code{status.WaypointNotReady, status.ForeignProxy, status.KeysMissing, status.ExtensionUnusable, status.NotCaptured, status.Operational}

var (
	heading = regexp.MustCompile(`(?m)^### (AMB\d+) (\w+)$`)
	blocks  = regexp.MustCompile("(?s)```yaml\n(.*?)```")
)

// TestDocument holds docs/analyze.md to what it says: a paragraph for every code and no other, an example that is found, and a
// mend that is not.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile("../../docs/analyze.md")
	if err != nil {
		t.Fatal(err)
	}
	_, findings, ok := strings.Cut(string(text), "# The findings")
	if !ok {
		t.Fatal("there is no part about findings")
	}
	at := heading.FindAllStringSubmatchIndex(findings, -1)
	if len(at) == 0 {
		t.Fatal("there is no finding")
	}
	shop := blocks.FindStringSubmatch(findings[:at[0][0]])
	if shop == nil {
		t.Fatal("there is no shop")
	}
	var documented []Analyzer
	for i, h := range at {
		code, name := status.Code(findings[h[2]:h[3]]), findings[h[4]:h[5]]
		documented = append(documented, Analyzer{Code: code, Name: name})
		end := len(findings)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		examples := blocks.FindAllStringSubmatch(findings[h[1]:end], -1)
		if slices.Contains(running, code) {
			continue
		}
		if len(examples) != 2 {
			t.Errorf("%s: %d examples, want the mistake and its mend", code, len(examples))
			continue
		}
		cfg := Config{NetworkPolicies: code == status.NetworkPolicyInPart || code == status.NetworkPolicyTooLarge}
		found := func(example string) (all []Finding) {
			for _, f := range Run(cfg, []Document{{Name: "shop.yaml", Data: []byte(shop[1])}, {Name: "example.yaml", Data: []byte(example)}}).Findings {
				// That examples change the shop is their nature.
				if f.Code != status.DefinedTwice || !strings.Contains(f.Problem, "shop.yaml") {
					all = append(all, f)
				}
			}
			return all
		}
		has := func(f Finding) bool { return f.Code == code }
		mistake, mend := found(examples[0][1]), found(examples[1][1])
		if j := slices.IndexFunc(mistake, has); j < 0 {
			t.Errorf("%s: the mistake is not found, but %v", code, mistake)
		} else if f := mistake[j]; f.Fix == "" || f.Name != name || f.File == "" {
			t.Errorf("%s: no fix, name or place: %+v", code, f)
		}
		if slices.ContainsFunc(mend, has) {
			t.Errorf("%s: it is found in what is mended: %v", code, mend)
		}
	}
	var want []Analyzer
	for _, a := range Catalog() {
		if a.Name == "" || a.Summary == "" || a.Level.Severity() == 0 {
			t.Errorf("%s has no name, summary or level: %+v", a.Code, a)
		}
		want = append(want, Analyzer{Code: a.Code, Name: a.Name})
	}
	if !slices.Equal(documented, want) {
		t.Errorf("documented are %v, and there are %v", documented, want)
	}
}

// TestShop: what is right is not found fault with, but for the probes.
func TestShop(t *testing.T) {
	text, err := os.ReadFile("../../docs/analyze.md")
	if err != nil {
		t.Fatal(err)
	}
	_, findings, _ := strings.Cut(string(text), "# The findings")
	r := Run(Config{}, []Document{{Name: "shop.yaml", Data: []byte(blocks.FindStringSubmatch(findings)[1])}})
	if len(r.Findings) > 0 || r.Objects != 6 {
		t.Errorf("%d objects, %v", r.Objects, r.Findings)
	}
}
