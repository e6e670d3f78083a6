package ctl

import (
	"io"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/install/admin"
	"github.com/ambit-mesh/ambit/install/apply"
	"github.com/ambit-mesh/ambit/install/check"
	"github.com/ambit-mesh/ambit/install/cluster"
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

// TestControlChecked: versions of proxies and certificates of the authority come from whom they belong to.
func TestControlChecked(t *testing.T) {
	good := answers{
		"/debug/refusals": `{"entries":[{"severity":"refused","problem":"no"}]}`,
		"/debug/clients":  `[{"nodeId":"a","version":"v1.2.3"},{"nodeId":"b","version":"v1.2.3"},{"nodeId":"c"}]`,
		"/config_dump": `{"issuer":{"subject":"CN=root","serialNumber":"1","expirationTime":"2027-01-01T00:00:00Z"},"roots":[{"subject":"CN=root","serialNumber":"1"}],
			"intermediates":[{"subject":"CN=corp","serialNumber":"2","expirationTime":"2027-02-01T00:00:00Z"}],"serving":[{"subject":"CN=ambitd","serialNumber":"3"}],"warnings":["look"]}`,
	}
	ask := func(answer answers) check.Mesh {
		socket := filepath.Join(t.TempDir(), "control")
		serve(t, socket, answer)
		part := cluster.Part{Endpoint: admin.Endpoint{What: "control plane", Address: "unix:" + socket}}
		a := &app{env: Env{Out: io.Discard, Err: io.Discard}, found: &fakeMesh{parts: map[cluster.Kind][]cluster.Part{cluster.Control: {part}, cluster.Authority: {part}}}}
		cmd := &cobra.Command{}
		cmd.SetContext(t.Context())
		var m check.Mesh
		a.askControl(cmd, &m)
		return m
	}
	want := check.Mesh{
		Refused: 1, Proxies: map[string]int{"v1.2.3": 2, "": 1}, Warned: []string{"look"},
		Certificates: []check.Certificate{{Kind: check.Intermediate, Subject: "CN=corp", NotAfter: time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC)}, {Kind: check.Serving, Subject: "CN=ambitd"}},
	}
	if diff := cmp.Diff(want, ask(good)); diff != "" {
		t.Error(diff)
	}
	for _, path := range []string{"/config_dump", "/debug/clients", "/debug/refusals"} {
		bad := maps.Clone(good)
		bad[path] = "no answer"
		if m := ask(bad); m.Unknown == "" {
			t.Errorf("%s is none: %+v", path, m)
		}
	}
}
