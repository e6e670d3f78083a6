package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/api/folder"
	"github.com/ambit-mesh/ambit/e2e/lab/resource"
	"github.com/ambit-mesh/ambit/e2e/lab/wire"
	"github.com/ambit-mesh/ambit/e2e/lab/workloads"
)

// maxBody bounds what a client may send at once.
const maxBody = 32 << 20

func (s *Supervisor) serveAPI(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	handle := func(pattern string, fn func(*http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			out, err := fn(r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			// A client that has gone away is no trouble of the lab's.
			_ = json.NewEncoder(w).Encode(out)
		})
	}
	handle("GET /v1/status", s.getStatus)
	handle("POST /v1/apply", s.postApply)
	handle("POST /v1/delete", s.postDelete)
	handle("GET /v1/objects", s.getObjects)
	handle("GET /v1/pod", s.getPod)
	handle("GET /v1/rollout", s.getRollout)
	handle("GET /v1/enrolled", s.getEnrolled)
	handle("POST /v1/label", locked(s, s.label))
	handle("POST /v1/scale", locked(s, s.scale))
	handle("POST /v1/restart", locked(s, s.restart))
	handle("POST /v1/fail", locked(s, s.fail))
	handle("POST /v1/heal", s.postHeal)
	handle("POST /v1/daemons", locked(s, func(list []wire.Daemon) error {
		_, err := s.startDaemons(list)
		return err
	}))
	handle("DELETE /v1/daemons/{name}", s.deleteDaemon)
	handle("POST /v1/daemons/{name}/signal/{number}", s.signalDaemon)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	_ = srv.Close()
	<-failed
	return nil
}

var errEnding = errors.New("the lab is ending")

// locked makes a handler of a function that runs on the goroutine that owns the objects.
func locked[T any](s *Supervisor, fn func(T) error) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		var in T
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			return nil, fmt.Errorf("request: %w", err)
		}
		var err error
		if !s.do(func() { err = fn(in) }) {
			return nil, errEnding
		}
		return struct{}{}, err
	}
}

func (s *Supervisor) getStatus(*http.Request) (any, error) {
	st := wire.Status{Pid: os.Getpid(), Started: s.began}
	if !s.do(func() {
		for _, name := range slices.Sorted(maps.Keys(s.daemons)) {
			st.Daemons = append(st.Daemons, s.daemons[name].snapshot())
		}
		for _, name := range slices.Sorted(maps.Keys(s.problems)) {
			st.Problems = append(st.Problems, wire.Problem{Object: name, Problem: s.problems[name]})
		}
		st.Faults = slices.Clone(s.faults)
	}) {
		return nil, errEnding
	}
	return st, nil
}

func (s *Supervisor) postApply(r *http.Request) (any, error) {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, fmt.Errorf("read request: %w", err)
	}
	var results []wire.Result
	if !s.do(func() { results = s.apply(data, namespace(r)) }) {
		return nil, errEnding
	}
	return results, nil
}

func namespace(r *http.Request) string {
	if ns := r.URL.Query().Get("namespace"); ns != "" {
		return ns
	}
	return "default"
}

// postDelete removes what the YAML in the body names, or one object by kind and name.
func (s *Supervisor) postDelete(r *http.Request) (any, error) {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, fmt.Errorf("read request: %w", err)
	}
	q := r.URL.Query()
	var results []wire.Result
	ok := s.do(func() {
		var keys []resource.Key
		if kind := q.Get("kind"); kind != "" {
			for _, k := range s.keys(kind) {
				if k.Name == q.Get("name") && (k.Namespace == "" || k.Namespace == namespace(r)) {
					keys = append(keys, k)
				}
			}
			if len(keys) == 0 {
				err = fmt.Errorf("%s %s/%s: not found", kind, namespace(r), q.Get("name"))
				return
			}
		}
		for _, doc := range folder.SplitDocuments(data) {
			o, err := resource.Parse(doc.Data, namespace(r))
			if err != nil {
				results = append(results, wire.Result{Action: "refused", Line: doc.Line, Error: err.Error()})
				continue
			}
			keys = append(keys, o.Key())
			for _, member := range o.List() {
				keys = append(keys, member.Key())
			}
		}
		// Backwards: what was made last goes first, and namespaces after what is in them.
		for _, k := range slices.Backward(keys) {
			res := wire.Result{Kind: k.Kind, Namespace: k.Namespace, Name: k.Name, Action: "deleted"}
			err := s.delete(k)
			if p := s.pods[k]; p != nil && q.Get("grace") != "" {
				if g, bad := strconv.Atoi(q.Get("grace")); bad == nil {
					s.endPod(p, &g)
				}
			}
			if err != nil {
				res.Action, res.Error = "refused", err.Error()
			}
			results = append(results, res)
		}
	})
	if !ok {
		return nil, errEnding
	}
	return results, err
}

// keys lists what there is of a kind, given by any of its names.
func (s *Supervisor) keys(kind string) []resource.Key {
	var keys []resource.Key
	for k := range s.objects {
		if resource.IsKind(kind, k.Kind) {
			keys = append(keys, k)
		}
	}
	for k := range s.pods {
		if resource.IsKind(kind, k.Kind) {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, compareKeys)
	return keys
}

func (s *Supervisor) getObjects(r *http.Request) (any, error) {
	q := r.URL.Query()
	var items []resource.Object
	ok := s.do(func() {
		for _, k := range s.keys(q.Get("kind")) {
			if k.Namespace != "" && q.Get("all") == "" && k.Namespace != namespace(r) || q.Get("name") != "" && q.Get("name") != k.Name {
				continue
			}
			items = append(items, s.view(k))
		}
	})
	if !ok {
		return nil, errEnding
	}
	return wire.Objects{Items: items}, nil
}

// view is an object as a reader of the API sees it.
func (s *Supervisor) view(k resource.Key) resource.Object {
	if p, ok := s.pods[k]; ok {
		// Others write annotations into the file, so the file is the pod.
		if data, err := folder.Read(s.lab.ConfigDir, podFile(k)); err == nil {
			if o, err := resource.Parse(data, k.Namespace); err == nil {
				return o
			}
		}
		return p.doc.Clone()
	}
	o := s.objects[k].object.Clone()
	if workloads.Runs(k.Kind) {
		o["status"] = workloads.Status(o, s.podsOf(k))
	}
	return o
}

func (s *Supervisor) getPod(r *http.Request) (any, error) {
	k := resource.Key{Kind: "Pod", Namespace: namespace(r), Name: r.URL.Query().Get("name")}
	var info wire.PodProcess
	var err error
	ok := s.do(func() {
		p := s.pods[k]
		switch {
		case p == nil:
			err = fmt.Errorf("%s: not found%s", k, s.similar(k))
		case p.kubelet == nil:
			err = fmt.Errorf("%s has no processes of its own: %s", k, p.status.message)
		default:
			info = p.kubelet.processes()
		}
	})
	if !ok {
		return nil, errEnding
	}
	return info, err
}

// similar names pods that may have been meant, since pods of a Deployment have names nobody types.
func (s *Supervisor) similar(k resource.Key) string {
	var list []string
	for other := range s.pods {
		if strings.HasPrefix(other.Name, k.Name) {
			list = append(list, other.Namespace+"/"+other.Name)
		}
	}
	if len(list) == 0 {
		return ""
	}
	slices.Sort(list)
	return "; there is " + strings.Join(list, ", ")
}

func (s *Supervisor) postHeal(r *http.Request) (any, error) {
	var f wire.Fault
	if err := json.NewDecoder(r.Body).Decode(&f); err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	var healed []wire.Fault
	var err error
	if !s.do(func() { healed, err = s.heal(f) }) {
		return nil, errEnding
	}
	return healed, err
}

func (s *Supervisor) deleteDaemon(r *http.Request) (any, error) {
	var gone <-chan struct{}
	var err error
	if !s.do(func() { gone, err = s.stopDaemon(r.PathValue("name")) }) {
		return nil, errEnding
	}
	if err != nil {
		return nil, err
	}
	select {
	case <-gone:
		return struct{}{}, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

func (s *Supervisor) signalDaemon(r *http.Request) (any, error) {
	number, err := strconv.Atoi(r.PathValue("number"))
	if err != nil || number < 1 || number > 64 {
		return nil, fmt.Errorf("signal %q: a number from 1 to 64", r.PathValue("number"))
	}
	if !s.do(func() {
		d := s.daemons[r.PathValue("name")]
		if d == nil {
			err = fmt.Errorf("there is no daemon %q", r.PathValue("name"))
			return
		}
		err = d.signal(syscall.Signal(number))
	}) {
		return nil, errEnding
	}
	return struct{}{}, err
}
