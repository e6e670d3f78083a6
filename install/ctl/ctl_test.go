package ctl

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// result is what one command line did.
type result struct {
	out, err string
	code     int
	execed   []string // argv of what the process became
	env      []string
}

// run executes one command line with a fixed clock.
func run(t *testing.T, args []string, change ...func(*Env)) result {
	t.Helper()
	var r result
	var out, errs bytes.Buffer
	env := Env{
		Out: &out, Err: &errs,
		Getenv:  func(string) string { return "" },
		Now:     func() time.Time { return time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) },
		Version: "1.0.0-test",
	}
	env.Exec = func(path string, argv, environ []string) error {
		if argv[0] != path {
			t.Errorf("argv[0] is %q, path %q", argv[0], path)
		}
		r.execed, r.env = argv, environ
		return nil
	}
	for _, f := range change {
		f(&env)
	}
	r.code = Execute(t.Context(), args, env)
	r.out, r.err = out.String(), errs.String()
	return r
}

// golden compares text with a file of testdata.
func golden(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), text); d != "" {
		t.Errorf("%s (-want +got, rewrite with -update):\n%s", name, d)
	}
}

func TestGolden(t *testing.T) {
	for name, args := range map[string]string{
		"workloads":             "ztunnel-config workload -f testdata/config_dump.json",
		"workloads-filtered":    "zc w --workload-namespace bookinfo --workload-node node1 -f testdata/config_dump.json",
		"workloads-address":     "zc workloads --address fd00:10:244:1::7 -o yaml -f testdata/config_dump.json",
		"workloads-none":        "zc workloads --workload-namespace nowhere -f testdata/config_dump.json",
		"workloads-none-json":   "zc workloads --workload-namespace nowhere -o json -f testdata/config_dump.json",
		"services":              "zc svc -f testdata/config_dump.json",
		"services-json":         "zc s --service-namespace bookinfo -o json -f testdata/config_dump.json",
		"policies":              "zc pol -f testdata/config_dump.json",
		"policies-filtered":     "zc policy --policy-namespace ambit-system -o short -f testdata/config_dump.json",
		"certificates":          "zc certs -f testdata/config_dump.json",
		"certificates-one":      "zc certs --identity sa/productpage -f testdata/config_dump.json",
		"ca-status":             "ca status -f testdata/authority.json",
		"connections":           "zc connections -f testdata/config_dump.json",
		"connections-raw":       "zc cons --raw --direction outbound -f testdata/config_dump.json",
		"connections-namespace": "zc cons --workload-namespace other -f testdata/config_dump.json",
		"all":                   "zc all --with-headers -f testdata/config_dump.json",
		"refused":               "config refused -f testdata/refusals.json",
		"refused-json":          "config refused -n bookinfo -o json -f testdata/refusals.json",
		"status":                "config status -f testdata/refusals.json",
		"proxy-status":          "proxy-status -f testdata/clients.json",
		"proxy-status-v":        "ps -v 1 -f testdata/clients.json",
		"proxy-status-one":      "ps zt-node2 -o yaml -f testdata/clients.json",
		"version":               "version --remote=false",
		"version-short":         "version --short",
		"help":                  "--help",
		"help-zc":               "zc --help",
	} {
		t.Run(name, func(t *testing.T) {
			r := run(t, strings.Fields(args))
			if r.code != 0 || r.err != "" {
				t.Errorf("exit code %d, %s", r.code, r.err)
			}
			golden(t, name, r.out)
		})
	}
}

// A dump printed as JSON is the dump: nothing is lost that we have no field for.
func TestAllJSONIsWhole(t *testing.T) {
	r := run(t, strings.Fields("zc all -o json -f testdata/config_dump.json"))
	if r.code != 0 || !strings.Contains(r.out, `"futureField"`) || !strings.Contains(r.out, `"stagedServices"`) {
		t.Errorf("code %d, %s", r.code, r.err)
	}
}

func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("AMBIT_LAB_DIR", filepath.Join(dir, "labs"))
	t.Setenv("KUBECONFIG", filepath.Join(dir, "absent"))
	for _, c := range []struct {
		args string
		code int
		text string
	}{
		{"nonsense", exitUsage, `unknown command "nonsense"`},
		{"validate -f x.yaml", exitUsage, `it is called "ambitctl analyze FILE"`},
		{"x describe pod y", exitUsage, "an ordinary command here"},
		{"zc nonsense", exitUsage, `unknown command "nonsense"`},
		{"zc workloadz", exitUsage, "did you mean"},
		{"zc w --nonsense", exitUsage, "unknown flag"},
		{"zc w -o xml", exitUsage, "table, short, json, yaml"},
		{"zc w a b", exitUsage, "one argument at most"},
		{"zc w -f x --node y", exitUsage, "leave out"},
		{"zc w --admin-address x --node y", exitUsage, "leave out"},
		{"zc cons --direction up", exitUsage, "inbound or outbound"},
		{"version extra", exitUsage, "takes no argument"},
		{"zc w -f " + filepath.Join(dir, "absent"), exitError, "no such file"},
		{"zc w -f " + file("words", "hello"), exitData, "not a config_dump"},
		{"zc w -f " + file("other.json", `{"a":1}`), exitData, `no "workloads"`},
		{"zc w -f " + file("kind.json", `{"workloads":[{"name":3}]}`), exitData, "workloads"},
		{"config refused -f " + file("half.json", `{"entries":[`), exitData, "/debug/refusals"},
		{"config refused --fail -f testdata/refusals.json", exitIssues, ""},
		{"config refused --fail -n other -f testdata/refusals.json", exitOK, ""},
		{"zc w", exitError, `start one with "ambitctl lab up"`},
		{"config refused", exitError, `start one with "ambitctl lab up"`},
		{"zc w --lab gone", exitError, `lab "gone": no such lab`},
		{"ps absent -f testdata/clients.json", exitError, `no proxy called "absent"`},
		{"zc w --admin-address unix:" + filepath.Join(dir, "sock"), exitError, "not running"},
		{"install --dry-run --set cni.redirection=pigeons", exitUsage, `cni.redirection is "pigeons": use auto, nftables`},
		{"install --dry-run --set ztunnel.nonsense=1", exitUsage, "ztunnel.nonsense"},
		{"install --dry-run", exitError, "no cluster is configured"},
		{"lab up", exitError, "ambit-lab is neither beside ambitctl nor on PATH"},
	} {
		r := run(t, strings.Fields(c.args))
		if r.code != c.code || !strings.Contains(r.err, c.text) {
			t.Errorf("%s: exit code %d, %q; want %d with %q", c.args, r.code, r.err, c.code, c.text)
		}
	}
}

// Other programs of the mesh run as commands, with all their arguments.
func TestPlugins(t *testing.T) {
	self, path := t.TempDir(), t.TempDir()
	program := func(dir, name string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n[ \"$1\" = __complete ] && printf 'up\\ndown\\n:4\\n'\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program(self, "ambit-lab")
	program(path, "ambit-lab")
	program(path, "ambitctl-hello")
	setup := func(e *Env) {
		e.SelfDir = self
		e.Getenv = func(k string) string { return map[string]string{"PATH": path + ":relative"}[k] }
		e.Environ = []string{"A=b"}
	}
	for _, c := range []struct {
		args string
		want []string
	}{
		{"lab up --nodes 3 -f x", []string{filepath.Join(self, "ambit-lab"), "up", "--nodes", "3", "-f", "x"}},
		{"lab", []string{filepath.Join(self, "ambit-lab")}},
		{"lab --help", []string{filepath.Join(self, "ambit-lab"), "--help"}},
		{"help lab", []string{filepath.Join(self, "ambit-lab"), "--help"}},
		{"lab exec pod -- curl -v http://x", []string{filepath.Join(self, "ambit-lab"), "exec", "pod", "--", "curl", "-v", "http://x"}},
		{"hello --world -x y", []string{filepath.Join(path, "ambitctl-hello"), "--world", "-x", "y"}},
	} {
		r := run(t, strings.Fields(c.args), setup)
		if d := cmp.Diff(c.want, r.execed); d != "" || r.code != 0 {
			t.Errorf("%s: code %d %s\n%s", c.args, r.code, r.err, d)
		}
	}
	if r := run(t, strings.Fields("--lab two hello"), setup); cmp.Diff([]string{"A=b", "AMBIT_COMMAND=ambitctl hello", "AMBIT_LAB=two"}, r.env) != "" {
		t.Errorf("environment of a plugin: %v", r.env)
	}
	for _, name := range []string{"../evil", "/bin/sh", ".x"} {
		if r := run(t, []string{name}, setup); r.execed != nil || r.code != exitUsage {
			t.Errorf("%s: ran %v, code %d", name, r.execed, r.code)
		}
	}
	if r := run(t, []string{"__complete", "lab", "u"}, setup); !strings.HasPrefix(r.out, "up\ndown\n:4\n") {
		t.Errorf("completion of the lab's commands: %q", r.out)
	}
	r := run(t, []string{"hello"}, setup, func(e *Env) {
		e.Exec = func(string, []string, []string) error { return errors.New("exec format error") }
	})
	if r.code != exitError || !strings.Contains(r.err, "exec format error") {
		t.Errorf("a program that does not start: %d, %s", r.code, r.err)
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if r := run(t, []string{"completion", shell}); r.code != 0 || !strings.Contains(r.out, "ambitctl") {
			t.Errorf("%s: code %d", shell, r.code)
		}
	}
	if r := run(t, []string{"__complete", "zc", "w", "-o", ""}); !strings.Contains(r.out, "yaml") {
		t.Errorf("completion of -o: %q", r.out)
	}
}
