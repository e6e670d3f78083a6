// Package bugreport writes what was gathered about a mesh into one archive that can be handed on: bounded in size and time,
// without secrets, and complete in that it names what could not be had.
//
// It knows archives, bounds and what secrets look like. What is gathered, and from whom, is the caller's. Goroutines it starts
// end before Write returns. Start reading at Write, then Redact.
package bugreport

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// Item is one file of the report.
type Item struct {
	// Path is the file's name in the archive.
	Path string
	// Get writes the file. What it wrote before an error is kept.
	Get func(ctx context.Context, to io.Writer) error
	// End keeps the end of what is too long, as is right for logs; otherwise the start is kept.
	End bool
	// Optional items may be missing without a word: the earlier run of a container that never ended.
	Optional bool
}

// Options bound a report. Zero values mean the defaults.
type Options struct {
	// Root is the folder inside the archive that holds everything.
	Root string
	// Workers is how many items are gathered at once.
	Workers int
	// ItemBytes and TotalBytes bound one file and all of them, before compression.
	ItemBytes, TotalBytes int64
	// Patience bounds the time one item may take.
	Patience time.Duration
	// Now is the time files are said to be of.
	Now time.Time
	// Progress is told before each file is written.
	Progress func(done, all int, path string)
}

// The defaults.
const (
	defaultWorkers    = 4
	defaultItemBytes  = 32 << 20
	defaultTotalBytes = 512 << 20
	defaultPatience   = 30 * time.Second
)

// ErrSaid is wrapped by an error of which the reader has been told by that of another item.
var ErrSaid = errors.New("see above")

// Result is what became of the items.
type Result struct {
	Files int
	// Failed names what could not be had, or not whole, and why, one line each.
	Failed []string
}

// Files that Write adds.
const (
	ErrorsFile = "errors.txt"
	IndexFile  = "index.txt"
)

// Write gathers the items and writes the archive, a gzipped tar, in the items' order. Only an archive that cannot be written is
// an error, and ctx ending: then what was gathered so far is in it.
func Write(ctx context.Context, out io.Writer, items []Item, o Options) (Result, error) {
	o.Workers = cmp.Or(o.Workers, defaultWorkers)
	o.ItemBytes, o.TotalBytes = cmp.Or(o.ItemBytes, defaultItemBytes), cmp.Or(o.TotalBytes, defaultTotalBytes)
	o.Patience, o.Root = cmp.Or(o.Patience, defaultPatience), cmp.Or(o.Root, "report")
	zip := gzip.NewWriter(out)
	w := &writer{Options: o, tar: tar.NewWriter(zip)}
	stop := func() {}
	ctx, stop = context.WithCancel(ctx)
	parts, wait := gather(ctx, items, o)
	var err error
	for i, it := range items {
		p := <-parts[i]
		if o.Progress != nil {
			o.Progress(i, len(items), it.Path)
		}
		if err == nil {
			if err = w.add(it, p); err != nil {
				stop() // nobody can use the rest
			}
		}
		p.release()
	}
	ended := ctx.Err()
	stop()
	wait()
	if err == nil {
		err = w.finish()
	}
	if err = errors.Join(err, w.tar.Close(), zip.Close()); err != nil {
		return w.Result, fmt.Errorf("write the report: %w", err)
	}
	return w.Result, ended
}

// part is what was got of an item.
type part struct {
	data    []byte
	cut     int64 // bytes left out
	err     error
	release func()
}

// gather gets the items, several at once, and at most that many ahead of whoever reads the parts: that bounds memory.
func gather(ctx context.Context, items []Item, o Options) (parts []chan part, wait func()) {
	parts = make([]chan part, len(items))
	for i := range parts {
		parts[i] = make(chan part, 1)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		free := make(chan struct{}, o.Workers)
		for i, it := range items {
			free <- struct{}{} // released by the reader, who reads in the same order
			wg.Go(func() {
				p := get(ctx, it, o)
				p.release = func() { <-free }
				parts[i] <- p
			})
		}
	})
	return parts, wg.Wait
}

func get(ctx context.Context, it Item, o Options) part {
	if err := ctx.Err(); err != nil {
		return part{err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, o.Patience)
	defer cancel()
	b := &bounded{limit: o.ItemBytes, end: it.End}
	err := it.Get(ctx, b)
	if errors.Is(err, errFull) {
		err = nil
	}
	return part{data: Redact(b.bytes()), cut: b.cut, err: err}
}

// errFull stops a source whose start is enough.
var errFull = errors.New("enough")

// bounded keeps the start or the end of what is written to it.
type bounded struct {
	buf   bytes.Buffer
	limit int64
	end   bool
	cut   int64
}

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	if b.end {
		b.buf.Write(p)
		if over := int64(b.buf.Len()) - 2*b.limit; over > 0 { // not at every write
			b.trim()
		}
		return len(p), nil
	}
	room := b.limit - int64(b.buf.Len())
	if int64(len(p)) > room {
		b.buf.Write(p[:max(0, room)])
		b.cut += int64(len(p)) - max(0, room)
		return len(p), errFull
	}
	return b.buf.Write(p)
}

func (b *bounded) trim() {
	if over := int64(b.buf.Len()) - b.limit; over > 0 {
		b.cut += over
		b.buf.Next(int(over))
	}
}

func (b *bounded) bytes() []byte {
	b.trim()
	return b.buf.Bytes()
}

// writer puts parts into the archive.
type writer struct {
	Options
	Result
	tar   *tar.Writer
	total int64
	index []string
}

func (w *writer) add(it Item, p part) error {
	if w.total+int64(len(p.data)) > w.TotalBytes {
		w.failed(it.Path, fmt.Errorf("left out: the report would have more than %d MiB", w.TotalBytes>>20))
		return nil
	}
	if p.err != nil && !it.Optional && !errors.Is(p.err, ErrSaid) {
		w.failed(it.Path, p.err)
	}
	if p.cut > 0 {
		w.failed(it.Path, fmt.Errorf("%d bytes are left out: no file has more than %d MiB", p.cut, w.ItemBytes>>20))
	}
	if len(p.data) == 0 && p.err != nil {
		return nil
	}
	return w.file(it.Path, p.data)
}

func (w *writer) failed(name string, err error) {
	w.Failed = append(w.Failed, name+": "+strings.ReplaceAll(string(Redact([]byte(err.Error()))), "\n", " "))
}

func (w *writer) file(name string, data []byte) error {
	clean := path.Join(w.Root, path.Clean("/"+name))
	if err := w.tar.WriteHeader(&tar.Header{Name: clean, Mode: 0o600, Size: int64(len(data)), ModTime: w.Now, Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err := w.tar.Write(data)
	w.total += int64(len(data))
	w.Files++
	w.index = append(w.index, fmt.Sprintf("%10d  %s", len(data), name))
	return err
}

// finish adds what is missing, and the list of what is there.
func (w *writer) finish() error {
	text := "Everything that was asked for is here.\n"
	if len(w.Failed) > 0 {
		text = strings.Join(w.Failed, "\n") + "\n"
	}
	if err := w.file(ErrorsFile, []byte(text)); err != nil {
		return err
	}
	slices.SortFunc(w.index, func(a, b string) int { return strings.Compare(a[12:], b[12:]) })
	return w.file(IndexFile, []byte(strings.Join(w.index, "\n")+"\n"))
}
