package kube

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type doc = map[string]any

// server is as much of an API server as the agent uses: objects by path, lists and watches by folder, merge patches.
type server struct {
	t   *testing.T
	url string

	mu      sync.Mutex
	objects map[string]doc          // by path
	log     []change                // of all objects
	grown   chan struct{}           // closed at the next change
	down    func(*http.Request) int // a code to fail with; 0 for none
	asked   map[string]int          // requests by method and path
	queries map[string][]string     // of lists and watches, by path
	token   func(spec doc) (code int, status doc)
}

type change struct {
	typ, path string
	object    doc
}

func newServer(t *testing.T) (*server, *Cluster) {
	t.Helper()
	s := &server{t: t, objects: map[string]doc{}, grown: make(chan struct{}), asked: map[string]int{}, queries: map[string][]string{}}
	h := httptest.NewServer(s)
	s.url = h.URL
	t.Cleanup(func() { h.CloseClientConnections(); h.Close() })
	c, err := connect(clientConfig(h.URL), slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.closeIdle)
	return s, c
}

// set makes an object; nil deletes it.
func (s *server) set(path string, o doc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(path, o)
}

func (s *server) put(path string, o doc) {
	typ, old := "ADDED", s.objects[path]
	switch {
	case o == nil && old == nil:
		return
	case o == nil:
		typ, o = "DELETED", old
	case old != nil:
		typ = "MODIFIED"
	}
	o = maps.Clone(o)
	meta := maps.Clone(o["metadata"].(doc))
	meta["resourceVersion"] = fmt.Sprint(len(s.log) + 1)
	o["metadata"] = meta
	s.objects[path] = o
	if typ == "DELETED" {
		delete(s.objects, path)
	}
	s.log = append(s.log, change{typ, path, o})
	close(s.grown)
	s.grown = make(chan struct{})
}

func (s *server) get(path string) doc {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.objects[path]
}

func (s *server) fail(f func(*http.Request) int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = f
}

func (s *server) answer(w http.ResponseWriter, code int, o any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(o)
}

func (s *server) refuse(w http.ResponseWriter, code int) {
	reasons := map[int]string{400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 410: "Expired", 422: "Invalid"}
	s.answer(w, code, doc{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reasons[code], "code": code})
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked[r.Method+" "+r.URL.Path]++
	code := 0
	if s.down != nil {
		code = s.down(r)
	}
	s.mu.Unlock()
	q := r.URL.Query()
	list := r.URL.Path == "/api/v1/pods" || r.URL.Path == "/api/v1/namespaces" || strings.HasSuffix(r.URL.Path, "/daemonsets")
	switch {
	case code != 0:
		s.refuse(w, code)
	case list && q.Get("sendInitialEvents") != "":
		s.refuse(w, 422) // as API servers without the feature do
	case list && q.Get("watch") != "":
		s.watch(w, r)
	case list:
		s.list(w, r)
	default:
		s.one(w, r)
	}
}

// in reports whether an object is of a list.
func in(list, path string) bool {
	if list == "/api/v1/pods" {
		return strings.Contains(path, "/pods/")
	}
	if strings.HasSuffix(list, "/daemonsets") {
		return strings.HasPrefix(path, list+"/")
	}
	return strings.Count(path, "/") == 4 && strings.HasPrefix(path, list+"/")
}

func (s *server) list(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queries[r.URL.Path] = append(s.queries[r.URL.Path], r.URL.RawQuery)
	items := []doc{}
	for _, path := range slices.Sorted(maps.Keys(s.objects)) {
		if in(r.URL.Path, path) {
			items = append(items, s.objects[path])
		}
	}
	kind := map[string]string{"/api/v1/pods": "PodList", "/api/v1/namespaces": "NamespaceList"}[r.URL.Path]
	version := "v1"
	if kind == "" {
		kind, version = "DaemonSetList", "apps/v1"
	}
	s.answer(w, 200, doc{"kind": kind, "apiVersion": version, "metadata": doc{"resourceVersion": fmt.Sprint(len(s.log))}, "items": items})
}

func (s *server) watch(w http.ResponseWriter, r *http.Request) {
	var at int
	_, _ = fmt.Sscan(r.URL.Query().Get("resourceVersion"), &at)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(200)
	for {
		s.mu.Lock()
		for _, c := range s.log[at:] {
			if in(r.URL.Path, c.path) {
				_ = json.NewEncoder(w).Encode(doc{"type": c.typ, "object": c.object})
			}
		}
		at = len(s.log)
		grown := s.grown
		s.mu.Unlock()
		w.(http.Flusher).Flush()
		select {
		case <-grown:
		case <-r.Context().Done():
			return
		}
	}
}

// one is about one object. A patch of the status changes metadata, too, as it does of pods.
func (s *server) one(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var data doc
	_ = json.Unmarshal(body, &data)
	path := strings.TrimSuffix(r.URL.Path, "/status")
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.objects[path]
	switch {
	case r.Method == "POST" && strings.HasSuffix(path, "/token"):
		code, status := s.token(data["spec"].(doc))
		if code != 201 {
			s.refuse(w, code)
			return
		}
		data["status"] = status
		s.answer(w, code, data)
	case r.Method == "POST":
		path += "/" + data["metadata"].(doc)["name"].(string)
		s.put(path, data)
		s.answer(w, 201, s.objects[path])
	case o == nil:
		s.refuse(w, 404)
	case r.Method == "GET":
		s.answer(w, 200, o)
	case r.Header.Get("Content-Type") != "application/merge-patch+json":
		s.refuse(w, 422)
	default:
		meta, _ := data["metadata"].(doc)
		if uid, ok := meta["uid"]; ok && uid != o["metadata"].(doc)["uid"] {
			s.refuse(w, 409)
			return
		}
		s.put(path, merge(o, data))
		s.answer(w, 200, s.objects[path])
	}
}

// merge is RFC 7396.
func merge(o, patch doc) doc {
	out := maps.Clone(o)
	if out == nil {
		out = doc{}
	}
	for k, v := range patch {
		switch v := v.(type) {
		case nil:
			delete(out, k)
		case doc:
			sub, _ := out[k].(doc)
			out[k] = merge(sub, v)
		default:
			out[k] = v
		}
	}
	return out
}
