package ctl

import (
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/install/apply"
)

// TestRedirectionChecked: nodes are judged for the values that are given, over those that are installed.
func TestRedirectionChecked(t *testing.T) {
	installed := &apply.Record{Profile: "minimal", Values: "cni: {redirection: iptables}"}
	for _, c := range []struct {
		name   string
		v      valueFlags
		record *apply.Record
		want   string
	}{
		{"nothing", valueFlags{}, nil, "auto"},
		{"asked for", valueFlags{sets: []string{"cni.redirection=ebpf"}}, nil, "ebpf"},
		{"installed", valueFlags{}, installed, "iptables"},
		{"to be", valueFlags{files: []string{"-"}}, installed, "ebpf"},
		{"by Helm", valueFlags{}, &apply.Record{Profile: apply.HelmProfile}, "auto"},
	} {
		got, err := c.v.redirection(strings.NewReader("cni: {redirection: ebpf}"), c.record)
		if err != nil || got != c.want {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
	if r := run(t, []string{"check", "--set", "cni.redirection=bpf"}); r.code != exitUsage || !strings.Contains(r.err, `cni.redirection is "bpf"`) {
		t.Errorf("code %d: %s", r.code, r.err)
	}
}
