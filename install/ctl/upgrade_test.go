package ctl

import (
	"strings"
	"testing"
)

func TestStep(t *testing.T) {
	for _, c := range []struct{ from, to, want string }{
		{"v1.2.3", "v1.2.9", ""}, {"v1.2.3", "v1.3.0", ""}, {"v1.3.0", "v1.2.3", ""}, {"v1.2.0-5-gabc-dirty", "v1.3.0", ""},
		{"v1.2.3", "v1.4.0", "go to 1.3 first"}, {"v1.4.0", "v1.2.0", "go to 1.3 first"}, {"v1.2.3", "v2.0.0", "another major version"},
		{"abc-dirty", "v1.0.0", ""}, {"devel", "devel", ""}, {"v1.2.3", "devel-abc", ""}, {"", "v1.0.0", ""},
	} {
		err := step(c.from, c.to)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s to %s: %v", c.from, c.to, err)
		}
	}
}
