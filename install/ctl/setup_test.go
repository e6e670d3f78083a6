package ctl

import (
	"strings"
	"testing"
)

// TestManifestRefused: what cannot be installed is not printed either.
func TestManifestRefused(t *testing.T) {
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--set", ""}, exitUsage, "write KEY=VALUE"},
		{[]string{"--set", "global.hub="}, exitUsage, "global.hub is empty"},
		{[]string{"-i", "Bad_NS"}, exitError, `"Bad_NS" is no name for a namespace`},
		{[]string{"-f", "testdata/help.golden"}, exitUsage, "testdata/help.golden"},
	} {
		if r := run(t, append([]string{"manifest", "generate"}, tt.args...)); r.code != tt.code || r.out != "" || !strings.Contains(r.err, tt.want) {
			t.Errorf("%v: code %d, %.200s%s", tt.args, r.code, r.out, r.err)
		}
	}
}
