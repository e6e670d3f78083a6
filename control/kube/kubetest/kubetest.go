// Package kubetest is enough of a Kubernetes API server to test clients against, over real HTTP and in memory: lists,
// watches with versions that grow old, discovery, server-side apply that merges mappings, token reviews, and everything
// that goes wrong with one.
//
// It knows no schema, defaults nothing and authorizes everybody. Requests are served by the goroutines of net/http, which
// end with the test. Start reading at Server.
package kubetest

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"sigs.k8s.io/yaml"
)

// Doc is an object as decoded from JSON.
type Doc = map[string]any

// Server is described at the package. Kinds go by path, like "apis/networking.istio.io/v1/virtualservices".
type Server struct {
	url string
	t   *testing.T

	mu      sync.Mutex
	version int
	old     int // versions up to this one are forgotten
	kinds   map[string]*kind
	watches map[chan struct{}]bool // closed to end a watch
	grown   chan struct{}          // closed at the next event
	// trouble answers instead; 0 lets the request pass.
	trouble func(r *http.Request) int
	review  func(token string) Doc
	asked   map[string]int // requests by method and path
}

type kind struct {
	group, version, resource, name string
	namespaced                     bool
	objects                        map[string]Doc
	log                            []event
}

type event struct {
	version int
	typ     string
	object  Doc
}

// New starts an API server with the kinds that all of them have; it ends with the test.
func New(t *testing.T) *Server {
	a := &Server{t: t, kinds: map[string]*kind{}, watches: map[chan struct{}]bool{}, grown: make(chan struct{}), asked: map[string]int{}}
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
		a.Serve(k.path, k.name, k.namespaced)
	}
	http := httptest.NewServer(a)
	a.url = http.URL
	t.Cleanup(func() { a.Disconnect(); http.CloseClientConnections(); http.Close() })
	return a
}

// URL is where it listens, without TLS.
func (a *Server) URL() string { return a.url }

// Watches counts those that are open.
func (a *Server) Watches() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.watches)
}

// Asked counts the requests of a method and path.
func (a *Server) Asked(method, path string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked[method+" "+path]
}

// Version is the version of the latest change.
func (a *Server) Version() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.version
}

// Review sets what token reviews are answered with.
func (a *Server) Review(status func(token string) Doc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.review = status
}

// Objects lists the objects of a kind.
func (a *Server) Objects(path string) []Doc {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []Doc
	for _, id := range slices.Sorted(maps.Keys(a.kinds[path].objects)) {
		out = append(out, clean(a.kinds[path].objects[id]))
	}
	return out
}

// Serve makes the API server serve a kind, and tells who watches definitions.
func (a *Server) Serve(path, name string, namespaced bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := strings.Split(path, "/")
	k := &kind{version: p[1], resource: p[len(p)-1], name: name, namespaced: namespaced, objects: map[string]Doc{}}
	if p[0] == "apis" {
		k.group, k.version = p[1], p[2]
	}
	a.kinds[path] = k
	a.definition(k, "ADDED")
}

func (a *Server) definition(k *kind, typ string) {
	if crds := a.kinds["apis/apiextensions.k8s.io/v1/customresourcedefinitions"]; crds != nil && strings.Contains(k.group, ".io") {
		a.note(crds, typ, Doc{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": Doc{"name": k.resource + "." + k.group}})
	}
}

// Unserve removes a kind with its objects, without a word about these.
func (a *Server) Unserve(path string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	k := a.kinds[path]
	delete(a.kinds, path)
	a.definition(k, "DELETED")
	a.hangUp()
}

// Undefine begins to remove a kind as the API server does when its definition is deleted: that is marked, and every
// object's end is told. Unserve ends it.
func (a *Server) Undefine(path string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	k := a.kinds[path]
	crds := a.kinds["apis/apiextensions.k8s.io/v1/customresourcedefinitions"]
	if crd := crds.objects["/"+k.resource+"."+k.group]; crd != nil {
		crd = clean(crd)
		crd["metadata"].(Doc)["deletionTimestamp"] = "2026-01-02T03:04:05Z"
		a.note(crds, "MODIFIED", crd)
	}
	for _, id := range slices.Sorted(maps.Keys(k.objects)) {
		a.note(k, "DELETED", k.objects[id])
	}
}

// note makes an object's event. The mutex is held.
func (a *Server) note(k *kind, typ string, o Doc) Doc {
	a.version++
	o = clean(o)
	meta := o["metadata"].(Doc)
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

func clean(o Doc) Doc {
	data, _ := json.Marshal(o)
	var out Doc
	_ = json.Unmarshal(data, &out)
	return out
}

func (a *Server) find(apiVersion, name string) *kind {
	for _, k := range a.kinds {
		if k.name == name && strings.TrimPrefix(k.group+"/"+k.version, "/") == apiVersion {
			return k
		}
	}
	a.t.Errorf("%s %s is not served", apiVersion, name)
	return nil
}

// Put applies documents as they stand in YAML.
func (a *Server) Put(text string) {
	a.t.Helper()
	for _, part := range strings.Split(text, "\n---\n") {
		var o Doc
		if err := yaml.Unmarshal([]byte(part), &o); err != nil {
			a.t.Fatal(err)
		}
		if len(o) > 0 {
			a.PutDoc(o)
		}
	}
}

// PutDoc applies one.
func (a *Server) PutDoc(o Doc) {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	k := a.find(text(o["apiVersion"]), text(o["kind"]))
	if k == nil {
		return
	}
	meta := o["metadata"].(Doc)
	if k.namespaced && meta["namespace"] == nil {
		meta["namespace"] = "default"
	}
	typ := "ADDED"
	if was := k.objects[text(meta["namespace"])+"/"+text(meta["name"])]; was != nil {
		typ = "MODIFIED"
		meta["uid"] = was["metadata"].(Doc)["uid"]
	}
	a.note(k, typ, o)
}

// Object is a copy of one, nil if it is not there.
func (a *Server) Object(path, namespace, name string) Doc {
	a.mu.Lock()
	defer a.mu.Unlock()
	if o := a.kinds[path].objects[namespace+"/"+name]; o != nil {
		return clean(o)
	}
	return nil
}

// Remove deletes an object.
func (a *Server) Remove(path, namespace, name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	k := a.kinds[path]
	a.note(k, "DELETED", k.objects[namespace+"/"+name])
}

// Disconnect ends all watches.
func (a *Server) Disconnect() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.hangUp()
}

func (a *Server) hangUp() {
	for w := range a.watches {
		close(w)
		delete(a.watches, w)
	}
}

// Compact forgets history, as etcd does: watches from before now are answered with 410.
func (a *Server) Compact() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.old = a.version
	a.version++
}

// Fail makes requests fail with the status that trouble answers, 0 for none; nil mends. Open watches end.
func (a *Server) Fail(trouble func(*http.Request) int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.trouble = trouble
	if trouble != nil {
		a.hangUp()
	}
}
