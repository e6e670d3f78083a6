package kubetest

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

func (a *Server) answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}

func (a *Server) refuse(w http.ResponseWriter, code int) {
	reason := map[int]string{404: "NotFound", 409: "Conflict", 410: "Expired", 403: "Forbidden", 422: "Invalid", 503: "ServiceUnavailable"}[code]
	a.answer(w, code, Doc{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code, "message": "the fake says " + reason})
}

// ServeHTTP implements http.Handler.
func (a *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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

func (a *Server) discovery(w http.ResponseWriter, p []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	versions, resources := map[string]bool{}, []any{}
	for _, k := range a.kinds {
		if len(p) > 1 && k.group == p[1] {
			versions[k.version] = true
			if len(p) > 2 && k.version == p[2] {
				resources = append(resources, Doc{"name": k.resource, "kind": k.name, "namespaced": k.namespaced}, Doc{"name": k.resource + "/status", "kind": k.name})
			}
		}
	}
	switch {
	case len(versions) == 0 || len(p) > 2 && len(resources) == 0:
		a.refuse(w, 404)
	case len(p) == 2:
		var list []any
		for _, v := range slices.Sorted(maps.Keys(versions)) {
			list = append(list, Doc{"groupVersion": p[1] + "/" + v, "version": v})
		}
		a.answer(w, 200, Doc{"kind": "APIGroup", "name": p[1], "versions": list})
	default:
		a.answer(w, 200, Doc{"kind": "APIResourceList", "resources": resources})
	}
}

func (a *Server) tokenReview(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	review := a.review
	a.mu.Unlock()
	var o Doc
	_ = json.NewDecoder(r.Body).Decode(&o)
	o["status"] = review(text(o["spec"].(Doc)["token"]))
	a.answer(w, 201, o)
}

// selected applies the selectors the product uses.
func selects(r *http.Request, namespace string, o Doc) bool {
	meta := o["metadata"].(Doc)
	if namespace != "" && text(meta["namespace"]) != namespace {
		return false
	}
	labels, _ := meta["labels"].(Doc)
	if l := r.URL.Query().Get("labelSelector"); l != "" {
		key, value, exact := strings.Cut(l, "=")
		if labels[key] == nil || exact && text(labels[key]) != value {
			return false
		}
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

func partial(r *http.Request, o Doc) Doc {
	if !strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadata") {
		return o
	}
	return Doc{"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": o["metadata"]}
}

func (a *Server) list(w http.ResponseWriter, r *http.Request, k *kind, namespace string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	items := []any{}
	for _, id := range slices.Sorted(maps.Keys(k.objects)) {
		if o := k.objects[id]; selects(r, namespace, o) {
			items = append(items, partial(r, o))
		}
	}
	out := Doc{"kind": k.name + "List", "apiVersion": strings.TrimPrefix(k.group+"/"+k.version, "/"), "metadata": Doc{"resourceVersion": strconv.Itoa(a.version)}, "items": items}
	if strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadata") {
		out["kind"], out["apiVersion"] = "PartialObjectMetadataList", "meta.k8s.io/v1"
	}
	a.answer(w, 200, out)
}

func (a *Server) watch(w http.ResponseWriter, r *http.Request, k *kind, namespace string) {
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
				_ = json.NewEncoder(w).Encode(Doc{"type": e.typ, "object": partial(r, e.object)})
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
func (a *Server) change(w http.ResponseWriter, r *http.Request, k *kind, namespace string, rest []string) {
	body, _ := io.ReadAll(r.Body)
	var in Doc
	_ = yaml.Unmarshal(body, &in)
	a.mu.Lock()
	defer a.mu.Unlock()
	name := text(asDoc(in["metadata"])["name"])
	if len(rest) > 0 {
		name = rest[0]
	}
	there := k.objects[namespace+"/"+name]
	if v := text(asDoc(in["metadata"])["resourceVersion"]); v != "" && there != nil && v != text(there["metadata"].(Doc)["resourceVersion"]) {
		a.refuse(w, 409)
		return
	}
	if by := r.URL.Query().Get("fieldManager"); r.Method == "PATCH" && by != "" && len(rest) == 1 {
		managed(in, there, by)
	}
	switch {
	case r.Method == "POST" && there != nil:
		a.answer(w, 409, Doc{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "AlreadyExists", "code": 409})
	case r.Method == "POST":
		a.answer(w, 201, a.note(k, "ADDED", in))
	case there == nil && (r.Method != "PATCH" || len(rest) > 1):
		a.refuse(w, 404)
	case r.Method == "GET":
		a.answer(w, 200, there)
	case r.Method == "DELETE":
		a.note(k, "DELETED", there)
		a.answer(w, 200, Doc{"kind": "Status", "apiVersion": "v1", "status": "Success"})
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

// managed notes in an object that is applied who applied it, after those who did before.
func managed(in, there Doc, by string) {
	meta := asDoc(in["metadata"])
	if meta == nil {
		return
	}
	before, _ := asDoc(there["metadata"])["managedFields"].([]any)
	if slices.ContainsFunc(before, func(e any) bool { return text(asDoc(e)["manager"]) == by }) {
		return
	}
	meta["managedFields"] = append(slices.Clone(before), Doc{"manager": by, "operation": "Apply"})
}

func asDoc(v any) Doc { d, _ := v.(Doc); return d }

func overlay(a, b Doc) Doc {
	out := maps.Clone(a)
	for k, v := range b {
		x, ok1 := a[k].(Doc)
		y, ok2 := v.(Doc)
		if ok1 && ok2 {
			v = overlay(x, y)
		}
		out[k] = v
	}
	return out
}
