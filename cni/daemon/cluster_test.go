package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/netns"
	"github.com/ambit-mesh/ambit/api/netns/netnstest"
	"github.com/ambit-mesh/ambit/cni/enroll"
	"github.com/ambit-mesh/ambit/cni/plugin"
	"github.com/ambit-mesh/ambit/cni/redirect"
	"github.com/ambit-mesh/ambit/cni/sandbox"
)

// cluster plays everything an agent has on a cluster: an API server, a container runtime, a folder of CNI configurations.
type cluster struct {
	*world
	mu             sync.Mutex
	sink           enroll.Sink
	annotated      map[enroll.Key]string
	events         []string
	late           map[enroll.Key]enroll.Pod // pods that Get knows and nobody was told of
	away           error                     // what Get says of others, instead of that there are none
	sandboxes      map[string]*netns.Netns
	successor      bool
	unsure         bool
	installErr     error
	installWarning error
	removed        bool
	synced         chan struct{}
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{
		world: newWorld(t), annotated: map[enroll.Key]string{}, late: map[enroll.Key]enroll.Pod{}, sandboxes: map[string]*netns.Netns{},
		successor: true, synced: make(chan struct{}),
	}
	c.cfg.PodsDir, c.cfg.InCluster = "", true
	return c
}

// enrolled starts an agent and waits until the mesh has taken a running pod, shop/web.
func (c *cluster) enrolled(t *testing.T) (ns *netns.Netns, stop func()) {
	t.Helper()
	ns = netnstest.Make(t)
	c.sandboxes["uid-web"] = ns
	a, stop := c.start()
	c.sink.SetPod(shopPod("web", "Running", "10.1.0.9"))
	c.sync(a)
	c.proxy()
	c.says("web", "enabled")
	return ns, stop
}

// Run implements Source.
func (c *cluster) Run(ctx context.Context, sink enroll.Sink) error {
	c.mu.Lock()
	c.sink = sink
	c.mu.Unlock()
	sink.SetNamespace("shop", map[string]string{mesh.LabelDataplaneMode: mesh.DataplaneModeAmbient})
	close(c.synced)
	<-ctx.Done()
	return nil
}

// Annotate implements Source.
func (c *cluster) Annotate(_ context.Context, p enroll.Pod, value string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.annotated[p.Key()] = value
	return nil
}

// Get implements Asker.
func (c *cluster) Get(_ context.Context, k enroll.Key) (enroll.Pod, map[string]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.late[k]; ok {
		return p, map[string]string{mesh.LabelDataplaneMode: mesh.DataplaneModeAmbient}, nil
	}
	return enroll.Pod{}, nil, cmp.Or(c.away, enroll.ErrNoPod)
}

// Tell implements Teller.
func (c *cluster) Tell(_ context.Context, p enroll.Pod, _ bool, reason, text string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, p.Name+" "+reason+": "+text)
	return nil
}

// Open implements Sandboxes.
func (c *cluster) Open(uid string) (*netns.Netns, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ns := c.sandboxes[uid]; ns != nil {
		return ns.Dup()
	}
	return nil, sandbox.ErrNotFound
}

// installer implements Installer.
type installer struct{ c *cluster }

func (i installer) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (i installer) Err() error {
	i.c.mu.Lock()
	defer i.c.mu.Unlock()
	return i.c.installErr
}
func (i installer) Warning() error {
	i.c.mu.Lock()
	defer i.c.mu.Unlock()
	return i.c.installWarning
}
func (i installer) Remove() error {
	i.c.mu.Lock()
	defer i.c.mu.Unlock()
	i.c.removed = true
	return nil
}

func (c *cluster) with(f func()) { c.mu.Lock(); defer c.mu.Unlock(); f() }

func (c *cluster) start() (a *Agent, stop func()) {
	c.t.Helper()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	a, err := New(c.cfg, Parts{
		Source: c, Sandboxes: c, Installer: installer{c},
		Successor: func(context.Context) (stays, sure bool, why string) {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.successor, !c.unsure, "the test says so"
		},
	}, log, prometheus.NewRegistry())
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(c.t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				c.t.Error(err)
			}
		})
	}
	c.t.Cleanup(stop)
	<-c.synced
	return a, stop
}

func (c *cluster) sync(a *Agent) {
	c.t.Helper()
	c.sink.Synced()
	c.eventually("agent ready", func() bool { return a.ready.Load() })
}

func (c *cluster) says(name, want string) {
	c.t.Helper()
	c.eventually("annotation of "+name+": "+want, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.annotated[enroll.Key{Namespace: "shop", Name: name}] == want
	})
}

func shopPod(name, phase string, ips ...string) enroll.Pod {
	p := enroll.Pod{UID: "uid-" + name, Namespace: "shop", Name: name, ServiceAccount: "till", Node: "node-1", Phase: phase}
	for _, ip := range ips {
		p.IPs = append(p.IPs, netip.MustParseAddr(ip))
	}
	return p
}

// status asks as tools do.
func (c *cluster) status() Status {
	c.t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", c.cfg.AdminSocket)
	}}}
	resp, err := client.Get("http://agent/status")
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	var s Status
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		c.t.Fatal(err)
	}
	return s
}

// Pods that run when the agent comes for the first time, or whose sandbox was made without the plugin, are found.
func TestRunningPodsAreFound(t *testing.T) {
	c := newCluster(t)
	web, again := netnstest.Make(t), netnstest.Make(t)
	c.sandboxes["uid-web"], c.sandboxes["hash-static"] = web, netnstest.Make(t)
	a, _ := c.start()
	c.sink.SetPod(shopPod("web", "Running", "10.1.0.9"))
	c.sink.SetPod(shopPod("lost", "Running", "10.1.0.10"))
	c.sink.SetPod(shopPod("coming", "Pending"))
	static := shopPod("static", "Running", "10.1.0.11")
	static.RuntimeUID = "hash-static"
	c.sink.SetPod(static)
	c.sync(a)
	p := c.proxy()
	c.says("web", "enabled")
	c.says("static", "enabled")
	c.captured(web, true)
	if !p.has("uid-web", web.ID()) {
		t.Error("the proxy does not have the pod")
	}
	// N of N: the one that nobody finds is wanted and not there, and the pod says so; the one that is made waits for the plugin.
	c.eventually("an event", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.events) == 1 && strings.HasPrefix(c.events[0], "lost MeshCaptureFailed: ") && strings.Contains(c.events[0], "no process of the pod")
	})
	s := c.status()
	if s.Pods != (Counts{Desired: 3, Captured: 2, Taken: 2}) || s.Proxies != 1 || !strings.Contains(s.Waiting["shop/lost"], "no process") || s.Plugin != "" {
		t.Errorf("status %+v", s)
	}
	// Its process starts, and it is captured without being told of.
	c.with(func() { c.sandboxes["uid-lost"] = netnstest.Make(t) })
	c.says("lost", "enabled")

	// The sandbox is made again behind our back: the pod has another address.
	c.with(func() { c.sandboxes["uid-web"] = again })
	c.sink.SetPod(shopPod("web", "Running", "10.1.0.77"))
	c.eventually("the proxy has the other sandbox", func() bool { return p.has("uid-web", again.ID()) })
	// The listeners come before the rules.
	c.eventually("the other sandbox is captured", func() bool { return redirect.NFTables{}.Verify(again, c.options()) == nil })
}

// What stands in the way of the plugin is shown beside the agent's own pod, and when it is over that, too.
func TestInstallerIsToldOf(t *testing.T) {
	c := newCluster(t)
	c.cfg.Chain.Every, c.cfg.PodNamespace, c.cfg.PodName = 10*time.Millisecond, "shop", "agent"
	a, _ := c.start()
	agent := shopPod("agent", "Running", "10.1.0.2")
	agent.HostNetwork = true
	c.sink.SetPod(agent)
	c.sync(a)
	told := func(n int, want string) {
		t.Helper()
		c.eventually(want, func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return len(c.events) == n && strings.HasPrefix(c.events[n-1], want)
		})
	}
	c.with(func() { c.installErr = errors.New("the disk is full") })
	told(1, "agent MeshPluginNotInstalled: new pods of node node-1 may start outside the mesh: the disk is full")
	c.with(func() { c.installErr = nil })
	told(2, "agent MeshPluginInstalled: ")
}

// A sandbox that is made again with the same address is found by looking now and then.
func TestResyncFollowsSandboxes(t *testing.T) {
	c := newCluster(t)
	c.cfg.Resync = 20 * time.Millisecond
	web, again := netnstest.Make(t), netnstest.Make(t)
	c.sandboxes["uid-web"] = web
	a, _ := c.start()
	c.sink.SetPod(shopPod("web", "Running", "10.1.0.9"))
	c.sync(a)
	p := c.proxy()
	c.eventually("taken", func() bool { return p.has("uid-web", web.ID()) })
	c.with(func() { c.sandboxes["uid-web"] = again })
	c.eventually("followed", func() bool { return p.has("uid-web", again.ID()) })
	c.eventually("captured", func() bool { return redirect.NFTables{}.Verify(again, c.options()) == nil })
}

// The runtime is quicker than the API server's news.
func TestPluginBeforeTheSource(t *testing.T) {
	c := newCluster(t)
	ns := netnstest.Make(t)
	c.late[enroll.Key{Namespace: "shop", Name: "web"}] = shopPod("web", "Pending")
	a, _ := c.start()
	c.sync(a)
	p := c.proxy()
	agent := plugin.Agent{RunDir: c.cfg.RunDir}
	if e, err := agent.Check(t.Context(), "shop", "web", ""); err != nil || !e.Eligible || e.Captured {
		t.Errorf("check: %+v %v", e, err)
	}
	if _, err := agent.Check(t.Context(), "shop", "who", ""); err == nil || !strings.Contains(err.Error(), enroll.ErrNoPod.Error()) {
		t.Errorf("unknown: %v", err)
	}
	if err := agent.Add(t.Context(), plugin.Request{Netns: path(ns), PodName: "web", PodNamespace: "shop", IPs: []plugin.IPConfig{
		{Address: net.IPNet{IP: net.IPv4(10, 1, 0, 9), Mask: net.CIDRMask(32, 32)}},
	}}); err != nil {
		t.Fatal(err)
	}
	c.probed("10.1.0.9")
	if e, err := agent.Check(t.Context(), "shop", "web", ""); err != nil || !e.Captured {
		t.Errorf("check: %+v %v", e, err)
	}
	// Looking at it again does not take a pod for gone that was not told of yet.
	a.queue.Add(enroll.Key{Namespace: "shop", Name: "web"})
	waitFor(t.Context(), nil, 100*time.Millisecond)
	if !p.has("uid-web", ns.ID()) || a.record(enroll.Key{Namespace: "shop", Name: "web"}) == nil {
		t.Fatal("the pod was forgotten")
	}
	// What the plugin told is better than what is found in the moment of a change: an old sandbox may still end.
	c.with(func() { c.sandboxes["uid-web"] = netnstest.Make(t) })
	c.sink.SetPod(shopPod("web", "Running", "10.1.0.10"))
	c.probed("10.1.0.10")
	if !p.has("uid-web", ns.ID()) {
		t.Error("the pod was moved to another sandbox")
	}
	c.says("web", "enabled")
	c.sink.DeletePod(enroll.Key{Namespace: "shop", Name: "web"})
	c.eventually("gone", func() bool { return p.lacks("uid-web") })
}

// The runtime's path of a namespace is one of the node's, which the agent may not have.
func TestPathsOfTheNode(t *testing.T) {
	c := newCluster(t)
	ns := netnstest.Make(t)
	c.cfg.ProcDir = t.TempDir()
	node := filepath.Join(c.cfg.ProcDir, "1/root")
	for _, dir := range []string{node + "/run/netns", node + "/var", c.cfg.ProcDir + "/77/ns"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for at, to := range map[string]string{node + "/var/run": "/run", c.cfg.ProcDir + "/77/ns/net": path(ns)} {
		if err := os.Symlink(to, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(node+"/run/netns/cni-x", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(path(ns), node+"/run/netns/cni-x", "", unix.MS_BIND, ""); err != nil {
		t.Skipf("a namespace cannot be mounted: %v", err)
	}
	defer unix.Unmount(node+"/run/netns/cni-x", 0)
	a := &Agent{cfg: c.cfg, host: c.host}
	for p, want := range map[string]string{"/var/run/netns/cni-x": "", "/run/netns/cni-x": "", "/proc/77/ns/net": "", "/var/run/netns/gone": "on the node: no such file"} {
		got, err := a.open(p)
		if want != "" {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", p, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", p, err)
			continue
		}
		if got.ID() != ns.ID() {
			t.Errorf("%s is %s, not %s", p, got.ID(), ns.ID())
		}
		got.Close()
	}
}

// A pod of a StatefulSet is made anew under its name before its predecessor's end was told of.
func TestPluginMeansTheNewPod(t *testing.T) {
	c := newCluster(t)
	old, ns := netnstest.Make(t), netnstest.Make(t)
	c.sandboxes["uid-db"] = old
	a, _ := c.start()
	c.sink.SetPod(shopPod("db", "Running", "10.1.0.9"))
	c.sync(a)
	p := c.proxy()
	c.says("db", "enabled")
	k := enroll.Key{Namespace: "shop", Name: "db"}
	next := shopPod("db", "Pending")
	next.UID = "uid-db-2"
	agent := plugin.Agent{RunDir: c.cfg.RunDir}
	req := plugin.Request{Netns: path(ns), PodName: "db", PodNamespace: "shop", PodUID: "uid-db-2", IPs: []plugin.IPConfig{
		{Address: net.IPNet{IP: net.IPv4(10, 1, 0, 10), Mask: net.CIDRMask(32, 32)}},
	}}
	c.with(func() { c.late[k] = shopPod("db", "Running") })
	if err := agent.Add(t.Context(), req); err == nil || !strings.Contains(err.Error(), "another one by now") {
		t.Errorf("the API server has the old one: %v", err)
	}
	c.with(func() { c.late[k] = next })
	if err := agent.Add(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if !p.has("uid-db-2", ns.ID()) {
		t.Error("the proxy does not have the new pod")
	}
	c.sink.DeletePod(k)
	next.IPs = []netip.Addr{netip.MustParseAddr("10.1.0.10")}
	c.sink.SetPod(next)
	waitFor(t.Context(), nil, 100*time.Millisecond)
	if !p.has("uid-db-2", ns.ID()) || !p.lacks("uid-db") {
		t.Error("the news of the old pod's end took the new one")
	}
	c.captured(ns, true)
}

// An agent with a successor leaves everything, one without leaves nothing.
func TestEnd(t *testing.T) {
	for _, successor := range []bool{true, false} {
		c := newCluster(t)
		c.successor = successor
		ns, stop := c.enrolled(t)
		c.probed("10.1.0.9")
		stop()
		c.captured(ns, successor)
		want := map[bool]string{true: "enabled", false: ""}[successor]
		c.says("web", want)
		if c.removed == successor {
			t.Errorf("successor %v: plugin removed: %v", successor, c.removed)
		}
		n := redirect.NewNode(c.host, redirect.NodeOptions{ProbeIPv4: c.cfg.ProbeIPv4, ProbeIPv6: c.cfg.ProbeIPv6, ProbeUser: c.cfg.ProbeUser})
		if err := n.Verify(); (err == nil) != successor {
			t.Errorf("successor %v: the node's rules: %v", successor, err)
		}
		if _, err := os.Stat(c.cfg.PluginSocket()); (err == nil) != successor {
			t.Errorf("successor %v: socket: %v", successor, err)
		}
	}
}

// TestEndBesideAnother is an agent whose pod was deleted by force: it cannot ask who comes after it, but sees it.
func TestEndBesideAnother(t *testing.T) {
	c := newCluster(t)
	c.successor, c.unsure = false, true
	ns, stop := c.enrolled(t)
	other := make(chan net.Listener)
	go func() {
		waitFor(t.Context(), nil, 300*time.Millisecond)
		ln, err := listenUnix(c.cfg.PluginSocket())
		if err != nil {
			t.Error(err)
		}
		other <- ln
	}()
	stop()
	defer (<-other).Close()
	c.captured(ns, true)
	c.says("web", "enabled")
	if c.removed {
		t.Error("the plugin is gone")
	}
	for _, path := range []string{c.cfg.PluginSocket(), c.cfg.ProxySocket} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}

func TestReadinessNeedsThePlugin(t *testing.T) {
	c := newCluster(t)
	c.installErr = errors.New("10-x.conflist is no JSON")
	a, _ := c.start()
	c.sync(a)
	get := func() (int, string) {
		w := &recorder{}
		a.readyz(w, nil)
		return w.code, w.text
	}
	if code, text := get(); code != http.StatusServiceUnavailable || !strings.Contains(text, "10-x.conflist") {
		t.Errorf("%d %s", code, text)
	}
	if s := c.status(); s.Plugin != "10-x.conflist is no JSON" {
		t.Errorf("%+v", s)
	}
	c.with(func() { c.installErr, c.installWarning = nil, errors.New("no token") })
	if code, text := get(); code != http.StatusOK {
		t.Errorf("%d %s", code, text)
	}
	if s := c.status(); s.Plugin != "" || s.PluginWarning != "no token" {
		t.Errorf("%+v", s)
	}
}

// recorder keeps an answer.
type recorder struct {
	code int
	text string
}

func (r *recorder) Header() http.Header  { return http.Header{} }
func (r *recorder) WriteHeader(code int) { r.code = code }
func (r *recorder) Write(b []byte) (int, error) {
	if r.code == 0 {
		r.code = http.StatusOK
	}
	r.text += string(b)
	return len(b), nil
}

// A pod that the plugin announced and the source is silent about has not gone because the API server is away.
func TestSilenceIsNoEnd(t *testing.T) {
	c := newCluster(t)
	a := &Agent{source: c}
	k := enroll.Key{Namespace: "shop", Name: "web"}
	rec := func(untold time.Duration) *record {
		return &record{pod: enroll.Pod{UID: "1", Namespace: "shop", Name: "web"}, untold: time.Now().Add(-untold)}
	}
	for _, s := range []struct {
		name   string
		known  string // UID the API server knows, "" for none
		away   error
		untold time.Duration
		gone   bool
	}{
		{"just announced", "", nil, time.Second, false},
		{"still there", "1", nil, time.Minute, false},
		{"another of its name", "2", nil, time.Minute, true},
		{"gone", "", nil, time.Minute, true},
		{"nobody answers", "", errors.New("connection refused"), time.Hour, false},
	} {
		c.with(func() {
			c.away = s.away
			delete(c.late, k)
			if s.known != "" {
				c.late[k] = enroll.Pod{UID: s.known, Namespace: "shop", Name: "web"}
			}
		})
		gone, again := a.missed(t.Context(), k, rec(s.untold))
		if gone != s.gone || !gone && again <= 0 {
			t.Errorf("%s: gone=%t, again after %s; want gone=%t", s.name, gone, again, s.gone)
		}
	}
}
