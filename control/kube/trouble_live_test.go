package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/ambit-mesh/ambit/control/kube/kubetest"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// relay stands between a client and the API server, and can make it slow or take it away.
type relay struct {
	to, addr string

	mu    sync.Mutex
	conns map[net.Conn]bool
	away  bool
	delay time.Duration
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{to: to, addr: l.Addr().String(), conns: map[net.Conn]bool{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { r.carry(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		r.cut(true)
		wg.Wait()
	})
	return r
}

// take notes a connection, unless the server is away.
func (r *relay) take(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away {
		_ = c.Close()
		return false
	}
	r.conns[c] = true
	return true
}

func (r *relay) carry(c net.Conn) {
	if !r.take(c) {
		return
	}
	s, err := net.Dial("tcp", r.to)
	if err != nil || !r.take(s) {
		_ = c.Close()
		return
	}
	var wg sync.WaitGroup
	for _, p := range [][2]net.Conn{{c, s}, {s, c}} {
		wg.Go(func() {
			buf := make([]byte, 32<<10)
			for {
				n, err := p[0].Read(buf)
				r.mu.Lock()
				delay := r.delay
				r.mu.Unlock()
				time.Sleep(delay)
				if _, bad := p[1].Write(buf[:n]); err != nil || bad != nil {
					_, _ = c.Close(), s.Close()
					return
				}
			}
		})
	}
	wg.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
	delete(r.conns, s)
}

// cut ends all connections; with away no new ones are taken.
func (r *relay) cut(away bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.away = away
	for c := range r.conns {
		_ = c.Close()
	}
}

func (r *relay) back(delay time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.away, r.delay = false, delay
}

// troubled is a Source that reads a real API server as a service account, over a relay.
type troubled struct {
	*testing.T
	admin  *Cluster
	ns     string
	relay  *relay
	token  string // file
	sink   *sink
	status *status.Registry
	source *Source
	made   int
}

func (w *troubled) resource(group, version, resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: group, Version: version, Resource: resource}
}

// allowed lets the service account read everything.
func (w *troubled) allowed() {
	w.Helper()
	for resource, o := range map[string]kubetest.Doc{
		"clusterroles": {"kind": "ClusterRole", "rules": []any{kubetest.Doc{"apiGroups": []any{"*"}, "resources": []any{"*"}, "verbs": []any{"get", "list", "watch"}}}},
		"clusterrolebindings": {"kind": "ClusterRoleBinding", "roleRef": kubetest.Doc{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": w.ns},
			"subjects": []any{kubetest.Doc{"kind": "ServiceAccount", "name": "ambitd", "namespace": w.ns}}},
	} {
		o["apiVersion"], o["metadata"] = "rbac.authorization.k8s.io/v1", kubetest.Doc{"name": w.ns}
		r := w.admin.dynamic.Resource(w.resource("rbac.authorization.k8s.io", "v1", resource))
		if _, err := r.Apply(w.Context(), w.ns, &unstructured.Unstructured{Object: clean64(w.T, o)}, metav1.ApplyOptions{FieldManager: "test", Force: true}); err != nil {
			w.Fatal(err)
		}
	}
}

func (w *troubled) forbidden() {
	for _, r := range []string{"clusterrolebindings", "clusterroles"} {
		_ = w.admin.dynamic.Resource(w.resource("rbac.authorization.k8s.io", "v1", r)).Delete(context.Background(), w.ns, metav1.DeleteOptions{})
	}
}

func (w *troubled) newToken() string {
	w.Helper()
	request, err := json.Marshal(kubetest.Doc{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": kubetest.Doc{}})
	if err != nil {
		w.Fatal(err)
	}
	raw, err := w.admin.raw.Post().AbsPath("/api/v1/namespaces/"+w.ns+"/serviceaccounts/ambitd/token").SetHeader("Content-Type", "application/json").Body(request).Do(w.Context()).Raw()
	if err != nil {
		w.Fatal(err)
	}
	var out struct{ Status struct{ Token string } }
	if err := json.Unmarshal(raw, &out); err != nil {
		w.Fatal(err)
	}
	return out.Status.Token
}

func (w *troubled) setToken(text string) {
	w.Helper()
	if err := os.WriteFile(w.token, []byte(text), 0o600); err != nil {
		w.Fatal(err)
	}
}

// make creates one more Service behind the Source's back, and says how to tell that it knows it.
func (w *troubled) make() func() bool {
	w.Helper()
	w.made++
	name := fmt.Sprintf("web-%d", w.made)
	o := kubetest.Doc{"apiVersion": "v1", "kind": "Service", "metadata": kubetest.Doc{"name": name}, "spec": kubetest.Doc{"ports": []any{kubetest.Doc{"port": 80}}}}
	if _, err := w.admin.dynamic.Resource(w.resource("", "v1", "services")).Namespace(w.ns).Create(w.Context(), &unstructured.Unstructured{Object: clean64(w.T, o)}, metav1.CreateOptions{}); err != nil {
		w.Fatal(err)
	}
	return func() bool {
		return w.sink.get(object.Key{Kind: object.KindService, Namespace: w.ns, Name: name}) != nil
	}
}

// wait is await with patience: the token file is read again once a minute.
func (w *troubled) wait(what string, ok func() bool) {
	w.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.Fatalf("waited in vain for %s; said: %v", what, w.status.List())
		}
	}
}

// takenBack is what was taken back of the test's own.
func (w *troubled) takenBack() []object.Key {
	return slices.DeleteFunc(w.sink.gone(), func(k object.Key) bool { return k.Namespace != w.ns })
}

func (w *troubled) said(part string) func() bool {
	return func() bool {
		for _, e := range w.status.List() {
			if strings.Contains(strings.ToLower(e.Problem), part) {
				return true
			}
		}
		return false
	}
}

func startTroubled(t *testing.T) *troubled {
	admin := live(t)
	w := &troubled{T: t, admin: admin, ns: scratch(t, admin), token: filepath.Join(t.TempDir(), "token"), sink: newSink(), status: status.New()}
	o := kubetest.Doc{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": kubetest.Doc{"name": "ambitd"}}
	if _, err := admin.dynamic.Resource(w.resource("", "v1", "serviceaccounts")).Namespace(w.ns).Create(t.Context(), &unstructured.Unstructured{Object: clean64(t, o)}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.allowed()
	t.Cleanup(w.forbidden)
	w.setToken(w.newToken())
	server, err := url.Parse(admin.config.Host)
	if err != nil {
		t.Fatal(err)
	}
	w.relay = newRelay(t, server.Host)
	config := rest.AnonymousClientConfig(admin.config)
	config.Host, config.BearerTokenFile = "https://"+w.relay.addr, w.token
	if !config.Insecure && config.ServerName == "" {
		config.ServerName = server.Hostname()
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	c, err := NewCluster(config, log)
	if err != nil {
		t.Fatal(err)
	}
	w.source = NewSource(SourceConfig{Cluster: c, Sink: w.sink, Status: w.status, Logger: log, Discover: time.Second})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- w.source.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	w.wait("the cluster", w.sink.isSynced)
	return w
}

// What befalls a real API server, or the way to it, takes nothing back; status says what is wrong; and what happened
// meanwhile is known soon after, without a restart.
func TestLiveTrouble(t *testing.T) {
	w := startTroubled(t)
	first := w.make()
	w.wait("a Service", first)
	calm := func() bool { return len(w.status.List()) == 0 && w.source.Failing() == 0 }
	story := func(name, says string, trouble, mend func()) {
		t.Run(name, func(t *testing.T) {
			defer func(before *testing.T) { w.T = before }(w.T)
			w.T = t
			w.wait("calm before", calm)
			trouble()
			next := w.make()
			if says != "" {
				w.wait("word of it", w.said(says))
			}
			if gone := w.takenBack(); !first() || len(gone) > 0 {
				t.Errorf("something was taken back: %v", gone)
			}
			mend()
			w.wait("what happened meanwhile", next)
			w.wait("calm after", calm)
		})
	}
	story("restart", "", func() { w.relay.cut(false) }, func() {})
	story("away", "connect", func() { w.relay.cut(true) }, func() { w.relay.back(0) })
	story("slow", "", func() { w.relay.back(400 * time.Millisecond); w.relay.cut(false) }, func() { w.relay.back(0) })
	story("permissions", "forbidden", func() { w.forbidden(); w.relay.cut(false) }, w.allowed)
	story("token", "token", func() { w.setToken("expired"); w.relay.cut(false) }, func() { w.setToken(w.newToken()) })
	if !w.sink.isSynced() {
		t.Error("the complete state was told more than once")
	}
}
