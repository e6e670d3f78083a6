// Package file is the agent's view of pods and namespaces when a folder of YAML plays the API server: on a laptop, in
// the lab.
//
// It reads Pods of one node and Namespaces and ignores everything else, tells an enroll.Sink what they are now, and writes the
// redirection annotation back into the pod's file. A document it cannot read leaves what was known before. It does not
// decide anything about pods.
//
// Run works on its caller's goroutine. Start reading at Source.Run.
package file

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/ambit-mesh/ambit/api/folder"
	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/cni/enroll"
)

// Source watches one folder for one node.
type Source struct {
	root string
	node string
	log  *slog.Logger

	// files is what each file holds, owned by Run.
	files map[string]content

	mu sync.Mutex
	// at is where each pod stands, guarded by mu.
	at map[enroll.Key]string
}

// content is the objects of one file.
type content struct {
	pods       map[enroll.Key]bool
	namespaces map[string]bool
}

// New prepares a source of the pods on node.
func New(root, node string, log *slog.Logger) *Source {
	return &Source{root: root, node: node, log: log.With("area", "file"), files: map[string]content{}, at: map[enroll.Key]string{}}
}

// Run watches until ctx ends.
func (s *Source) Run(ctx context.Context, sink enroll.Sink) error {
	opts := folder.Options{Logger: s.log, Synced: func() error { sink.Synced(); return nil }}
	return folder.Watch(ctx, s.root, opts, func(changes []folder.Change) error {
		for _, c := range changes {
			s.apply(c, sink)
		}
		return nil
	})
}

func (s *Source) apply(c folder.Change, sink enroll.Sink) {
	if c.Err != nil {
		s.log.Warn("file is not read; what it said before stays", "file", c.Path, "err", c.Err)
		return
	}
	old := s.files[c.Path]
	next := content{pods: map[enroll.Key]bool{}, namespaces: map[string]bool{}}
	if !c.Removed {
		objects, err := parse(c.Data, s.node)
		if err != nil {
			s.log.Warn("file is not understood; what it said before stays", "file", c.Path, "err", err)
			return
		}
		for _, o := range objects {
			switch {
			case o.pod != nil:
				next.pods[o.pod.Key()] = true
				s.place(o.pod.Key(), c.Path)
				sink.SetPod(*o.pod)
			case o.namespace != "":
				next.namespaces[o.namespace] = true
				sink.SetNamespace(o.namespace, o.labels)
			}
		}
	}
	for k := range old.pods {
		if !next.pods[k] && s.displace(k, c.Path) {
			sink.DeletePod(k)
		}
	}
	for name := range old.namespaces {
		if !next.namespaces[name] {
			sink.DeleteNamespace(name)
		}
	}
	if len(next.pods)+len(next.namespaces) == 0 {
		delete(s.files, c.Path)
		return
	}
	s.files[c.Path] = next
}

func (s *Source) place(k enroll.Key, path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at[k] = path
}

// displace reports false if the pod has moved to another file meanwhile.
func (s *Source) displace(k enroll.Key, path string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at[k] != path {
		return false
	}
	delete(s.at, k)
	return true
}

var errUnchanged = errors.New("unchanged")

// Annotate sets the pod's redirection annotation, or removes it if value is empty. A pod that is gone, or is another one
// of the same name by now, is no error: there is nothing left to say about it.
func (s *Source) Annotate(_ context.Context, p enroll.Pod, value string) error {
	s.mu.Lock()
	path, ok := s.at[p.Key()]
	s.mu.Unlock()
	if !ok {
		return nil
	}
	err := folder.Edit(s.root, path, func(doc map[string]any) (map[string]any, error) {
		meta, _ := doc["metadata"].(map[string]any)
		if doc["kind"] != "Pod" || meta == nil || meta["name"] != p.Name {
			return nil, errUnchanged
		}
		// A number where YAML sees one: the reading side takes it as text, too.
		if uid, ok := meta["uid"]; ok && fmt.Sprint(uid) != p.UID {
			return nil, errUnchanged
		}
		annotations, _ := meta["annotations"].(map[string]any)
		if have, _ := annotations[mesh.AnnotationRedirection].(string); have == value {
			return nil, errUnchanged
		}
		if annotations == nil {
			annotations = map[string]any{}
			meta["annotations"] = annotations
		}
		if value == "" {
			delete(annotations, mesh.AnnotationRedirection)
		} else {
			annotations[mesh.AnnotationRedirection] = value
		}
		return doc, nil
	})
	if err == nil || errors.Is(err, errUnchanged) || errors.Is(err, folder.ErrNotFound) {
		return nil
	}
	return fmt.Errorf("annotate pod %s: %w", p.Key(), err)
}
