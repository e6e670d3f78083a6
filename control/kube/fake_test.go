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
	"strconv"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

type doc = map[string]any

// apiserver is enough of a Kubernetes API server, over real HTTP: lists, watches with versions that grow old, discovery,
// server-side apply that merges, and everything that goes wrong with one.
type apiserver struct {
	*httptest.Server
	t *testing.T

	mu      sync.Mutex
	version int
	old     int // versions up to this one are forgotten
	kinds   map[string]*kind
	watches map[chan struct{}]bool // closed to end a watch
	grown   chan struct{}          // closed at the next event
	// trouble answers instead; 0 lets the request pass.
	trouble func(r *http.Request) int
	review  func(token string) doc
	asked   map[string]int // requests by method and path
}

// kind is a resource by path, like "apis/networking.istio.io/v1/virtualservices".
type kind struct {
	group, version, resource, name string
	namespaced                     bool
	objects                        map[string]doc
	log                            []event
}

type event struct {
	version int
	typ     string
	object  doc
}

func newAPIServer(t *testing.T) *apiserver {
	a := &apiserver{t: t, kinds: map[string]*kind{}, watches: map[chan struct{}]bool{}, grown: make(chan struct{}), asked: map[string]int{}}
	for _, k := range []struct {
		path, name string
		namespaced bool
	}{
		{"api/v1/namespaces", "Namespace", false}, {"api/v1/nodes", "Node", false}, {"api/v1/pods", "Pod", true}, {"api/v1/services", "Service", true},
		{"api/v1/serviceaccounts", "ServiceAccount", true}, {"api/v1/secrets", "Secret", true}, {"api/v1/configmaps", "ConfigMap", true}, {"api/v1/events", "Event", true},
		{"apis/discovery.k8s.io/v1/endpointslices", "EndpointSlice", true}, {"apis/apps/v1/deployments", "Deployment", true},
		{"apis/autoscaling/v2/horizontalpodautoscalers", "HorizontalPodAutoscaler", true}, {"apis/policy/v1/poddisruptionbudgets", "PodDisruptionBudget", true},
		{"apis/coordination.k8s.io/v1/leases", "Lease", true}, {"apis/apiextensions.k8s.io/v1/customresourcedefinitions", "CustomResourceDefinition", false},
	} {
		a.serve(k.path, k.name, k.namespaced)
	}
	a.Server = httptest.NewServer(a)
	t.Cleanup(func() { a.disconnect(); a.Server.CloseClientConnections(); a.Server.Close() })
	return a
}

func (a *apiserver) cluster() *Cluster {
	a.t.Helper()
	c, err := NewCluster(&rest.Config{Host: a.URL}, slog.New(slog.NewTextHandler(a.t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})))
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

// serve makes the API server serve a kind, and tells who watches definitions.
func (a *apiserver) serve(path, name string, namespaced bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := strings.Split(path, "/")
	k := &kind{version: p[1], resource: p[len(p)-1], name: name, namespaced: namespaced, objects: map[string]doc{}}
	if p[0] == "apis" {
		k.group, k.version = p[1], p[2]
	}
	a.kinds[path] = k
	a.definition(k, "ADDED")
}

func (a *apiserver) definition(k *kind, typ string) {
	if crds := a.kinds["apis/apiextensions.k8s.io/v1/customresourcedefinitions"]; crds != nil && strings.Contains(k.group, ".io") {
		a.note(crds, typ, doc{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": doc{"name": k.resource + "." + k.group}})
	}
}

// unserve removes a kind with its objects, without a word about these.
func (a *apiserver) unserve(path string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	k := a.kinds[path]
	delete(a.kinds, path)
	a.definition(k, "DELETED")
	a.hangUp()
}

// note makes an object's event. The mutex is held.
func (a *apiserver) note(k *kind, typ string, o doc) doc {
	a.version++
	o = clean(o)
	meta := o["metadata"].(doc)
	meta["resourceVersion"] = strconv.Itoa(a.version)
	if meta["uid"] == nil {
		meta["uid"] = "uid-" + strconv.Itoa(a.version)
	}
	id := text(meta["namespace"]) + "/" + text(meta["name"])
	if typ == "DELETED" {
		delete(k.objects, id)
	} else {
		k.objects[id] = o
	}
	k.log = append(k.log, event{a.version, typ, o})
	close(a.grown)
	a.grown = make(chan struct{})
	return o
}

func text(v any) string { s, _ := v.(string); return s }

func clean(o doc) doc {
	data, _ := json.Marshal(o)
	var out doc
	_ = json.Unmarshal(data, &out)
	return out
}

func (a *apiserver) find(apiVersion, name string) *kind {
	for _, k := range a.kinds {
		if k.name == name && strings.TrimPrefix(k.group+"/"+k.version, "/") == apiVersion {
			return k
		}
	}
	a.t.Errorf("%s %s is not served", apiVersion, name)
	return nil
}

// put applies documents as they stand in YAML.
func (a *apiserver) put(text string) {
	a.t.Helper()
	for _, part := range strings.Split(text, "\n---\n") {
		var o doc
		if err := yaml.Unmarshal([]byte(part), &o); err != nil {
			a.t.Fatal(err)
		}
		if len(o) > 0 {
			a.putDoc(o)
		}
	}
}

func (a *apiserver) putDoc(o doc) {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	k := a.find(text(o["apiVersion"]), text(o["kind"]))
	if k == nil {
		return
	}
	meta := o["metadata"].(doc)
	if k.namespaced && meta["namespace"] == nil {
		meta["namespace"] = "default"
	}
	typ := "ADDED"
	if was := k.objects[text(meta["namespace"])+"/"+text(meta["name"])]; was != nil {
		typ = "MODIFIED"
		meta["uid"] = was["metadata"].(doc)["uid"]
	}
	a.note(k, typ, o)
}

func (a *apiserver) object(path, namespace, name string) doc {
	a.mu.Lock()
	defer a.mu.Unlock()
	if o := a.kinds[path].objects[namespace+"/"+name]; o != nil {
		return clean(o)
	}
	return nil
}

func (a *apiserver) remove(path, namespace, name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	k := a.kinds[path]
	a.note(k, "DELETED", k.objects[namespace+"/"+name])
}

// disconnect ends all watches.
func (a *apiserver) disconnect() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.hangUp()
}

func (a *apiserver) hangUp() {
	for w := range a.watches {
		close(w)
		delete(a.watches, w)
	}
}

// compact forgets history, as etcd does: watches from before now are answered with 410.
func (a *apiserver) compact() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.old = a.version
	a.version++
}

// fail makes requests fail; nil mends.
func (a *apiserver) fail(trouble func(*http.Request) int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.trouble = trouble
	if trouble != nil {
		a.hangUp()
	}
}

func (a *apiserver) answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}

func (a *apiserver) refuse(w http.ResponseWriter, code int) {
	reason := map[int]string{404: "NotFound", 409: "Conflict", 410: "Expired", 403: "Forbidden", 422: "Invalid", 503: "ServiceUnavailable"}[code]
	a.answer(w, code, doc{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code, "message": "the fake says " + reason})
}

func (a *apiserver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.asked[r.Method+" "+r.URL.Path]++
	trouble := a.trouble
	a.mu.Unlock()
	if trouble != nil {
		if code := trouble(r); code != 0 {
			a.refuse(w, code)
			return
		}
	}
	p := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	root := 2
	if p[0] == "apis" {
		root = 3
	}
	if len(p) < root || len(p) == root {
		a.discovery(w, p)
		return
	}
	base, rest := strings.Join(p[:root], "/"), p[root:]
	if rest[len(rest)-1] == "tokenreviews" {
		a.tokenReview(w, r)
		return
	}
	namespace := ""
	if len(rest) > 2 && rest[0] == "namespaces" {
		namespace, rest = rest[1], rest[2:]
	}
	a.mu.Lock()
	k := a.kinds[base+"/"+rest[0]]
	a.mu.Unlock()
	switch {
	case k == nil:
		a.refuse(w, 404)
	case len(rest) == 1 && r.Method == "GET" && r.URL.Query().Get("watch") != "":
		a.watch(w, r, k, namespace)
	case len(rest) == 1 && r.Method == "GET":
		a.list(w, r, k, namespace)
	default:
		a.change(w, r, k, namespace, rest[1:])
	}
}

func (a *apiserver) discovery(w http.ResponseWriter, p []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	versions, resources := map[string]bool{}, []any{}
	for _, k := range a.kinds {
		if len(p) > 1 && k.group == p[1] {
			versions[k.version] = true
			if len(p) > 2 && k.version == p[2] {
				resources = append(resources, doc{"name": k.resource, "kind": k.name, "namespaced": k.namespaced}, doc{"name": k.resource + "/status", "kind": k.name})
			}
		}
	}
	switch {
	case len(versions) == 0 || len(p) > 2 && len(resources) == 0:
		a.refuse(w, 404)
	case len(p) == 2:
		var list []any
		for _, v := range slices.Sorted(maps.Keys(versions)) {
			list = append(list, doc{"groupVersion": p[1] + "/" + v, "version": v})
		}
		a.answer(w, 200, doc{"kind": "APIGroup", "name": p[1], "versions": list})
	default:
		a.answer(w, 200, doc{"kind": "APIResourceList", "resources": resources})
	}
}

func (a *apiserver) tokenReview(w http.ResponseWriter, r *http.Request) {
	var o doc
	_ = json.NewDecoder(r.Body).Decode(&o)
	o["status"] = a.review(text(o["spec"].(doc)["token"]))
	a.answer(w, 201, o)
}

// selected applies the selectors the product uses.
func selects(r *http.Request, namespace string, o doc) bool {
	meta := o["metadata"].(doc)
	if namespace != "" && text(meta["namespace"]) != namespace {
		return false
	}
	labels, _ := meta["labels"].(doc)
	if l := r.URL.Query().Get("labelSelector"); l != "" && labels[l] == nil {
		return false
	}
	for _, f := range strings.Split(r.URL.Query().Get("fieldSelector"), ",") {
		if name, ok := strings.CutPrefix(f, "metadata.name="); ok && text(meta["name"]) != name {
			return false
		}
		if typ, ok := strings.CutPrefix(f, "type!="); ok && text(o["type"]) == typ {
			return false
		}
	}
	return true
}

func partial(r *http.Request, o doc) doc {
	if !strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadata") {
		return o
	}
	return doc{"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": o["metadata"]}
}

func (a *apiserver) list(w http.ResponseWriter, r *http.Request, k *kind, namespace string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	items := []any{}
	for _, id := range slices.Sorted(maps.Keys(k.objects)) {
		if o := k.objects[id]; selects(r, namespace, o) {
			items = append(items, partial(r, o))
		}
	}
	out := doc{"kind": k.name + "List", "apiVersion": strings.TrimPrefix(k.group+"/"+k.version, "/"), "metadata": doc{"resourceVersion": strconv.Itoa(a.version)}, "items": items}
	if strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadata") {
		out["kind"], out["apiVersion"] = "PartialObjectMetadataList", "meta.k8s.io/v1"
	}
	a.answer(w, 200, out)
}

func (a *apiserver) watch(w http.ResponseWriter, r *http.Request, k *kind, namespace string) {
	if r.URL.Query().Get("sendInitialEvents") != "" {
		a.refuse(w, 422) // as API servers without the feature do
		return
	}
	at, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	end := make(chan struct{})
	a.mu.Lock()
	if at <= a.old && a.old > 0 {
		a.mu.Unlock()
		a.refuse(w, 410)
		return
	}
	a.watches[end] = true
	a.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(200)
	for {
		a.mu.Lock()
		for _, e := range k.log {
			if e.version > at && selects(r, namespace, e.object) {
				_ = json.NewEncoder(w).Encode(doc{"type": e.typ, "object": partial(r, e.object)})
			}
		}
		at = a.version
		grown := a.grown
		a.mu.Unlock()
		w.(http.Flusher).Flush()
		select {
		case <-grown:
		case <-end:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// change is everything about one object.
func (a *apiserver) change(w http.ResponseWriter, r *http.Request, k *kind, namespace string, rest []string) {
	body, _ := io.ReadAll(r.Body)
	var in doc
	_ = yaml.Unmarshal(body, &in)
	a.mu.Lock()
	defer a.mu.Unlock()
	name := text(doc(asDoc(in["metadata"]))["name"])
	if len(rest) > 0 {
		name = rest[0]
	}
	there := k.objects[namespace+"/"+name]
	if v := text(asDoc(in["metadata"])["resourceVersion"]); v != "" && there != nil && v != text(there["metadata"].(doc)["resourceVersion"]) {
		a.refuse(w, 409)
		return
	}
	switch {
	case r.Method == "POST" && there != nil:
		a.answer(w, 409, doc{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "AlreadyExists", "code": 409})
	case r.Method == "POST":
		a.answer(w, 201, a.note(k, "ADDED", in))
	case there == nil && (r.Method != "PATCH" || len(rest) > 1):
		a.refuse(w, 404)
	case r.Method == "GET":
		a.answer(w, 200, there)
	case r.Method == "DELETE":
		a.note(k, "DELETED", there)
		a.answer(w, 200, doc{"kind": "Status", "apiVersion": "v1", "status": "Success"})
	case r.Method == "PUT":
		a.answer(w, 200, a.note(k, "MODIFIED", in))
	case there == nil:
		a.answer(w, 201, a.note(k, "ADDED", in))
	default:
		out := overlay(there, in)
		if fmt.Sprint(clean(out)) == fmt.Sprint(clean(there)) {
			a.answer(w, 200, there)
			return
		}
		a.answer(w, 200, a.note(k, "MODIFIED", out))
	}
}

func asDoc(v any) doc { d, _ := v.(doc); return d }

func overlay(a, b doc) doc {
	out := maps.Clone(a)
	for k, v := range b {
		x, ok1 := a[k].(doc)
		y, ok2 := v.(doc)
		if ok1 && ok2 {
			v = overlay(x, y)
		}
		out[k] = v
	}
	return out
}
