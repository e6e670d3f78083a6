package stories

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/install/ctl"
)

// TestExplain asks explain what becomes of a request, then makes the request: both must agree, on every field a policy
// has and on what else may stop a request or lead it elsewhere. Each case has a service of its own, so that everything is
// applied at once.
func TestExplain(t *testing.T) {
	began := time.Now()
	lap := func(what string) { t.Logf("%s after %v", what, time.Since(began).Round(time.Millisecond)) }
	w := startWaypoints(t, options{nodes: 2})
	lap("up")
	token := newTokenIssuer(t)
	var cases []explainCase
	cases = append(cases, l7Fields(token)...)
	cases = append(cases, l7Policies(token)...)
	cases = append(cases, routeCases()...)
	cases = append(cases, l4Fields()...)
	cases = append(cases, waysAround()...)
	cases = append(cases, tcpCases()...)
	cases = append(cases, edgeCases()...)

	for _, ns := range []string{"shop", "low", "far"} {
		w.namespace(ns, `istio.io/dataplane-mode: ambient`)
	}
	w.namespace("out")
	all := explainPod("shop", "client", "node1") + explainPod("shop", "other", "node2") + explainPod("shop", "web", "node2") + explainPod("shop", "alt", "node1") +
		explainPod("far", "stranger", "node1") + explainPod("out", "outsider", "node1") + explainPod("out", "plain", "node2") +
		waypointYAML("shop", "waypoint", "service") + waypointYAML("shop", "pods", "workload") + httpService("out", "plain", "plain", 80, 8080)
	for _, c := range cases {
		all += c.objects
	}
	w.apply(all)
	lap("applied")
	w.synced()
	lap("synced")
	w.must(w.Settled(w.soon(), "", "", "", nil))
	for _, ns := range []string{"shop", "low", "out"} {
		pods, err := w.Get(w.soon(), "Pod", ns, "")
		w.must(err)
		for _, p := range pods {
			if p.Text("metadata", "labels", "gateway.networking.k8s.io/gateway-name") == "" {
				w.web(ns, p.Name(), 8080)
			}
		}
	}
	w.synced()
	lap("served")
	a := &asker{world: w, vips: map[string]string{}, pods: map[string]string{}, door: w.ingress("shop", "door-istio")}
	services, err := w.Get(w.soon(), "Service", "", "")
	w.must(err)
	for _, s := range services {
		a.vips[s.Namespace()+"/"+s.Name()] = s.Text("spec", "clusterIP")
	}
	pods, err := w.Get(w.soon(), "Pod", "", "")
	w.must(err)
	for _, p := range pods {
		a.pods[p.Namespace()+"/"+p.Name()] = p.Text("status", "podIP")
	}
	n := 0
	var wg sync.WaitGroup
	room := make(chan struct{}, 4)
	for _, c := range cases {
		for _, q := range c.asked {
			n++
			room <- struct{}{}
			wg.Go(func() {
				defer func() { <-room }()
				if problem := a.compare(q); problem != "" {
					t.Errorf("%s: %s", c.name, problem)
				}
			})
		}
	}
	wg.Wait()
	t.Logf("%d cases, %d requests explained and made in %v", len(cases), n, time.Since(began).Round(time.Millisecond))
}

// explainCase is what is applied, and the requests that are about it.
type explainCase struct {
	name, objects string
	asked         []inquiry
}

// inquiry is one request, and what is to become of it.
type inquiry struct {
	from    string // pod, as namespace/name; shop/client if empty
	to      string // namespace/service or pod:namespace/name
	port    int    // 80 of a service, 8080 of a pod
	method  string
	path    string
	headers []string
	// status is the answer; 0: the connection is closed.
	status int
	// by is in what explain says decided, or for an answer by the backend: anywhere.
	by string
	// pod answers, if it matters which.
	pod string
}

func (q inquiry) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s -> %s:%d %s %s %q", q.from, q.to, q.port, q.method, q.path, q.headers))
}

type asker struct {
	*world
	vips, pods map[string]string
	door       string // address of the ingress gateway
}

// verdict is what explain -o json says.
type verdict struct {
	Allowed             bool
	Status              int
	Reason, By, Unknown string
	Stages              []struct{ Hop, Verdict, What, Object string }
}

// compare puts the question to both.
func (a *asker) compare(q inquiry) string {
	if q.from == "" {
		q.from = "shop/client"
	}
	if q.method == "" {
		q.method = http.MethodGet
	}
	if q.path == "" {
		q.path = "/"
	}
	host, ip := "", ""
	if q.from == theDoor {
		host = q.to
		if q.port == 0 {
			q.port = 80
		}
	} else if pod, ok := strings.CutPrefix(q.to, "pod:"); ok {
		host, ip = a.pods[pod], a.pods[pod]
		if q.port == 0 {
			q.port = 8080
		}
	} else {
		ns, name, _ := strings.Cut(q.to, "/")
		host, ip = name+"."+ns, a.vips[q.to]
		if q.port == 0 {
			q.port = 80
		}
	}
	v, text, err := a.explain(q, host)
	if err != nil {
		return err.Error()
	}
	got, err := a.real(q, host, ip)
	said := v.Status
	if v.Allowed && said == 0 {
		said = http.StatusOK
	}
	by := v.By
	if v.Allowed {
		by = text
	}
	switch {
	case v.Unknown != "":
		return fmt.Sprintf("%s: explain could not say: %s", q, v.Unknown)
	case said != got.Status || v.Allowed != (got.Status == http.StatusOK) && v.Status < 300:
		return fmt.Sprintf("%s: explain says %d, the request was answered with %d %q (%v)\n%s", q, said, got.Status, got.Body, err, text)
	case got.Status != q.status:
		return fmt.Sprintf("%s: %d %q (%v), as explained; want %d\n%s", q, got.Status, got.Body, err, q.status, text)
	case !strings.Contains(by, q.by):
		return fmt.Sprintf("%s: explain names %q, want %q\n%s", q, v.By, q.by, text)
	case q.pod != "" && (got.Pod != q.pod || !strings.Contains(text, q.pod+" (")):
		return fmt.Sprintf("%s: answered by %q, want %q\n%s", q, got.Pod, q.pod, text)
	}
	return ""
}

// real makes the request.
func (a *asker) real(q inquiry, host, ip string) (answer, error) {
	if q.from == theDoor {
		return a.outside(q)
	}
	ns, pod, _ := strings.Cut(q.from, "/")
	authority := host
	if q.port != 80 {
		authority = net.JoinHostPort(host, fmt.Sprint(q.port))
	}
	return a.fetch(ns, pod, q.method+" http://"+net.JoinHostPort(ip, fmt.Sprint(q.port))+q.path, append([]string{"Host: " + authority}, q.headers...)...)
}

// explain runs ambitctl explain.
func (a *asker) explain(q inquiry, host string) (v verdict, text string, err error) {
	args := []string{"--lab", a.Lab.Name, "explain", q.from, net.JoinHostPort(host, fmt.Sprint(q.port)), q.path, "-n", "shop", "-X", q.method, "-o", "json"}
	for _, h := range q.headers {
		args = append(args, "-H", h)
	}
	var out, errs bytes.Buffer
	code := ctl.Execute(a.ctx, args, ctl.Env{Out: &out, Err: &errs, Getenv: os.Getenv, Now: time.Now})
	if err := json.Unmarshal(out.Bytes(), &v); err != nil {
		return v, "", fmt.Errorf("explain %q: exit code %d, %s%s", args, code, out.Bytes(), errs.Bytes())
	}
	if want := map[bool]int{true: 0, false: 79}[v.Allowed]; code != want {
		return v, "", fmt.Errorf("explain %q: exit code %d, want %d: %s", args, code, want, errs.Bytes())
	}
	var b strings.Builder
	for _, s := range v.Stages {
		fmt.Fprintf(&b, "  %s: %s: %s [%s]\n", s.Hop, s.Verdict, s.What, s.Object)
	}
	return v, b.String(), nil
}

// explainPod is a pod that does nothing, with a service account and a label app of its own name.
func explainPod(ns, name, node string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %[2]s, namespace: %[1]s, labels: {app: %[2]s}}
spec:
  nodeName: %[3]s
  serviceAccountName: %[2]s
  terminationGracePeriodSeconds: 1
  containers: [{name: c, command: [sleep, infinity]}]
---
`, ns, name, node)
}

// explainService is a service of namespace shop behind its waypoint, with two ports to the pods of an app.
func explainService(name, app string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: shop, labels: {istio.io/use-waypoint: waypoint}}
spec:
  selector: {app: %s}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: http-more, port: 81, targetPort: 8080}]
---
`, name, app)
}

// servicePolicy is bound to a service of shop.
func servicePolicy(name, service, spec string, annotations ...string) string {
	return fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: %s, namespace: shop, annotations: {%s}}
spec:
  targetRefs: [{group: "", kind: Service, name: %s}]
  %s
---
`, name, strings.Join(annotations, ", "), service, spec)
}
