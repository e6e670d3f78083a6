package supervisor

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"time"

	"github.com/ambit-mesh/ambit/api/folder"
	"github.com/ambit-mesh/ambit/e2e/lab/resource"
	"github.com/ambit-mesh/ambit/e2e/lab/services"
	"github.com/ambit-mesh/ambit/e2e/lab/wire"
	"github.com/ambit-mesh/ambit/e2e/lab/workloads"
)

// apply stores every document of a YAML stream and says what became of each. Documents are applied or refused one by
// one, namespaces first, so that their order in a file does not matter.
func (s *Supervisor) apply(data []byte, namespace string) []wire.Result {
	var results []wire.Result
	type item struct {
		object resource.Object
		line   int
	}
	var items []item
	for _, doc := range folder.SplitDocuments(data) {
		o, err := parseApplied(doc.Data, namespace)
		if err != nil {
			results = append(results, wire.Result{Action: "refused", Line: doc.Line, Error: err.Error()})
			continue
		}
		if list := o.List(); list != nil {
			for _, member := range list {
				raw, err := member.Marshal()
				if err == nil {
					o, err = resource.Parse(raw, namespace)
				}
				if err != nil {
					results = append(results, wire.Result{Action: "refused", Line: doc.Line, Error: err.Error()})
					continue
				}
				items = append(items, item{o, doc.Line})
			}
			continue
		}
		items = append(items, item{o, doc.Line})
	}
	slices.SortStableFunc(items, func(a, b item) int { return cmp.Compare(rank(a.object.Kind()), rank(b.object.Kind())) })
	for _, it := range items {
		k := it.object.Key()
		r := wire.Result{Kind: k.Kind, Namespace: k.Namespace, Name: k.Name, Line: it.line}
		action, err := s.applyOne(it.object)
		r.Action = action
		if err != nil {
			r.Action, r.Error = "refused", err.Error()
		}
		results = append(results, r)
	}
	s.dirty = true
	return results
}

// maxDocument is what an API server takes, roughly; readers of the folder have a limit too.
const maxDocument = 3 << 20

func parseApplied(data []byte, namespace string) (resource.Object, error) {
	if len(data) > maxDocument {
		return nil, fmt.Errorf("document of %.1f MiB: the limit is %d MiB", float64(len(data))/(1<<20), maxDocument>>20)
	}
	return resource.Parse(data, namespace)
}

func rank(kind string) int {
	switch kind {
	case "Namespace":
		return 0
	case "ServiceAccount", "Service":
		return 1
	}
	return 2
}

func (s *Supervisor) applyOne(o resource.Object) (string, error) {
	k := o.Key()
	if k.Namespace != "" {
		ns, ok := s.objects[resource.Key{Kind: "Namespace", Name: k.Namespace}]
		if !ok {
			return "", fmt.Errorf("namespace %q does not exist: apply a Namespace of that name first", k.Namespace)
		}
		if ns.object.Text("metadata", "deletionTimestamp") != "" {
			return "", fmt.Errorf("namespace %q is being deleted", k.Namespace)
		}
	}
	if k.Kind == "Pod" {
		return s.applyPod(o)
	}
	if err := check(o); err != nil {
		return "", err
	}
	asApplied := o.Clone()
	old, exists := s.objects[k]
	if exists {
		resource.Inherit(o, old.object, s.last[k])
	}
	if k.Kind == "Namespace" {
		o.SetLabels(map[string]string{"kubernetes.io/metadata.name": k.Name}, nil)
	}
	if k.Kind == "Service" {
		if _, err := services.Allocate(o, s.takenAddresses(k), s.start.DualStack); err != nil {
			return "", err
		}
	}
	s.last[k] = asApplied
	if exists && same(o, old.object) {
		return "unchanged", nil
	}
	if err := s.put(o); err != nil {
		return "", err
	}
	if exists {
		return "configured", nil
	}
	return "created", nil
}

func same(a, b resource.Object) bool {
	x, err1 := a.Marshal()
	y, err2 := b.Marshal()
	return err1 == nil && err2 == nil && string(x) == string(y)
}

func check(o resource.Object) error {
	switch {
	case workloads.Runs(o.Kind()):
		return workloads.Check(o)
	case o.Kind() == "Service":
		return services.Check(o)
	case o.Kind() == "Node":
		return errors.New("the lab makes its own nodes: see \"ambit-lab up --nodes\", and \"ambit-lab label node\" to label one")
	}
	return nil
}

func (s *Supervisor) takenAddresses(except resource.Key) map[netip.Addr]string {
	taken := map[netip.Addr]string{}
	for k, st := range s.objects {
		if k.Kind == "Service" && k != except {
			for _, a := range services.Addresses(st.object) {
				taken[a] = k.Namespace + "/" + k.Name
			}
		}
	}
	return taken
}

func (s *Supervisor) takenExternal(except resource.Key) map[netip.Addr]string {
	taken := map[netip.Addr]string{}
	for k, st := range s.objects {
		if k.Kind == "Service" && k != except {
			for _, a := range services.External(st.object) {
				taken[a] = k.Namespace + "/" + k.Name
			}
		}
	}
	return taken
}

// put stores an object in memory and in the folder.
func (s *Supervisor) put(o resource.Object) error {
	k := o.Key()
	if o.UID() == "" {
		o.Set(newUID(), "metadata", "uid")
		o.Set(now(), "metadata", "creationTimestamp")
	}
	o.Set(float64(o.Number(0, "metadata", "generation")+1), "metadata", "generation")
	file := path.Join(AppliedDir, k.File())
	if old, ok := s.objects[k]; ok {
		file = old.file
	}
	if err := s.write(o, file); err != nil {
		return fmt.Errorf("store %s: %w", k, err)
	}
	s.objects[k] = &stored{o, file}
	s.dirty = true
	return nil
}

// write replaces an object's file but for the status, which others write: what they wrote a moment ago has not been read
// here yet, and a Gateway whose address went away for that moment would be one that traffic goes around.
func (s *Supervisor) write(o resource.Object, file string) error {
	err := folder.Edit(s.lab.ConfigDir, file, func(doc map[string]any) (map[string]any, error) {
		if status := doc["status"]; status != nil && o.Kind() != "Node" && resource.Object(doc).Key() == o.Key() && resource.Object(doc).UID() == o.UID() {
			o["status"] = status
		}
		return o, nil
	})
	if !errors.Is(err, folder.ErrNotFound) {
		return err
	}
	data, err := o.Marshal()
	if err != nil {
		return err
	}
	return folder.Write(s.lab.ConfigDir, file, data)
}

func newUID() string {
	var b [16]byte
	// Read never fails, and says so.
	_, _ = rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80 // RFC 9562 §5.4
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// delete removes one object. Its pods follow in reconcile.
func (s *Supervisor) delete(k resource.Key) error {
	if k.Kind == "Pod" {
		p, ok := s.pods[k]
		if !ok {
			return fmt.Errorf("%s: not found", k)
		}
		s.endPod(p, nil)
		s.dirty = true
		return nil
	}
	st, ok := s.objects[k]
	if !ok {
		return fmt.Errorf("%s: not found", k)
	}
	if k.Kind == "Node" || k.Kind == "Namespace" && slices.Contains([]string{"default", "kube-system", "ambit-system"}, k.Name) {
		return fmt.Errorf("%s belongs to the lab and stays", k)
	}
	if k.Kind == "Namespace" {
		return s.terminate(k, st.object)
	}
	return s.forget(k, st)
}

// forget removes an object.
func (s *Supervisor) forget(k resource.Key, st *stored) error {
	if err := folder.Remove(s.lab.ConfigDir, st.file); err != nil && !errors.Is(err, folder.ErrNotFound) {
		return fmt.Errorf("delete %s: %w", k, err)
	}
	delete(s.objects, k)
	delete(s.last, k)
	s.problem(k, nil)
	s.dirty = true
	return nil
}

// label sets and removes labels of an object or a running pod.
func (s *Supervisor) label(req wire.Label) error {
	k := resource.Key{Kind: req.Kind, Namespace: req.Namespace, Name: req.Name}
	s.dirty = true
	if p, ok := s.pods[k]; ok {
		p.doc.SetLabels(req.Set, req.Remove)
		return s.writePod(p)
	}
	st, ok := s.objects[k]
	if !ok {
		return fmt.Errorf("%s: not found", k)
	}
	o := st.object.Clone()
	o.SetLabels(req.Set, req.Remove)
	if n := s.node(k.Name); k.Kind == "Node" && n != nil {
		n.labels = o.Labels()
	}
	return s.put(o)
}

func (s *Supervisor) scale(req wire.Scale) error {
	return s.change(req.Ref, func(o resource.Object) error {
		if !slices.Contains([]string{"Deployment", "ReplicaSet", "StatefulSet"}, o.Kind()) {
			return fmt.Errorf("a %s has no replicas", o.Kind())
		}
		if req.Replicas < 0 || req.Replicas > 250 {
			return fmt.Errorf("%d replicas: 0 to 250", req.Replicas)
		}
		o.Set(float64(req.Replicas), "spec", "replicas")
		return nil
	})
}

// restart changes the template, which makes controllers replace all pods.
func (s *Supervisor) restart(ref wire.Ref) error {
	return s.change(ref, func(o resource.Object) error {
		if !workloads.Runs(o.Kind()) || o.Kind() == "Job" {
			return fmt.Errorf("a %s cannot be restarted", o.Kind())
		}
		o.Set(time.Now().UTC().Format(time.RFC3339Nano), "spec", "template", "metadata", "annotations", workloads.AnnotationRestarted)
		return nil
	})
}

func (s *Supervisor) change(ref wire.Ref, fn func(resource.Object) error) error {
	k := resource.Key{Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name}
	st, ok := s.objects[k]
	if !ok {
		return fmt.Errorf("%s: not found", k)
	}
	o := st.object.Clone()
	if err := fn(o); err != nil {
		return err
	}
	return s.put(o)
}

// allocate gives virtual addresses to Services that came by way of the folder.
func (s *Supervisor) allocate(k resource.Key, st *stored) {
	o := st.object.Clone()
	changed, err := services.Allocate(o, s.takenAddresses(k), s.start.DualStack)
	s.problem(k, err)
	if err != nil {
		return
	}
	if exposed := services.Expose(o, s.takenExternal(k)); !exposed && !changed {
		return
	}
	st.object = o
	err = folder.Edit(s.lab.ConfigDir, st.file, func(doc map[string]any) (map[string]any, error) {
		for _, f := range []string{"clusterIP", "clusterIPs", "ipFamilies"} {
			if v := o.At("spec", f); v != nil {
				resource.Object(doc).Set(v, "spec", f)
			}
		}
		if lb := o.At("status", "loadBalancer"); lb != nil {
			resource.Object(doc).Set(lb, "status", "loadBalancer")
		} else if status, ok := doc["status"].(map[string]any); ok {
			delete(status, "loadBalancer")
		}
		return doc, nil
	})
	if err != nil {
		s.problem(k, fmt.Errorf("write its address to %s (one document to a file, or apply it): %w", st.file, err))
	}
}
