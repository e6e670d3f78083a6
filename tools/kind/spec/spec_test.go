package spec

import (
	"encoding/json"
	"slices"
	"testing"
)

const status = "Name:\trunc\nCapInh:\t0000000000000000\nCapBnd:\t000001fffeffffff\nSeccomp:\t0\n"

func TestParseStatus(t *testing.T) {
	bits, err := ParseStatus(status)
	if err != nil {
		t.Fatal(err)
	}
	if got := (Own{Capabilities: bits}).Lacks(40); !slices.Equal(got, []string{"CAP_SYS_RESOURCE"}) {
		t.Errorf("lacks %v, want CAP_SYS_RESOURCE alone", got)
	}
	// A kernel of before CAP_BPF and CAP_CHECKPOINT_RESTORE does not lack them.
	if got := (Own{Capabilities: 1<<38 - 1}).Lacks(37); got != nil {
		t.Errorf("lacks %v on a kernel that has no more", got)
	}
	for _, bad := range []string{"", "CapBnd:\tzz\n"} {
		if _, err := ParseStatus(bad); err == nil {
			t.Errorf("no error for %q", bad)
		}
	}
}

func TestTrim(t *testing.T) {
	const in = `{"capabilities":{"bounding":["CAP_CHOWN","CAP_SYS_RESOURCE"],"effective":["CAP_SYS_RESOURCE"]},"oomScoreAdj":-999,"rlimits":[{"type":"RLIMIT_NOFILE"}],"cwd":"/"}`
	for name, tc := range map[string]struct {
		own  Own
		want string
	}{
		"lacks":   {Own{Capabilities: 0x1fffeffffff, OOMScore: 3}, `{"capabilities":{"bounding":["CAP_CHOWN"],"effective":[]},"cwd":"/","oomScoreAdj":3}`},
		"has all": {Own{Capabilities: 0x1ffffffffff, OOMScore: 3}, `{"capabilities":{"bounding":["CAP_CHOWN","CAP_SYS_RESOURCE"],"effective":["CAP_SYS_RESOURCE"]},"cwd":"/","oomScoreAdj":-999,"rlimits":[{"type":"RLIMIT_NOFILE"}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			var p map[string]any
			if err := json.Unmarshal([]byte(in), &p); err != nil {
				t.Fatal(err)
			}
			Trim(p, tc.own)
			if got, _ := json.Marshal(p); string(got) != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}
