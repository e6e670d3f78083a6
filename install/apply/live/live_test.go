package live

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/apimachinery/pkg/util/httpstream/spdy"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"

	"github.com/ambit-mesh/ambit/install/apply"
	"github.com/ambit-mesh/ambit/install/cluster"
)

// server plays API server and kubelet: lists of pods in pages, and forwarded ports of pods by SPDY only.
type server struct {
	*httptest.Server
	pods     []map[string]any
	upgrades atomic.Int32
	waiting  sync.WaitGroup
}

func pod(name, node string, labels map[string]any, ready bool) map[string]any {
	status := map[bool]string{true: "True", false: "False"}[ready]
	return map[string]any{
		"metadata": map[string]any{"name": name, "namespace": "ambit-system", "labels": labels},
		"spec":     map[string]any{"nodeName": node, "containers": []any{map[string]any{"name": "main"}}},
		"status": map[string]any{
			"phase": "Running", "conditions": []any{map[string]any{"type": "Ready", "status": status}},
			"containerStatuses": []any{map[string]any{"restartCount": 2, "state": map[string]any{"waiting": map[string]any{"reason": "CrashLoopBackOff", "message": "back-off"}}}},
		},
	}
}

func newServer(t *testing.T) (*server, *Mesh) {
	t.Helper()
	s := &server{}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/namespaces/{ns}/pods", s.list)
	mux.HandleFunc("GET /api/v1/namespaces/{ns}/secrets/{name}", func(w http.ResponseWriter, r *http.Request) {
		say(w, http.StatusForbidden, map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403, "message": "secrets is forbidden"})
	})
	mux.HandleFunc("POST /api/v1/namespaces/{ns}/pods/{name}/portforward", s.forward)
	mux.HandleFunc("GET /apis", func(w http.ResponseWriter, _ *http.Request) { say(w, 200, map[string]any{"kind": "APIGroupList"}) })
	mux.HandleFunc("GET /api", func(w http.ResponseWriter, _ *http.Request) {
		say(w, 200, map[string]any{"kind": "APIVersions", "versions": []string{"v1"}})
	})
	mux.HandleFunc("GET /api/v1", func(w http.ResponseWriter, _ *http.Request) {
		say(w, 200, map[string]any{"kind": "APIResourceList", "groupVersion": "v1", "resources": []any{}})
	})
	s.Server = httptest.NewServer(mux)
	t.Cleanup(func() { s.CloseClientConnections(); s.Close(); s.waiting.Wait() })
	c, err := apply.New(&rest.Config{Host: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	m := Open(c, "ambit-system")
	t.Cleanup(m.Close)
	return s, m
}

func say(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}

// list answers one pod a page.
func (s *server) list(w http.ResponseWriter, r *http.Request) {
	key, value, _ := strings.Cut(r.URL.Query().Get("labelSelector"), "=")
	var found []map[string]any
	for _, p := range s.pods {
		labels, _ := p["metadata"].(map[string]any)["labels"].(map[string]any)
		if v, ok := labels[key]; key == "" || ok && (value == "" || v == value) {
			found = append(found, p)
		}
	}
	at := 0
	_, _ = fmt.Sscan(r.URL.Query().Get("continue"), &at)
	meta := map[string]any{"resourceVersion": "7"}
	if at+1 < len(found) {
		meta["continue"] = fmt.Sprint(at + 1)
	}
	say(w, 200, map[string]any{"kind": "PodList", "apiVersion": "v1", "metadata": meta, "items": found[min(at, len(found)):min(at+1, len(found))]})
}

// forward serves HTTP on port 15000 of every pod; nothing listens on the others.
func (s *server) forward(w http.ResponseWriter, r *http.Request) {
	if _, err := httpstream.Handshake(r, w, []string{portforward.PortForwardProtocolV1Name}); err != nil {
		return
	}
	s.upgrades.Add(1)
	streams := make(chan httpstream.Stream, 10)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(st httpstream.Stream, _ <-chan struct{}) error {
		streams <- st
		return nil
	})
	if conn == nil {
		return
	}
	defer conn.Close()
	errs := map[string]httpstream.Stream{}
	for {
		select {
		case <-conn.CloseChan():
			return
		case st := <-streams:
			id := st.Headers().Get(corev1.PortForwardRequestIDHeader)
			if st.Headers().Get(corev1.StreamType) == corev1.StreamTypeError {
				errs[id] = st
				continue
			}
			s.waiting.Go(func() { answer(st, errs[id], r.PathValue("name")) })
		}
	}
}

func answer(data, errs httpstream.Stream, pod string) {
	defer errs.Close()
	defer data.Close()
	if data.Headers().Get(corev1.PortHeader) != "15000" {
		fmt.Fprint(errs, "failed to connect to localhost:1: connect: connection refused")
		return
	}
	if req, err := http.ReadRequest(bufio.NewReader(data)); err == nil {
		fmt.Fprintf(data, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n%s at %s", pod, req.URL.Path)
	}
}

func TestParts(t *testing.T) {
	s, m := newServer(t)
	zt := map[string]any{"app": "ztunnel"}
	s.pods = []map[string]any{
		pod("zt-old", "node1", zt, false), pod("zt-new", "node1", zt, true), pod("other", "node1", map[string]any{"app": "x"}, true), pod("zt-two", "node2", zt, true),
	}
	s.pods[3]["status"].(map[string]any)["phase"] = "Failed"
	list, err := m.Parts(t.Context(), cluster.NodeProxy)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 || list[0].Pod != "zt-new" || list[1].Pod != "zt-old" || !list[0].Ready || list[1].Ready {
		t.Errorf("%+v", list)
	}
	if p := list[1]; p.Trouble != "CrashLoopBackOff: back-off" || p.Restarts != 2 || p.Container != "ztunnel" || p.Endpoint.What != "ztunnel of node1" {
		t.Errorf("%+v", p)
	}
	if l, err := m.Labelled(t.Context(), "Pod", "ambit-system", "app"); err != nil || len(l) != 4 || l[0].Name() != "other" || l[0].Text("kind") != "Pod" {
		t.Errorf("%v, %v", l, err)
	}
}

func TestForward(t *testing.T) {
	s, m := newServer(t)
	s.pods = []map[string]any{pod("zt", "node1", map[string]any{"app": "ztunnel"}, true)}
	list, err := m.Parts(t.Context(), cluster.NodeProxy)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(path string) (string, error) {
		in, err := list[0].Endpoint.Get(t.Context(), path)
		if err != nil {
			return "", err
		}
		defer in.Close()
		text, err := io.ReadAll(in)
		return string(text), err
	}
	for _, path := range []string{"/one", "/two"} {
		if text, err := ask(path); err != nil || text != "zt at "+path {
			t.Errorf("%q, %v", text, err)
		}
	}
	if n := s.upgrades.Load(); n != 1 {
		t.Errorf("%d connections for two questions", n)
	}
	closed := list[0]
	closed.Endpoint.Dial = m.dialer("ambit-system", "zt", 15004)
	_, err = closed.Endpoint.Get(t.Context(), "/")
	if !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), "it is not running, or has no admin endpoint there; see \"kubectl logs -n ambit-system zt\"") {
		t.Errorf("a port nobody listens on: %v", err)
	}
	if text, err := ask("/three"); err != nil || text != "zt at /three" || s.upgrades.Load() != 2 { // the refusal had one of its own
		t.Errorf("%q, %v, %d connections", text, err, s.upgrades.Load())
	}
	s.CloseClientConnections()
	deadline := time.Now().Add(10 * time.Second)
	for { // until the client has seen it
		if text, err := ask("/four"); err == nil && text == "zt at /four" {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("after the connection was cut: %q, %v", text, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.dialer("ambit-system", "new", 15000)(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a question nobody waits for: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	_, m := newServer(t)
	if _, err := m.Get(t.Context(), "Secret", "x", "y"); err == nil || !strings.Contains(err.Error(), "secret x/y: secrets is forbidden") {
		t.Error(err)
	}
	if _, err := m.List(t.Context(), "Nonsense", ""); !errors.Is(err, cluster.ErrNotFound) {
		t.Error(err)
	}
	if _, err := m.Get(t.Context(), "Pod", "x", "y"); !errors.Is(err, cluster.ErrNotFound) {
		t.Error(err)
	}
}
