package gateways

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"strings"
	"sync"

	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/api/document"
	"github.com/ambit-mesh/ambit/api/folder"
	"github.com/ambit-mesh/ambit/api/mesh"
)

// Folder is a folder of YAML as source and Applier: what is rendered is written into a folder of it, one object a file.
// Run follows the files; the other methods are the Applier's.
type Folder struct {
	root, dir string
	log       *slog.Logger

	mu    sync.Mutex
	files map[Key]string // where an object stands, also those not of this package's making
	held  map[string][]Key
}

// NewFolder is the folder at root, with objects that are made going to dir in it.
func NewFolder(root, dir string, log *slog.Logger) *Folder {
	return &Folder{root: root, dir: dir, log: log, files: map[Key]string{}, held: map[string][]Key{}}
}

// Run hands the objects of the folder to r until ctx ends.
func (f *Folder) Run(ctx context.Context, r *Reconciler) error {
	opts := folder.Options{Logger: f.log, Chunk: 16 << 20, Synced: func() error { r.Synced(); return nil }}
	return folder.Watch(ctx, f.root, opts, func(changes []folder.Change) error {
		for _, c := range changes {
			f.changed(c, r)
		}
		return nil
	})
}

// changed compares a file with what it held before. A file that cannot be read keeps what it held.
func (f *Folder) changed(c folder.Change, r *Reconciler) {
	if c.Err != nil || c.Path == "" {
		return
	}
	var now []Object
	for doc := range folder.Documents(c.Data) {
		if !worthReading(doc.Data) {
			continue
		}
		var o Object
		if err := yaml.Unmarshal(doc.Data, &o); err != nil {
			// Others say what is wrong with it.
			return
		}
		for _, o := range unlist(o) {
			if k := keyOf(o); k.Name != "" && Wants(k.Kind, document.Strings(o, "metadata", "labels")) {
				now = append(now, o)
			}
		}
	}
	f.mu.Lock()
	before := f.held[c.Path]
	delete(f.held, c.Path)
	seen := map[Key]bool{}
	for _, o := range now {
		k := keyOf(o)
		if other, taken := f.files[k]; taken && other != c.Path {
			// The first that had it keeps it, as in the rest of the control plane.
			continue
		}
		f.files[k] = c.Path
		f.held[c.Path] = append(f.held[c.Path], k)
		seen[k] = true
	}
	var gone []Key
	for _, k := range before {
		if !seen[k] && f.files[k] == c.Path {
			delete(f.files, k)
			gone = append(gone, k)
		}
	}
	f.mu.Unlock()
	for _, o := range now {
		if seen[keyOf(o)] {
			r.Put(o)
		}
	}
	for _, k := range gone {
		r.Remove(k)
	}
}

// worthReading tells cheaply most documents that are of no use here. Pods and Services are many.
func worthReading(doc []byte) bool {
	if bytes.Contains(doc, []byte("kind: Pod\n")) {
		return bytes.Contains(doc, []byte(mesh.LabelGatewayName))
	}
	for _, kind := range []string{"Gateway", kindListenerSet, "ConfigMap", "Namespace", "ServiceAccount", "Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "List", "Pod"} {
		if bytes.Contains(doc, []byte(kind)) {
			return true
		}
	}
	return false
}

// unlist returns the members of a List, or the object itself. Namespaced objects without a namespace are in "default".
func unlist(o Object) []Object {
	if !strings.HasSuffix(document.Text(o, "kind"), "List") {
		switch document.Text(o, "kind") {
		case "GatewayClass", "Namespace":
		default:
			if meta, ok := o["metadata"].(map[string]any); ok && document.Text(meta, "namespace") == "" {
				meta["namespace"] = "default"
			}
		}
		return []Object{o}
	}
	var list []Object
	for _, m := range document.Items(o, "items") {
		list = append(list, unlist(m)...)
	}
	return list
}

func (f *Folder) fileOf(k Key) (string, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	file, ok := f.files[k]
	return file, ok
}

// annotationRendered keeps what was rendered last, so that what is no longer rendered can be told from what others added.
const annotationRendered = "lab.ambit.io/rendered"

// Apply implements Applier.
func (f *Folder) Apply(ctx context.Context, o Object) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	data, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	o, err = fresh(data)
	if err != nil {
		return err
	}
	k := keyOf(o)
	file, known := f.fileOf(k)
	if !known {
		file = path.Join(f.dir, fileName(k))
	}
	err = folder.Edit(f.root, file, func(stored map[string]any) (map[string]any, error) {
		if keyOf(stored) != k {
			return nil, fmt.Errorf("it holds %s", keyOf(stored))
		}
		var last Object
		if text := document.Strings(stored, "metadata", "annotations")[annotationRendered]; text != "" {
			// Somebody may have spoiled it; then what was dropped stays.
			_ = json.Unmarshal([]byte(text), &last)
		}
		merged := overlay(stored, o, last)
		annotate(merged, string(data))
		return merged, nil
	})
	if errors.Is(err, folder.ErrNotFound) {
		annotate(o, string(data))
		var text []byte
		if text, err = yaml.Marshal(o); err == nil {
			err = folder.Write(f.root, file, text)
		}
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}

func fresh(data []byte) (Object, error) {
	var o Object
	if err := json.Unmarshal(data, &o); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return o, nil
}

func annotate(o Object, rendered string) {
	meta, _ := o["metadata"].(map[string]any)
	if meta == nil {
		return
	}
	a, _ := meta["annotations"].(map[string]any)
	if a == nil {
		a = map[string]any{}
		meta["annotations"] = a
	}
	a[annotationRendered] = rendered
}

// overlay is stored with the fields of o over its own and without those that last had and o has not. Lists are whole.
func overlay(stored, o, last Object) Object {
	out := clone(stored)
	for k := range last {
		if _, still := o[k]; !still {
			delete(out, k)
		}
	}
	for k, v := range o {
		m, isMap := v.(map[string]any)
		s, wasMap := out[k].(map[string]any)
		if isMap && wasMap {
			l, _ := last[k].(map[string]any)
			out[k] = overlay(s, m, l)
			continue
		}
		out[k] = v
	}
	return out
}

// fileName is the name of an object's file, the same that labs give to theirs.
func fileName(k Key) string {
	n := k.Name
	if k.Namespace != "" {
		n = k.Namespace + "_" + n
	}
	return strings.ToLower(k.Kind) + "_" + n + ".yaml"
}

// Delete implements Applier. Only a file with nothing else in it is removed.
func (f *Folder) Delete(ctx context.Context, k Key) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	file, ok := f.fileOf(k)
	if !ok {
		return nil
	}
	err := folder.Edit(f.root, file, func(stored map[string]any) (map[string]any, error) {
		if keyOf(stored) != k || !ours(document.Strings(stored, "metadata", "labels")[mesh.LabelGatewayManaged]) {
			return stored, nil
		}
		return nil, nil
	})
	if err != nil && !errors.Is(err, folder.ErrNotFound) {
		return fmt.Errorf("delete %s from %s: %w", k, file, err)
	}
	return nil
}

// SetStatus implements Applier.
func (f *Folder) SetStatus(ctx context.Context, k Key, uid string, change func(old Object) Object) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	file, ok := f.fileOf(k)
	if !ok {
		return nil
	}
	err := folder.Edit(f.root, file, func(stored map[string]any) (map[string]any, error) {
		if !alone(stored, k) || document.Text(stored, "metadata", "uid") != uid {
			return stored, nil
		}
		old, _ := stored["status"].(map[string]any)
		out := clone(stored)
		out["status"] = change(old)
		return out, nil
	})
	if err != nil && !errors.Is(err, folder.ErrNotFound) {
		return fmt.Errorf("write the status of %s into %s: %w", k, file, err)
	}
	return nil
}

// alone says whether a document is the object itself, not a List with it.
func alone(doc Object, k Key) bool {
	list := unlist(doc)
	return len(list) == 1 && keyOf(list[0]) == k && keyOf(doc) == k
}

// Update changes an object's document as a whole; see package conditions. An object that does not stand alone in a file,
// under the name that files of the mesh have or one that this package has read, cannot be changed.
func (f *Folder) Update(ctx context.Context, k Key, change func(Object) Object) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	file, ok := f.fileOf(k)
	if !ok {
		file = path.Join(f.dir, fileName(k))
	}
	err := folder.Edit(f.root, file, func(stored map[string]any) (map[string]any, error) {
		if !alone(stored, k) {
			return nil, fmt.Errorf("it holds %s", keyOf(stored))
		}
		return change(stored), nil
	})
	if errors.Is(err, folder.ErrNotFound) {
		return fmt.Errorf("%s: %w", k, fs.ErrNotExist)
	}
	return err
}
