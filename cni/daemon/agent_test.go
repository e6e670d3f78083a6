package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/api/folder"
	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/netns"
	"github.com/ambit-mesh/ambit/api/netns/netnstest"
	"github.com/ambit-mesh/ambit/api/zds"
	"github.com/ambit-mesh/ambit/cni/file"
	"github.com/ambit-mesh/ambit/cni/plugin"
	"github.com/ambit-mesh/ambit/cni/redirect"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a node: a folder for the API server, a namespace for the node, and sockets.
type world struct {
	t    *testing.T
	dir  string
	host *netns.Netns
	cfg  Config
	// agent is the one that runs.
	agent *Agent
}

func path(n *netns.Netns) string { return fmt.Sprintf("/proc/self/fd/%d", n.File().Fd()) }

func newWorld(t *testing.T) *world {
	dir := t.TempDir()
	w := &world{t: t, dir: filepath.Join(dir, "api"), host: netnstest.Make(t), cfg: Default()}
	if err := os.MkdirAll(filepath.Join(w.dir, "pods"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.cfg.Node, w.cfg.PodsDir, w.cfg.HostNetns = "node-1", w.dir, path(w.host)
	w.cfg.ProxySocket, w.cfg.RunDir = filepath.Join(dir, "z.sock"), filepath.Join(dir, "run")
	w.cfg.ReadyAddr, w.cfg.MonitoringAddr, w.cfg.AdminSocket = "", "", filepath.Join(dir, "admin.sock")
	w.cfg.AddTimeout, w.cfg.LeaveGrace, w.cfg.Resync = 500*time.Millisecond, 300*time.Millisecond, 0
	return w
}

func (w *world) write(rel, text string) {
	w.t.Helper()
	if err := folder.Write(w.dir, rel, []byte(text)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) namespace(name, mode string) {
	w.t.Helper()
	w.write(name+".yaml", fmt.Sprintf("kind: Namespace\napiVersion: v1\nmetadata: {name: %s, labels: {istio.io/dataplane-mode: %q}}\n", name, mode))
}

func podFile(name string) string { return "pods/shop_" + name + ".yaml" }

func (w *world) pod(name string, ns *netns.Netns, extra string) {
	w.t.Helper()
	w.write(podFile(name), fmt.Sprintf(`
kind: Pod
apiVersion: v1
metadata:
  name: %[1]s
  namespace: shop
  uid: uid-%[1]s
  annotations: {lab.ambit.io/netns: %[2]s%[3]s}
spec: {nodeName: node-1, serviceAccountName: till}
status: {phase: Running, podIP: 10.1.0.9}
`, name, path(ns), extra))
}

// annotation reads what the agent wrote.
func (w *world) annotation(name string) string {
	data, err := os.ReadFile(filepath.Join(w.dir, podFile(name)))
	if err != nil {
		w.t.Fatal(err)
	}
	var doc struct {
		Metadata struct {
			Annotations map[string]string `json:"annotations"`
		} `json:"metadata"`
	}
	if err := yaml.Unmarshal(data, &doc); err != nil {
		w.t.Fatal(err)
	}
	return doc.Metadata.Annotations[mesh.AnnotationRedirection]
}

func (w *world) eventually(what string, fn func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if fn() {
			return
		}
		waitFor(w.t.Context(), nil, 5*time.Millisecond)
	}
	w.t.Fatalf("not within 10s: %s", what)
}

func (w *world) annotated(name, want string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("pod %s annotated %q", name, want), func() bool { return w.annotation(name) == want })
}

func (w *world) options() redirect.Options {
	return redirect.Options{IPv6: true, DNS: true, ProbeIPv4: w.cfg.ProbeIPv4, ProbeIPv6: w.cfg.ProbeIPv6}
}

func (w *world) captured(ns *netns.Netns, want bool) {
	w.t.Helper()
	err := redirect.NFTables{}.Verify(ns, w.options())
	if (err == nil) != want {
		w.t.Errorf("captured: %v, want %v", err, want)
	}
}

func (w *world) probed(want ...string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("probe set %v", want), func() bool {
		n := redirect.NewNode(w.host, redirect.NodeOptions{ProbeIPv4: w.cfg.ProbeIPv4, ProbeIPv6: w.cfg.ProbeIPv6})
		if err := n.Read(); err != nil {
			w.t.Fatal(err)
		}
		var got []string
		for _, a := range n.Addrs() {
			got = append(got, a.String())
		}
		return slices.Equal(got, want)
	})
}

// waiting is why a pod is not where it should be.
func (w *world) waiting(pod string) string {
	w.agent.mu.Lock()
	defer w.agent.mu.Unlock()
	for k, why := range w.agent.complaints {
		if k.String() == pod {
			return why
		}
	}
	return ""
}

// run starts an agent; stop ends it and waits.
func (w *world) run() (stop func()) {
	w.t.Helper()
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	a, err := New(w.cfg, Parts{Source: file.New(w.dir, w.cfg.Node, log)}, log, prometheus.NewRegistry())
	if err != nil {
		w.t.Fatal(err)
	}
	w.agent = a
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				w.t.Error(err)
			}
		})
	}
	w.t.Cleanup(stop)
	w.eventually("agent ready", func() bool { return a.ready.Load() })
	return stop
}

// proxy is a node proxy that takes everything and remembers it.
type proxy struct {
	mu     sync.Mutex
	pods   map[string]netns.ID
	refuse error
	synced int
	stop   func()
}

func (w *world) proxy() *proxy {
	w.t.Helper()
	p := &proxy{pods: map[string]netns.ID{}}
	var conn *zds.ProxyConn
	w.eventually("proxy connects", func() (ok bool) {
		c, err := zds.Dial(w.t.Context(), w.cfg.ProxySocket)
		conn = c
		return err == nil
	})
	if err := conn.Hello(); err != nil {
		w.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			req, err := conn.Read(time.Time{})
			if err != nil {
				return
			}
			if conn.Ack(p.take(req)) != nil {
				return
			}
		}
	}()
	p.stop = func() { conn.Close(); <-done }
	w.t.Cleanup(p.stop)
	return p
}

func (p *proxy) take(req *zds.Request) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case req.GetAdd() != nil:
		ns, err := netns.New(req.TakeNetns())
		if err != nil {
			return err
		}
		defer ns.Close()
		if p.refuse != nil {
			return p.refuse
		}
		p.pods[req.GetAdd().GetUid()] = ns.ID()
	case req.GetKeep() != nil:
		p.pods[req.GetKeep().GetUid()] = netns.ID{}
	case req.GetDel() != nil:
		delete(p.pods, req.GetDel().GetUid())
	case req.GetSnapshotSent() != nil:
		p.synced++
	}
	return nil
}

func (p *proxy) has(uid string, id netns.ID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	got, ok := p.pods[uid]
	return ok && got == id
}

func (p *proxy) lacks(uid string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.pods[uid]
	return !ok
}

func (p *proxy) snapshot() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.synced == 1
}

func TestLabelsComeAndGo(t *testing.T) {
	w := newWorld(t)
	ns := netnstest.Make(t)
	w.namespace("shop", "none")
	w.pod("web", ns, "")
	w.run()
	p := w.proxy()
	w.captured(ns, false)

	w.namespace("shop", "ambient")
	w.annotated("web", "enabled")
	w.captured(ns, true)
	w.probed("10.1.0.9")
	if !p.has("uid-web", ns.ID()) {
		t.Error("the proxy does not have the pod")
	}

	w.namespace("shop", "none")
	w.annotated("web", "")
	// Peers are told first; until they know, somebody has to answer them.
	w.captured(ns, true)
	w.eventually("proxy drops the pod", func() bool { return p.lacks("uid-web") })
	w.captured(ns, false)
	w.probed()

	// Out and in again before it has left: nothing happens to it.
	w.namespace("shop", "ambient")
	w.annotated("web", "enabled")
	w.namespace("shop", "none")
	w.annotated("web", "")
	w.namespace("shop", "ambient")
	w.annotated("web", "enabled")
	waitFor(t.Context(), nil, 2*w.cfg.LeaveGrace)
	w.captured(ns, true)

	// Gone with the pod.
	if err := folder.Remove(w.dir, podFile("web")); err != nil {
		t.Fatal(err)
	}
	w.probed()
	w.eventually("proxy drops the pod", func() bool { return p.lacks("uid-web") })
}

// TestNamespaceGoesBeforeItsPods is a namespace that is deleted while its pods still serve: they stay in the mesh to
// their end, unless the namespace comes back and says otherwise, or they say so themselves.
func TestNamespaceGoesBeforeItsPods(t *testing.T) {
	w := newWorld(t)
	ns := netnstest.Make(t)
	w.namespace("shop", "ambient")
	w.pod("web", ns, "")
	w.run()
	p := w.proxy()
	w.annotated("web", "enabled")

	if err := folder.Remove(w.dir, "shop.yaml"); err != nil {
		t.Fatal(err)
	}
	waitFor(t.Context(), nil, 4*w.cfg.LeaveGrace)
	w.captured(ns, true)
	w.annotated("web", "enabled")
	if !p.has("uid-web", ns.ID()) {
		t.Error("the proxy lost the pod")
	}

	w.namespace("shop", "none")
	w.annotated("web", "")
	w.eventually("proxy drops the pod", func() bool { return p.lacks("uid-web") })
	w.captured(ns, false)
}

func TestOutsideUntilThereIsAProxy(t *testing.T) {
	w := newWorld(t)
	ns := netnstest.Make(t)
	w.namespace("shop", "ambient")
	w.pod("web", ns, "")
	w.run()
	// It runs already: without a proxy, rules would cut it off.
	w.eventually("the agent says what it waits for", func() bool { return strings.Contains(w.waiting("shop/web"), "no node proxy") })
	w.captured(ns, false)
	p := w.proxy()
	w.annotated("web", "enabled")
	w.captured(ns, true)
	w.probed("10.1.0.9")
	if !p.has("uid-web", ns.ID()) {
		t.Error("the proxy does not have the pod")
	}
	w.eventually("snapshot", p.snapshot)
}

func TestProxyThatRefusesIsAskedAgain(t *testing.T) {
	w := newWorld(t)
	ns := netnstest.Make(t)
	w.namespace("shop", "ambient")
	w.run()
	p := w.proxy()
	w.eventually("snapshot", p.snapshot)
	p.mu.Lock()
	p.refuse = errors.New("port 15001 is taken")
	p.mu.Unlock()
	w.pod("web", ns, "")
	w.annotated("web", "pending")
	p.mu.Lock()
	p.refuse = nil
	p.mu.Unlock()
	w.annotated("web", "enabled")
}

func TestAnnotationsChangeRules(t *testing.T) {
	w := newWorld(t)
	ns := netnstest.Make(t)
	w.namespace("shop", "ambient")
	w.pod("web", ns, "")
	w.run()
	w.proxy()
	w.annotated("web", "enabled")
	w.pod("web", ns, `, ambient.istio.io/redirection: enabled, ambient.istio.io/bypass-inbound-capture: "true", ambient.istio.io/dns-capture: "false"`)
	want := w.options()
	want.DNS, want.BypassInbound = false, true
	w.eventually("other rules", func() bool { return redirect.NFTables{}.Verify(ns, want) == nil })
}

func TestRestartLosesNothing(t *testing.T) {
	w := newWorld(t)
	web, db, gone, late := netnstest.Make(t), netnstest.Make(t), netnstest.Make(t), netnstest.Make(t)
	w.namespace("shop", "ambient")
	w.pod("web", web, "")
	w.pod("db", db, "")
	w.pod("gone", gone, "")
	w.pod("late", late, "")
	stop := w.run()
	w.proxy()
	for _, name := range []string{"web", "db", "gone", "late"} {
		w.annotated(name, "enabled")
	}
	stop()
	w.captured(web, true)

	// While the agent is away: rules are lost in one pod, one pod is deleted, one loses its label, one's namespace
	// cannot be opened any more.
	if err := (redirect.NFTables{}).Remove(web); err != nil {
		t.Fatal(err)
	}
	if err := folder.Remove(w.dir, podFile("gone")); err != nil {
		t.Fatal(err)
	}
	w.write(podFile("late"), strings.ReplaceAll(`
kind: Pod
metadata: {name: late, namespace: shop, uid: uid-late, labels: {istio.io/dataplane-mode: none}, annotations: {lab.ambit.io/netns: PATH, ambient.istio.io/redirection: enabled}}
spec: {nodeName: node-1}
status: {phase: Running, podIP: 10.1.0.8}
`, "PATH", path(late)))
	w.write(podFile("lost"), `
kind: Pod
metadata: {name: lost, namespace: shop, uid: uid-lost, annotations: {lab.ambit.io/netns: /nowhere, ambient.istio.io/redirection: enabled}}
spec: {nodeName: node-1}
status: {phase: Running, podIP: 10.1.0.7}
`)
	w.run()
	p := w.proxy()
	w.eventually("snapshot", p.snapshot)
	if !p.has("uid-web", web.ID()) || !p.has("uid-db", db.ID()) || !p.has("uid-lost", netns.ID{}) || !p.lacks("uid-gone") {
		t.Errorf("snapshot: %v", p.pods)
	}
	w.captured(web, true)
	w.captured(db, true)
	w.annotated("late", "")
	w.eventually("late is out", func() bool { return redirect.NFTables{}.Verify(late, w.options()) != nil })
	w.eventually("proxy drops the pod that left", func() bool { return p.lacks("uid-late") })
}

func TestPluginRequest(t *testing.T) {
	w := newWorld(t)
	ns := netnstest.Make(t)
	w.namespace("shop", "ambient")
	// The pod's object knows neither namespace nor address yet.
	w.write(podFile("web"), "kind: Pod\nmetadata: {name: web, namespace: shop, uid: uid-web}\nspec: {nodeName: node-1}\nstatus: {phase: Pending}\n")
	w.write(podFile("out"), "kind: Pod\nmetadata: {name: out, namespace: shop, uid: uid-out}\nspec: {nodeName: node-1, hostNetwork: true}\n")
	w.run()
	agent := plugin.Agent{RunDir: w.cfg.RunDir}
	ctx := t.Context()
	req := plugin.Request{Netns: path(ns), PodName: "web", PodNamespace: "shop", IPs: []plugin.IPConfig{
		{Address: net.IPNet{IP: net.IPv4(10, 1, 0, 9), Mask: net.CIDRMask(32, 32)}},
	}}
	if err := agent.Add(ctx, req); err == nil || !strings.Contains(err.Error(), "ztunnel") {
		t.Errorf("without a proxy: %v", err)
	}
	w.annotated("web", "pending")
	p := w.proxy()
	w.annotated("web", "enabled")
	if err := agent.Add(ctx, req); err != nil {
		t.Error(err)
	}
	w.captured(ns, true)
	w.probed("10.1.0.9")
	if !p.has("uid-web", ns.ID()) {
		t.Error("the proxy does not have the pod")
	}
	// The sandbox is made anew: the same pod in another namespace.
	second := netnstest.Make(t)
	req.Netns = path(second)
	if err := agent.Add(ctx, req); err != nil || !p.has("uid-web", second.ID()) {
		t.Errorf("second sandbox: %v", err)
	}
	w.captured(second, true)

	for name, c := range map[string]struct {
		req  plugin.Request
		want string
	}{
		"not for the mesh":     {plugin.Request{Netns: path(ns), PodName: "out", PodNamespace: "shop"}, "500 Internal Server Error: pod shop/out is not for the mesh"},
		"unknown":              {plugin.Request{Netns: path(ns), PodName: "who", PodNamespace: "shop"}, "not known on node"},
		"no name":              {plugin.Request{Netns: path(ns)}, "400"},
		"no netns":             {plugin.Request{PodName: "web", PodNamespace: "shop"}, "names no network namespace"},
		"the node's namespace": {plugin.Request{Netns: path(w.host), PodName: "web", PodNamespace: "shop"}, "node's own network namespace"},
	} {
		err := agent.Add(ctx, c.req)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	e, err := agent.Check(ctx, "shop", "web", "")
	if err != nil || !e.Eligible {
		t.Errorf("check: %+v %v", e, err)
	}
	if e, err = agent.Check(ctx, "shop", "out", ""); err != nil || e.Eligible {
		t.Errorf("check: %+v %v", e, err)
	}
}

// The body is Istio's, byte for byte.
func TestRequestBody(t *testing.T) {
	zero := 0
	b, err := json.Marshal(plugin.Request{Netns: "/var/run/netns/x", PodName: "p", PodNamespace: "n", IPs: []plugin.IPConfig{{
		Interface: &zero, Address: net.IPNet{IP: net.IPv4(10, 0, 0, 5), Mask: net.CIDRMask(32, 32)}, Gateway: net.IPv4(10, 0, 0, 1),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"Netns":"/var/run/netns/x","PodName":"p","PodNamespace":"n","IPs":[{"Interface":0,"Address":{"IP":"10.0.0.5","Mask":"/////w=="},"Gateway":"10.0.0.1"}]}`
	if string(b) != want {
		t.Errorf("got  %s\nwant %s", b, want)
	}
}
