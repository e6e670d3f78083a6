// Package file makes a folder of ordinary Kubernetes YAML a source of configuration: it watches the folder, reads what
// changes and tells a sink, as a cluster's API server would.
//
// What is refused never reaches the sink, so the last good version of an object stays in force; so do objects that seem
// to be missing from a file that cannot be read to its end. It does not know what objects mean. Run works on its
// caller's goroutine and, while it reads many files, on a few more that it waits for. Start reading at Source.Run.
package file

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/api/folder"
	"github.com/ambit-mesh/ambit/control/intake"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// Config of a Source. Root, Sink and Status are required.
type Config struct {
	Root   string
	Sink   object.Sink
	Status *status.Registry
	Limits intake.Limits
	// ClusterDomain completes short names of hosts; "cluster.local" when it is empty.
	ClusterDomain string
	// Keep is a folder of the source's own, where it notes what is in force of files with policies in them. A policy that
	// is refused then also keeps its last good version over a restart. Without it, that version is gone: whoever it kept
	// out gets in.
	Keep string
	// Folder tunes the watch; its Chunk and Synced are the source's own.
	Folder folder.Options
	// Logger hears about refusals, once each; nil means silence.
	Logger *slog.Logger
}

// Source reads one folder.
type Source struct {
	cfg Config
	log *slog.Logger
	dec *intake.Decoder
	// kept is owned by Run; nil without Config.Keep.
	kept *keep

	// synced is owned by Run.
	synced bool

	mu     sync.Mutex
	stats  Stats   // guarded by mu
	ledger *ledger // changed by Run under mu, which reads it without
}

// New returns a source; it does nothing until Run.
func New(cfg Config) *Source {
	s := &Source{cfg: cfg, log: cfg.Logger, dec: intake.NewDecoder(cfg.Limits, intake.ClusterDomain(cfg.ClusterDomain)), ledger: newLedger()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if cfg.Keep != "" {
		s.kept = &keep{root: cfg.Keep, log: s.log}
	}
	return s
}

// chunkBytes bounds how much of the folder is in memory at once while it is first read.
const chunkBytes = 8 << 20

// Run watches the folder until the context ends, which returns nil. The sink gets the complete initial state, in several
// batches if it is large, then Synced, then changes.
func (s *Source) Run(ctx context.Context) error {
	opts := s.cfg.Folder
	opts.Chunk = chunkBytes
	if opts.MaxSize == 0 && s.cfg.Limits.Bytes > 0 {
		opts.MaxSize = int64(s.cfg.Limits.Bytes)
	}
	if opts.Logger == nil {
		opts.Logger = s.log
	}
	if s.kept != nil {
		if err := s.kept.open(); err != nil {
			return fmt.Errorf("open the folder of last good versions: %w", err)
		}
	}
	start := time.Now()
	opts.Synced = func() error {
		refused, warnings := s.cfg.Status.Counts()
		st := s.Stats()
		s.log.Info("the folder is read", "path", s.cfg.Root, "files", st.Files, "objects", st.Objects, "refused", refused, "warnings", warnings, "dur", time.Since(start))
		s.synced = true
		if s.kept != nil {
			s.kept.prune(func(path string) bool { return s.ledger.files[path] != nil })
		}
		s.cfg.Sink.Synced()
		return nil
	}
	err := folder.Watch(ctx, s.cfg.Root, opts, func(changes []folder.Change) error {
		s.apply(changes)
		return nil
	})
	if err != nil {
		return fmt.Errorf("watch the configuration: %w", err)
	}
	return nil
}

// Stats says what a source holds.
type Stats struct {
	Files   int `json:"files"`
	Objects int `json:"objects"`
	// Ignored counts documents of kinds the mesh does not read, by kind.
	Ignored map[string]int `json:"ignored"`
}

// Stats may be called at any time, from any goroutine.
func (s *Source) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// apply takes one batch of changes to the sink.
func (s *Source) apply(changes []folder.Change) {
	read := s.read(changes)
	if s.kept != nil && !s.synced {
		s.recall(read)
	}
	s.mu.Lock()
	out := s.ledger.apply(read)
	s.mu.Unlock()
	for _, f := range out.files {
		s.tell(f.before, f.now)
		s.cfg.Status.Set("file/"+f.path, f.now...)
	}
	s.mu.Lock()
	s.stats = Stats{Files: len(s.ledger.files), Objects: len(s.ledger.claims), Ignored: maps.Clone(s.ledger.ignored)}
	s.mu.Unlock()
	if len(out.events) > 0 {
		s.cfg.Sink.Apply(out.events)
	}
	if s.kept != nil {
		s.retain(read)
	}
}

// tell logs what is new about a file.
func (s *Source) tell(before, now []status.Entry) {
	said := make(map[status.Entry]bool, len(before))
	for _, e := range before {
		e.Line = 0
		said[e] = true
	}
	for _, e := range now {
		text := e.String()
		if e.Line = 0; said[e] {
			continue
		}
		level := slog.LevelWarn
		if e.Severity == status.Refused {
			level = slog.LevelError
		}
		s.log.Log(context.Background(), level, text)
	}
}

// reading is one changed file and what was read from it.
type reading struct {
	path    string
	removed bool
	err     error
	size    int
	newline bool // the last line is complete
	// when the file's new objects came to be as far as one can tell, in Unix nanoseconds
	when int64
	docs []intake.Document
}

// Place says in which file, and on which line of it, an object in force is written; "" when the folder has no such object.
// It may be called at any time, from any goroutine.
func (s *Source) Place(key object.Key) (path string, line int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ledger.place(key)
}

// since is when new objects of a file came to be: now, or at the start when the file was last written, so that a restart
// keeps their order.
func (s *Source) since(path string) int64 {
	if !s.synced {
		if st, err := os.Stat(filepath.Join(s.cfg.Root, filepath.FromSlash(path))); err == nil {
			return st.ModTime().UnixNano()
		}
	}
	return time.Now().UnixNano()
}

// read decodes files, several at a time when there are many: at the start reading is all there is to do.
func (s *Source) read(changes []folder.Change) []reading {
	out := make([]reading, len(changes))
	one := func(i int) {
		c := changes[i]
		out[i] = reading{path: c.Path, removed: c.Removed, err: c.Err, size: len(c.Data), newline: bytes.HasSuffix(c.Data, []byte("\n")), when: s.since(c.Path)}
		if !c.Removed && c.Err == nil {
			out[i].docs = s.dec.File(c.Path, c.Data, s.ledger.known(c.Path))
		}
	}
	workers := min(runtime.GOMAXPROCS(0), len(changes)/16)
	if workers < 2 {
		for i := range changes {
			one(i)
		}
		return out
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < len(changes); i += workers {
				one(i)
			}
		})
	}
	wg.Wait()
	return out
}
