package stories

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/e2e/mesh"
)

const foeDenied = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-foe, namespace: shop}
spec:
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/foe]}}]}]
`

// objection is an entry of the control plane's list of what is wrong.
type objection struct {
	Severity, File, Kind, Namespace, Name, Field, Problem, Fix string
	Line                                                       int
	Kept                                                       bool
}

func (w *world) objections() ([]objection, error) {
	body, err := getUnix(w.ctx, w.Control.AdminSocket, "/debug/refusals")
	if err != nil {
		return nil, err
	}
	var out struct{ Entries []objection }
	return out.Entries, json.Unmarshal(body, &out)
}

// about waits for an entry about a file or an object that fits. A file written in place is seen unfinished, too: the first
// entry need not be the last.
func (w *world) about(what string, fits func(objection) bool) (found objection) {
	w.Helper()
	w.eventually("an entry about "+what, func() error {
		list, err := w.against(what)
		for _, found = range list {
			if fits(found) {
				return nil
			}
		}
		return errors.Join(err, fmt.Errorf("there are %+v", list))
	})
	return found
}

// settled waits until nothing is said against a file or an object.
func (w *world) settled(what string) {
	w.Helper()
	w.eventually("no entry about "+what, func() error {
		list, err := w.against(what)
		if len(list) > 0 {
			err = fmt.Errorf("there are %+v", list)
		}
		return err
	})
}

func (w *world) against(what string) (list []objection, err error) {
	all, err := w.objections()
	for _, o := range all {
		if o.File == what || o.Kind+" "+o.Namespace+"/"+o.Name == what {
			list = append(list, o)
		}
	}
	return list, err
}

// ambitctl runs the command line as a user of this lab does.
func (w *world) ambitctl(args ...string) string {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(os.Getenv(mesh.EnvBin), "ambitctl"), append(args, "--lab", w.Lab.Name)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.Fatalf("ambitctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// write puts text into the configuration folder as an editor without manners does: in place.
func (w *world) write(file, text string) {
	w.Helper()
	w.must(os.MkdirAll(filepath.Dir(filepath.Join(w.ConfigDir, file)), 0o755))
	w.must(os.WriteFile(filepath.Join(w.ConfigDir, file), []byte(text), 0o644))
}

// mistake is a document a tired operator writes.
type mistake struct {
	name, text string
	// object is what the entry is about if it is not the file.
	object string
	line   int
	// field and says are what the entry tells.
	field, says string
}

func mistakes(vip string) []mistake {
	return []mistake{
		{name: "wrong-kind", line: 2, field: "kind", says: "AuthorizationPolicy", text: "apiVersion: security.istio.io/v1\nkind: AuthorisationPolicy\nmetadata: {name: a, namespace: shop}\nspec: {}\n"},
		{name: "unknown-field", line: 5, field: "spec.rule", says: "rules", text: "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: shop}\nspec:\n  rule: [{}]\n"},
		{name: "invalid-cidr", line: 5, field: "spec.rules[0].from[0].source.ipBlocks[0]", says: "10.0.0.0/33", text: "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: shop}\nspec:\n  rules: [{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}]\n"},
		{name: "cyclic-yaml", line: 3, says: "", text: "apiVersion: v1\nkind: Service\nmetadata: &m {name: a, namespace: shop, labels: *m}\nspec: {ports: [{port: 80}]}\n"},
		{name: "duplicate-vip", object: "Service shop/thief", field: "spec.clusterIPs", says: "web", text: "apiVersion: v1\nkind: Service\nmetadata: {name: thief, namespace: shop}\nspec: {clusterIP: " + vip + ", selector: {app: foe}, ports: [{name: tcp, port: 80, targetPort: 8080}]}\n"},
		{name: "missing-waypoint", object: "Service shop/lost", field: "metadata.labels", says: "nowhere", text: "apiVersion: v1\nkind: Service\nmetadata: {name: lost, namespace: shop, labels: {istio.io/use-waypoint: nowhere}}\nspec: {clusterIP: 10.96.77.1, selector: {app: web}, ports: [{name: tcp, port: 80, targetPort: 8080}]}\n"},
		{name: "missing-service", object: "EndpointSlice shop/orphan", says: "gone", text: "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: orphan, namespace: shop, labels: {kubernetes.io/service-name: gone}}\naddressType: IPv4\nendpoints: [{addresses: [10.9.9.9]}]\nports: [{port: 80}]\n"},
		{name: "too-large", says: "", text: strings.Repeat("# nothing but a comment, again and again\n", 10<<20/41)},
		{name: "cut-in-half", says: "", text: "apiVersion: v1\nkind: Service\nmetadata: {name: half, namespace: shop}\nspec: {ports: [{port: 80, target"},
		{name: "binary", says: "", text: "\x7fELF\x02\x01\x01\x00\x00\x00\xff\xfe"},
	}
}

// TestBadInput writes what tired operators write straight into the configuration folder. Each mistake gets an entry with
// place, problem and advice, touches nothing else, and is gone from the list when it is mended.
func TestBadInput(t *testing.T) {
	w := start(t, options{nodes: 2})
	w.namespace("shop", "istio.io/dataplane-mode: ambient")
	w.pod("shop", "client", "client", "node1")
	w.pod("shop", "foe", "foe", "node1")
	w.pod("shop", "web", "web", "node2")
	vip := w.service("shop", "web", 80, 8080)
	w.serve("shop", "web", 8080)
	w.protocol("shop", "HBONE")
	w.write("typed/deny.yaml", foeDenied)
	w.eventually("foe to be denied", func() error {
		if _, err := w.call("shop", "foe", vip, "hi"); err == nil {
			return errNotYet
		}
		return nil
	})
	w.want("shop", "client", vip, "web "+w.podIP("shop", "client"))
	host, _, _ := strings.Cut(vip, ":")
	open := w.held("shop", "client", vip)
	load := w.load("shop", "client", vip)
	untouched := func(by string) {
		t.Helper()
		if got, err := w.call("shop", "foe", vip, "hi"); err == nil {
			t.Errorf("%s: the policy from before no longer denies: %q", by, got)
		}
		w.want("shop", "client", vip, "web "+w.podIP("shop", "client"))
	}

	for _, m := range mistakes(host) {
		file := "typed/" + m.name + ".yaml"
		w.write(file, m.text)
		what := file
		if m.object != "" {
			what = m.object
		}
		about := func() objection {
			return w.about(what, func(o objection) bool {
				return o.File == file && (m.line == 0 || o.Line == m.line) && strings.Contains(o.Field, m.field) && strings.Contains(o.Problem+o.Fix, m.says) &&
					o.Problem != "" && o.Fix != ""
			})
		}
		// A large file is read while it is written: how large it is may be said twice.
		w.eventually("ambitctl to say of "+m.name+" what the control plane does", func() error {
			o, told := about(), w.ambitctl("config", "refused")
			if !strings.Contains(told, o.Problem) || !strings.Contains(told, file) {
				return fmt.Errorf("%q is not in\n%s", o.Problem, told)
			}
			return nil
		})
		untouched(m.name)
		w.must(os.Remove(filepath.Join(w.ConfigDir, file)))
		w.settled(what)
	}

	// The policy itself turned to nonsense, in all the ways there are: it goes on denying.
	for name, text := range map[string]string{
		"a misspelt action":  strings.Replace(foeDenied, "DENY", "DENNY", 1),
		"a misspelt field":   strings.Replace(foeDenied, "principals", "principles", 1),
		"the first half":     foeDenied[:len(foeDenied)/2],
		"half of its fields": foeDenied[:strings.Index(foeDenied, "rules")+12],
		"a list":             "- a\n- b\n",
		"ten megabytes":      foeDenied + strings.Repeat("# and so on, and so on, and so on, and so on\n", 10<<20/45),
		"no rules":           foeDenied[:strings.Index(foeDenied, "  rules")],
	} {
		w.write("typed/deny.yaml", text)
		w.about("typed/deny.yaml", func(o objection) bool { return o.Kept && o.Fix != "" })
		untouched(name)
		w.write("typed/deny.yaml", foeDenied)
		w.settled("typed/deny.yaml")
		untouched(name + ", mended")
	}
	w.must(os.Remove(filepath.Join(w.ConfigDir, "typed/deny.yaml")))
	w.eventually("foe to be let in", func() error { _, err := w.call("shop", "foe", vip, "hi"); return err })
	if got := load(); len(got.Errors) > 0 {
		t.Error(got)
	}
	if err := open(); err != nil {
		t.Error(err)
	}
	if told := w.ambitctl("config", "refused"); !strings.Contains(told, "Nothing is refused") {
		t.Errorf("all is well again, yet ambitctl says\n%s", told)
	}
}
