//go:build kind

package kind

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// bookinfo brings the bookshop up, in the mesh or not, and returns the name of the client pod.
func (c *cluster) bookinfo(meshed bool) {
	c.Helper()
	labels := []string{}
	if meshed {
		labels = append(labels, "istio.io/dataplane-mode=ambient")
	}
	c.namespace("bookinfo", labels...)
	c.namespace("outside")
	c.applyFile("", samples+"bookinfo/bookinfo.yaml")
	if meshed {
		// The sample's own Namespace has no label, and applying it took ours away.
		c.label("Namespace", "", "bookinfo", labels...)
	}
	c.applyFile("", samples+"bookinfo/clients.yaml")
	c.ready("bookinfo", "app")
	c.ready("outside", "app")
}

// captured waits until every pod a selector finds is in the mesh.
func (c *cluster) captured(ns, selector string) {
	c.Helper()
	c.eventually("pods of "+ns+" are captured", func() error {
		for _, p := range c.pods(ns, selector) {
			if got := p.Annotations["ambient.istio.io/redirection"]; got != "enabled" {
				return fmt.Errorf("%s: redirection is %q", p.Name, got)
			}
		}
		return nil
	})
}

// versions asks reviews n times and counts the answers by version.
func (c *cluster) versions(n int, flags ...string) map[string]int {
	c.Helper()
	out, err := c.exec("bookinfo", "client", append([]string{"ambit-echo", "tally", "-n", fmt.Sprint(n), "--by", "version", "http://reviews:9080/reviews/0"}, flags...)...)
	c.must(err)
	count := map[string]int{}
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		var times int
		if _, err := fmt.Sscan(f[0], &times); err == nil {
			count[strings.Join(f[1:], " ")] += times
		}
	}
	return count
}

func (c *cluster) token(name string) string {
	c.Helper()
	data, err := os.ReadFile(filepath.Join(root, samples, "waypoint/jwt", name+".jwt"))
	c.must(err)
	return "Authorization: Bearer " + strings.TrimSpace(string(data))
}

// TestJourney walks the way of somebody's first day: a shop that runs gets into the mesh without a restart, an L4 policy,
// a waypoint, a split of traffic, a token, a canary, and out of the mesh again.
func TestJourney(t *testing.T) {
	c := open(t)
	c.bookinfo(false)
	page := "http://productpage:9080/productpage"
	c.answers("bookinfo", "client", page)
	before := map[string]string{}
	for _, p := range c.pods("bookinfo", "app") {
		before[p.Name] = string(p.UID) + fmt.Sprint(p.Status.ContainerStatuses[0].RestartCount)
	}

	load := c.load("bookinfo", "client", page, 20)
	c.label("Namespace", "", "bookinfo", "istio.io/dataplane-mode=ambient")
	c.captured("bookinfo", "app")
	c.unharmed(load)
	for _, p := range c.pods("bookinfo", "app") {
		if before[p.Name] != string(p.UID)+fmt.Sprint(p.Status.ContainerStatuses[0].RestartCount) {
			t.Errorf("%s is another pod or was restarted when its namespace was labelled", p.Name)
		}
	}
	c.refuses("L4 policy: only who shows a certificate", "policies/strict.yaml", "outside", "outsider", "http://productpage.bookinfo:9080/productpage")
	c.answers("bookinfo", "client", page)
	c.refuses("L4 policy: not this account", "policies/deny-client.yaml", "bookinfo", "client", page)
	c.deleteFile("policies/deny-client.yaml")
	c.answers("bookinfo", "client", page)

	c.ambitctl("waypoint", "apply", "-n", "bookinfo", "--enroll-namespace", "--wait")
	c.eventually("reviews are behind the waypoint", func() error { return c.throughEnvoy("bookinfo", "client", "http://reviews:9080/reviews/0") })
	c.applyFile("", samples+"waypoint/reviews-90-10.yaml")
	c.eventually("90/10", func() error {
		got := c.versions(200)
		if got["200 v1"]+got["200 v2"] != 200 || got["200 v2"] < 4 || got["200 v2"] > 50 {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	c.deleteFile("waypoint/reviews-90-10.yaml")

	c.applyFile("", samples+"waypoint/details-need-token.yaml")
	c.refused("bookinfo", "client", "http://details:9080/details/0")
	c.refused("bookinfo", "client", "http://details:9080/details/0", "-H", c.token("expired"))
	c.answers("bookinfo", "client", "http://details:9080/details/0", "-H", c.token("reader"))
	c.deleteFile("waypoint/details-need-token.yaml")

	c.canary()

	c.must(c.deleteNow("Gateway.gateway.networking.k8s.io", "bookinfo", "waypoint"))
	c.label("Namespace", "", "bookinfo", "istio.io/use-waypoint-", "istio.io/dataplane-mode-")
	c.deleteFile("policies/strict.yaml")
	c.eventually("nothing is captured any more", func() error {
		for _, p := range c.pods("bookinfo", "app") {
			if got := p.Annotations["ambient.istio.io/redirection"]; got != "" {
				return fmt.Errorf("%s: redirection is %q", p.Name, got)
			}
		}
		return nil
	})
	c.answers("outside", "outsider", "http://productpage.bookinfo:9080/productpage")
}

// canary moves reviews to v3 in steps while a load goes on; no step costs a request.
func (c *cluster) canary() {
	c.Helper()
	c.applyFile("", samples+"waypoint/reviews-versions.yaml")
	load := c.load("bookinfo", "client", "http://reviews:9080/reviews/0", 50)
	for _, weight := range []int{0, 10, 50, 100} {
		c.apply("bookinfo", fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: reviews}
spec:
  parentRefs: [{group: "", kind: Service, name: reviews, port: 9080}]
  rules:
  - backendRefs:
    - {name: reviews-v1, port: 9080, weight: %d}
    - {name: reviews-v3, port: 9080, weight: %d}
`, 100-weight, weight))
		c.eventually(fmt.Sprintf("%d%% to v3", weight), func() error {
			got := c.versions(100)
			if v3 := got["200 v3"]; got["200 v1"]+v3 != 100 || v3 < weight-25 || v3 > weight+25 {
				return fmt.Errorf("%v", got)
			}
			return nil
		})
	}
	c.unharmed(load)
	c.must(c.deleteNow("HTTPRoute", "bookinfo", "reviews"))
}

// refuses applies a sample policy and expects that it keeps a pod from a URL.
func (c *cluster) refuses(what, sample, ns, pod, url string) {
	c.Helper()
	c.answers(ns, pod, url)
	c.Log(what)
	c.applyFile("", samples+sample)
	c.refused(ns, pod, url)
}

func (c *cluster) deleteFile(sample string) {
	c.Helper()
	text, err := os.ReadFile(filepath.Join(root, samples, sample))
	c.must(err)
	c.delete("", string(text))
}
