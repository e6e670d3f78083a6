package file

import (
	"bytes"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/ambit-mesh/ambit/api/folder"
	"github.com/ambit-mesh/ambit/control/intake"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// keep is a folder with what is in force of every file that holds policies, under the file's own name. The ledger
// remembers no YAML, and the file itself has been overwritten by what is refused: without a note elsewhere, the last good
// version of a policy would end with the process, and a typing error would open a door at the next restart.
type keep struct {
	root string
	log  *slog.Logger
	have map[string]bool // the files there are notes of
}

// open finds the notes of earlier runs.
func (k *keep) open() error {
	if err := os.MkdirAll(k.root, 0o700); err != nil {
		return err
	}
	k.have = make(map[string]bool)
	return filepath.WalkDir(k.root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)) {
			return err
		}
		rel, err := filepath.Rel(k.root, name)
		k.have[filepath.ToSlash(rel)] = true
		return err
	})
}

// load is the note about a file; nil without one.
func (k *keep) load(path string) []byte {
	if !k.have[path] {
		return nil
	}
	data, err := folder.Read(k.root, path)
	if err != nil {
		k.log.Error("a last good version cannot be read", "path", path, "err", err)
	}
	return data
}

func (k *keep) save(path string, data []byte) {
	if k.have[path] && bytes.Equal(k.load(path), data) {
		return
	}
	if err := folder.Write(k.root, path, data); err != nil {
		k.log.Error("what is in force cannot be noted: make room in --state-dir, or a restart may lose it", "path", path, "err", err)
		return
	}
	k.have[path] = true
}

func (k *keep) drop(path string) {
	if !k.have[path] {
		return
	}
	delete(k.have, path)
	if err := folder.Remove(k.root, path); err != nil {
		k.log.Warn("a note about a file that is gone stays behind", "path", path, "err", err)
	}
}

// prune removes the notes about files that went while nobody watched.
func (k *keep) prune(exists func(path string) bool) {
	for path := range k.have {
		if !exists(path) {
			k.drop(path)
		}
	}
}

// recall puts in force again what an earlier run had in force of files that are refused now, before these are taken in:
// to the ledger it is as if the process had never ended.
func (s *Source) recall(read []reading) {
	var earlier []reading
	for _, r := range read {
		if s.ledger.files[r.path] != nil || r.removed || r.err == nil && !troubled(r.docs) {
			continue
		}
		if data := s.kept.load(r.path); data != nil {
			s.log.Warn("the last good version from before the restart stays in force", "path", r.path)
			earlier = append(earlier, reading{path: r.path, size: len(data), newline: true, when: r.when, docs: s.dec.File(r.path, data, nil)})
		}
	}
	if len(earlier) == 0 {
		return
	}
	s.mu.Lock()
	out := s.ledger.apply(earlier)
	s.mu.Unlock()
	if len(out.events) > 0 {
		s.cfg.Sink.Apply(out.events)
	}
}

// troubled reports whether anything in a file is refused.
func troubled(docs []intake.Document) bool {
	return slices.ContainsFunc(docs, func(d intake.Document) bool {
		return d.Broken || slices.ContainsFunc(d.Items, func(it intake.Item) bool {
			return slices.ContainsFunc(it.Entries, func(e status.Entry) bool { return e.Severity == status.Refused })
		})
	})
}

// retain notes what is in force of the files of a batch.
func (s *Source) retain(read []reading) {
	for _, r := range read {
		rec := s.ledger.files[r.path]
		switch {
		case rec == nil || !slices.ContainsFunc(rec.held, holding.guards):
			s.kept.drop(r.path)
		case r.err == nil:
			s.kept.save(r.path, s.inForce(r, rec))
		}
	}
}

// guards reports whether something is let in when the object goes.
func (h holding) guards() bool {
	switch h.key.Kind {
	case object.KindAuthorizationPolicy, object.KindPeerAuthentication, object.KindRequestAuthentication, object.KindNetworkPolicy,
		object.KindLocalRateLimitPolicy, object.KindExtensionPolicy, object.KindWasmPlugin, object.KindTrafficExtension,
		object.KindBackendTLSPolicy, object.KindDestinationRule: // the last two: with which TLS something is talked to
		return true
	}
	return false
}

// inForce is the text of what a file has in force: its own documents, and before them, out of the last note, those whose
// new version is refused.
func (s *Source) inForce(r reading, rec *record) []byte {
	there := make(map[intake.Sum]bool, len(r.docs))
	for _, d := range r.docs {
		there[d.Sum] = true
	}
	used, older := make(map[intake.Sum]bool), make(map[object.Key]bool)
	for _, h := range rec.held {
		if there[h.sum] {
			used[h.sum] = true
		} else {
			older[h.key] = true
		}
	}
	var out bytes.Buffer
	add := func(d intake.Document) {
		out.WriteString("---\n")
		out.Write(bytes.Trim(d.Data, "\r\n"))
		out.WriteByte('\n')
	}
	if len(older) > 0 {
		for _, d := range s.dec.File(r.path, s.kept.load(r.path), nil) {
			if slices.ContainsFunc(d.Items, func(it intake.Item) bool { return it.Object != nil && older[it.Key] }) {
				add(d)
			}
		}
	}
	for _, d := range r.docs {
		if used[d.Sum] {
			add(d)
		}
	}
	return out.Bytes()
}
