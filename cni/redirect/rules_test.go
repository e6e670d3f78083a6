package redirect

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func cases() map[string]Options {
	return map[string]Options{
		"ipv4":       {},
		"dual":       {IPv6: true},
		"dns":        {IPv6: true, DNS: true},
		"bypass":     {IPv6: true, BypassInbound: true},
		"interfaces": {VirtualInterfaces: []string{"net1", "k6t-net1"}},
	}
}

func TestGolden(t *testing.T) {
	files := map[string]string{"node.nft": NFTText(NodeRules(NodeOptions{IPv6: true}))}
	for name, o := range cases() {
		rules := PodRules(o)
		files[name+".nft"] = NFTText(rules)
		files[name+".v4.rules"] = IPTText(rules, IPv4, nil)
		if o.IPv6 {
			files[name+".v6.rules"] = IPTText(rules, IPv6, nil)
		}
	}
	for name, got := range files {
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (rewrite with -update if this is meant):\n%s", name, diff)
		}
	}
}

func TestStampTellsSetsApart(t *testing.T) {
	seen := map[stamp]string{}
	for name, o := range cases() {
		s := stampOf(PodRules(o))
		if other, ok := seen[s]; ok {
			t.Errorf("%s and %s share the stamp %s", name, other, s)
		}
		seen[s] = name
	}
}
