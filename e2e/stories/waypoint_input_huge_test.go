package stories

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// manyRules is a VirtualService with as many rules as asked for, which say in the answer which of them was taken.
func manyRules(n int) string {
	var b strings.Builder
	b.WriteString("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: huge, namespace: shop}\nspec:\n  hosts: [web]\n  http:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - match: [{uri: {exact: /%d}}]\n    headers: {response: {set: {rule: '%d'}}}\n    route: [{destination: {host: web}}]\n", i, i)
	}
	return b.String() + "  - route: [{destination: {host: web}}]\n"
}

// TestWaypointHugeInput writes far more than anybody needs: what is too much is refused with the limit, what is not is in
// force, and neither is felt by others, whose requests go on and whose changes do not wait long.
func TestWaypointHugeInput(t *testing.T) {
	w := startWaypoints(t, options{nodes: 2})
	url := w.shop(1)
	w.now(httpService("shop", "calm", "web", 80, 8080))
	calm := fmt.Sprintf("http://%s/", w.vip("shop", "calm"))
	s := w.storm("shop", "client", calm)
	write := func(what, file, text string, done func() error) {
		t.Helper()
		began := time.Now()
		w.write("typed/"+file, text)
		w.eventually(what, done)
		t.Logf("%s: %v for %d KiB", what, time.Since(began).Round(time.Millisecond), len(text)>>10)
	}
	refused := func(what, words string) func() error {
		return func() error {
			list, err := w.against(what)
			for _, o := range list {
				if strings.Contains(o.Problem, words) {
					return nil
				}
			}
			return fmt.Errorf("there are %v, %v", list, err)
		}
	}
	rule := func(path, want string) func() error {
		return func() error {
			a, err := w.fetch("shop", "client", "GET "+url+path)
			if err == nil && (a.Status != http.StatusOK || a.Back.Get("Rule") != want) {
				err = fmt.Errorf("%d by rule %q", a.Status, a.Back.Get("Rule"))
			}
			return err
		}
	}

	write("1,000 rules", "rules.yaml", manyRules(1000), rule("999", "999"))
	w.write("typed/rules.yaml", manyRules(10000))
	write("somebody else's change meanwhile", "other.yaml", strings.ReplaceAll(churnHTTPRoute("on time"), "web", "calm"), func() error {
		a, err := w.fetch("shop", "client", "GET "+calm)
		if err == nil && a.Back.Get("Step") != "on time" {
			err = errNotYet
		}
		return err
	})
	w.eventually("10,000 rules to be too many", refused("VirtualService shop/huge", "there are 10001 routes"))
	w.must(rule("999", "999")())
	w.must(os.Remove(filepath.Join(w.ConfigDir, "typed/rules.yaml")))
	w.must(os.Remove(filepath.Join(w.ConfigDir, "typed/other.yaml")))
	w.eventually("no rule", rule("999", ""))

	var hosts, policy strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&hosts, "h%d.example.com, ", i)
		fmt.Fprintf(&policy, "{to: [{operation: {paths: [/p%d], methods: [GET, POST]}}], from: [{source: {principals: [cluster.local/ns/shop/sa/a%d]}}]}, ", i, i)
	}
	write("1,000 hosts of a VirtualService", "hosts.yaml", l7(istioNet, "VirtualService", "hosts", "{hosts: ["+hosts.String()+"web], http: [{route: [{destination: {host: web}}]}]}"),
		refused("VirtualService shop/hosts", "there are 1001 hosts"))
	write("1,000 hosts of a ServiceEntry", "entry.yaml", l7(istioNet, "ServiceEntry", "hosts", "{hosts: ["+hosts.String()+"x.example.com], location: MESH_EXTERNAL, resolution: NONE, ports: [{number: 80, name: http, protocol: HTTP}]}"),
		refused("ServiceEntry shop/hosts", "there are 1001 hosts"))
	write("1,000 rules of a policy", "policy.yaml", churnPolicy("huge", policy.String()+"{to: [{operation: {methods: [GET]}}]}"), func() error {
		a, err := w.fetch("shop", "client", "DELETE "+url)
		if err == nil && a.Status != http.StatusForbidden {
			err = fmt.Errorf("status %d", a.Status)
		}
		return err
	})
	w.status("shop", "client", "GET "+url, http.StatusOK)
	w.unharmed(s)
}
