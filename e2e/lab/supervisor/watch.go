package supervisor

import (
	"context"
	"errors"
	"path"

	"github.com/ambit-mesh/ambit/api/folder"
	"github.com/ambit-mesh/ambit/e2e/lab/resource"
)

// watch follows changes that others make in the folder of applied objects, such as a user with an editor.
func (s *Supervisor) watch(ctx context.Context) error {
	opts := folder.Options{Logger: s.log}
	return folder.Watch(ctx, s.path(ConfigDir, AppliedDir), opts, func(changes []folder.Change) error {
		s.do(func() {
			for _, c := range changes {
				s.fileChanged(c)
			}
		})
		return nil
	})
}

// christen gives an object that came by way of the folder what an API server would give it. In a file with several
// documents it goes without.
func (s *Supervisor) christen(o resource.Object, file string) {
	uid, created := newUID(), now()
	if old, ok := s.objects[o.Key()]; ok && old.object.UID() != "" {
		// The same object, written anew by a program that keeps only what it knows.
		uid, created = old.object.UID(), old.object.Text("metadata", "creationTimestamp")
	}
	err := folder.Edit(s.lab.ConfigDir, file, func(doc map[string]any) (map[string]any, error) {
		d := resource.Object(doc)
		if d.Name() != o.Name() || d.Kind() != o.Kind() || d.UID() != "" {
			return doc, nil
		}
		d.Set(uid, "metadata", "uid")
		d.Set(created, "metadata", "creationTimestamp")
		d.Set(int64(1), "metadata", "generation")
		return doc, nil
	})
	if err != nil {
		return
	}
	o.Set(uid, "metadata", "uid")
	o.Set(created, "metadata", "creationTimestamp")
	o.Set(float64(1), "metadata", "generation")
}

func (s *Supervisor) fileChanged(c folder.Change) {
	file := path.Join(AppliedDir, c.Path)
	if c.Err != nil {
		s.log.Warn("unusable file", "file", file, "error", c.Err)
		return
	}
	seen := map[resource.Key]bool{}
	if !c.Removed {
		// What is in the folder by now counts, not what was when the change was seen: the lab itself writes there.
		data, err := folder.Read(s.lab.ConfigDir, file)
		if errors.Is(err, folder.ErrNotFound) {
			c.Removed = true
		} else if err != nil {
			s.log.Warn("unusable file", "file", file, "error", err)
			return
		}
		for _, doc := range folder.SplitDocuments(data) {
			o, err := resource.Parse(doc.Data, "default")
			if err == nil && o.Kind() == "Pod" {
				err = errors.New("the lab runs a Pod only if it is applied, not if it is put into the folder")
			}
			if err == nil {
				err = check(o)
			}
			if err != nil && o.Kind() != "Node" {
				// The last good version stays, as in the control plane.
				s.log.Warn("document refused", "file", file, "line", doc.Line, "problem", err.Error())
				for k, st := range s.objects {
					seen[k] = seen[k] || st.file == file
				}
				continue
			}
			seen[o.Key()] = true
			if o.UID() == "" {
				s.christen(o, file)
			}
			if old, ok := s.objects[o.Key()]; !ok || !same(old.object, o) {
				s.objects[o.Key()] = &stored{o, file}
				s.dirty = true
			}
		}
	}
	for k, st := range s.objects {
		if st.file == file && !seen[k] {
			delete(s.objects, k)
			s.dirty = true
		}
	}
}
