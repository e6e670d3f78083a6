package folder

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Watch reads the folder and then tells what changes in it, until the context ends; that returns nil. fn is called on
// Watch's goroutine, first with everything, if need be with an empty list, then with each batch of changes. An error of
// fn ends Watch.
//
// The kernel's notifications make it prompt and a complete look now and then makes it certain. When the folder itself
// disappears nothing is taken back: somebody is replacing it, and the mesh must not forget its configuration meanwhile.
// Files that are gone when it reappears are then reported.
func Watch(ctx context.Context, root string, opts Options, fn func([]Change) error) error {
	w := &watcher{root: root, opts: opts.withDefaults(), fn: fn, dirty: make(map[string]pending)}
	w.tree = newTree(w.opts)
	w.tree.emit = w.add
	if err := w.tree.open(root); err != nil {
		return fmt.Errorf("open folder %s: %w; create it or name another one", root, err)
	}
	defer w.tree.close()
	// Without notifications (the system's limit on instances is reached, say) rescans alone still work.
	notify, err := fsnotify.NewBufferedWatcher(4096)
	if err != nil {
		w.opts.Logger.Warn("changes are found by looking every few seconds, because the kernel gives no notifications; raise fs.inotify.max_user_instances", "err", err)
		w.opts.Rescan = min(w.opts.Rescan, 2*time.Second)
		notify = &fsnotify.Watcher{}
	} else {
		defer notify.Close()
		w.notify = notify
		w.tree.watchDir = w.watchDir
		w.tree.unwatchDir = func(abs string) { notify.Remove(abs) } // already gone with the directory, most of the time
	}
	if err := w.initial(); err != nil {
		return err
	}
	return w.run(ctx, notify.Events, notify.Errors)
}

// Scan reads the folder once.
func Scan(root string, opts Options) ([]Change, error) {
	var all []Change
	t := newTree(opts.withDefaults())
	t.emit = func(c Change) error { all = append(all, c); return nil }
	err := t.open(root)
	if err == nil {
		defer t.close()
		err = t.scan()
	}
	if err != nil {
		return nil, fmt.Errorf("read folder %s: %w", root, err)
	}
	return all, nil
}

// maxPending is how long a file that is written in place without pause stays unread.
const maxPending = time.Second

// goneRetry is the time between two looks for a folder that has disappeared.
const goneRetry = 250 * time.Millisecond

// pending is a path that was notified and not yet looked at.
type pending struct {
	first, due time.Time
}

type watcher struct {
	root   string
	opts   Options
	fn     func([]Change) error
	tree   *tree
	notify *fsnotify.Watcher // nil without notifications

	batch []Change
	bytes int64

	dirty   map[string]pending
	renamed bool // the last notification was the first half of a rename
	rescan  bool // a complete look is due with the next flush
	gone    bool // the root has disappeared
	limited bool // the kernel refused a watch and we said so
}

func (w *watcher) initial() error {
	if err := w.tree.scan(); err != nil {
		return err
	}
	if err := w.deliver(true); err != nil {
		return err
	}
	return w.opts.Synced()
}

// add collects a change and hands over a full chunk.
func (w *watcher) add(c Change) error {
	w.batch = append(w.batch, c)
	w.bytes += int64(len(c.Data))
	if w.bytes >= w.opts.Chunk {
		return w.deliver(false)
	}
	return nil
}

func (w *watcher) deliver(always bool) error {
	if len(w.batch) == 0 && !always {
		return nil
	}
	batch := w.batch
	w.batch, w.bytes = nil, 0
	return w.fn(batch)
}

func (w *watcher) watchDir(abs string) {
	err := w.notify.Add(abs)
	if err == nil || w.limited || errors.Is(err, fsnotify.ErrClosed) {
		return
	}
	w.limited = true
	w.opts.Rescan = min(w.opts.Rescan, 2*time.Second)
	w.opts.Logger.Warn("some changes are found by looking every few seconds, because the kernel refuses a watch; raise fs.inotify.max_user_watches", "path", abs, "err", err)
}

func (w *watcher) run(ctx context.Context, events <-chan fsnotify.Event, errs <-chan error) error {
	flush := time.NewTimer(time.Hour)
	defer flush.Stop()
	rescan := time.NewTimer(w.opts.Rescan)
	defer rescan.Stop()
	var armed time.Time // when flush fires; zero when it need not
	for {
		var due time.Time // of what this turn brought
		select {
		case <-ctx.Done():
			return nil
		case ev := <-events:
			due = w.note(ev, time.Now())
		case err := <-errs:
			// The queue overflowed or reading it failed: either way something may have been missed.
			w.opts.Logger.Warn("notifications were lost, looking at everything", "err", err)
			w.rescan, due = true, time.Now().Add(w.opts.Settle)
		case <-rescan.C:
			w.rescan, due = true, time.Now()
			rescan.Reset(w.opts.Rescan)
		case <-flush.C:
			if err := w.flush(time.Now()); err != nil {
				return err
			}
			armed, due = time.Time{}, w.next()
		}
		if !due.IsZero() && (armed.IsZero() || due.Before(armed)) {
			armed = due
			flush.Reset(max(0, time.Until(due)))
		}
	}
}

// note remembers what an event is about and returns when to look at it; zero if never.
func (w *watcher) note(ev fsnotify.Event, now time.Time) (due time.Time) {
	// A rename is two notifications in a row: the old name goes, the new one comes. What comes that way is complete.
	complete := w.renamed && ev.Has(fsnotify.Create)
	w.renamed = ev.Has(fsnotify.Rename)
	if ev.Name == "" {
		return due
	}
	rel, err := filepath.Rel(w.tree.base, ev.Name)
	if err != nil {
		return due
	}
	rel = filepath.ToSlash(rel)
	switch name := filepath.Base(rel); {
	case rel == "." || strings.HasPrefix(name, "..") && name != "..":
		// The root itself, or the link that Kubernetes swaps to replace the content of a mounted ConfigMap at once.
		w.rescan = true
		return now.Add(w.opts.Settle)
	case strings.HasPrefix(name, "."):
		return due
	case !wanted(rel) && !w.tree.dirs[rel] && !ev.Has(fsnotify.Create):
		return due
	}
	p, known := w.dirty[rel]
	if !known {
		p.first = now
	}
	switch {
	case complete && wanted(rel):
		p.due = now
	case ev.Has(fsnotify.Write):
		// Written in place: wait until the writer pauses, else we would read half a file and complain about it.
		p.due = minTime(now.Add(5*w.opts.Settle), p.first.Add(maxPending))
	case !known, ev.Has(fsnotify.Create):
		p.due = now.Add(w.opts.Settle)
	}
	w.dirty[rel] = p
	return p.due
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// next is when the earliest of what remains is due.
func (w *watcher) next() (at time.Time) {
	if w.gone {
		return time.Now().Add(goneRetry)
	}
	for _, p := range w.dirty {
		if at.IsZero() || p.due.Before(at) {
			at = p.due
		}
	}
	return at
}

// flush looks at what is due and hands over what changed.
func (w *watcher) flush(now time.Time) error {
	if w.rescan || w.gone || !w.tree.same() {
		if err := w.scanAll(); err != nil {
			return err
		}
		return w.deliver(false)
	}
	var due []string
	for rel, p := range w.dirty {
		if !p.due.After(now) {
			due = append(due, rel)
			delete(w.dirty, rel)
		}
	}
	slices.Sort(due)
	for _, rel := range due {
		if err := w.tree.visit(rel); err != nil {
			return err
		}
	}
	return w.deliver(false)
}

func (w *watcher) scanAll() error {
	if err := w.tree.open(w.root); err != nil {
		if !w.gone {
			w.opts.Logger.Warn("the folder has disappeared, its last content stays in force until it is back", "path", w.root, "err", err)
		}
		w.gone, w.rescan = true, false
		return nil
	}
	if w.gone {
		w.opts.Logger.Info("the folder is back", "path", w.root)
	}
	w.gone, w.rescan = false, false
	clear(w.dirty)
	return w.tree.scan()
}
