// Package folder treats a directory tree of YAML and JSON files as a small shared store of configuration: several
// processes watch it, several write to it, and a reader never sees half of what a writer of this package wrote.
//
// Writers hold flock on the file .lock in the root and replace files by renaming a finished temporary file over them.
// Files whose name does not end in .yaml, .yml or .json, and everything whose name starts with a dot, are ignored.
// The package does not know what the documents mean. Watch runs on its caller's goroutine. Start reading at Watch.
package folder

import (
	"errors"
	"log/slog"
	"math"
	"time"
)

// MaxFileSize is the largest file a watcher reads, unless Options say otherwise.
const MaxFileSize = 4 << 20

// LockName is the file in the root that writers lock.
const LockName = ".lock"

var (
	// ErrTooLarge is a Change's error for a file beyond the limit.
	ErrTooLarge = errors.New("file is too large")
	// ErrNotFound is returned by Edit and Remove for a file that is not there.
	ErrNotFound = errors.New("no such file")
	// ErrOutside is returned for a path that leads out of the root.
	ErrOutside = errors.New("path leads outside of the folder")
	// ErrNotRegular is a Change's error for a pipe, socket or device with the name of a file.
	ErrNotRegular = errors.New("not a regular file")
	// ErrTooMany is the error of the Change without a path that says that the folder has more files than the limit.
	ErrTooMany = errors.New("the folder has too many files")
)

// Options of Watch. The zero value is usable.
type Options struct {
	// MaxSize bounds each file; 0 means MaxFileSize.
	MaxSize int64
	// MaxFiles bounds how many files are read; 0 means 200,000.
	MaxFiles int
	// Rescan is the time between two complete looks at the folder, which find what notifications missed; 0 means 30 s.
	Rescan time.Duration
	// Settle is how long Watch waits after the first notification before it reads, so that a burst becomes one call;
	// 0 means 10 ms. Later notifications do not extend it, except for a file that is being written in place: that one is
	// read when it has been quiet for five times as long, or after a second. A file that is renamed into place within the
	// folder, as Write does it, is complete and read at once.
	Settle time.Duration
	// Chunk splits what is handed over in one call, so that a large folder need not be in memory at once: a call ends
	// with the file that makes it reach so many bytes. 0 means no splitting.
	Chunk int64
	// Synced, if set, is called once, after the calls that carry the complete initial state.
	Synced func() error
	// Logger hears about trouble with the folder itself; nil means silence.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.MaxSize <= 0 {
		o.MaxSize = MaxFileSize
	}
	if o.MaxFiles <= 0 {
		o.MaxFiles = 200_000
	}
	if o.Rescan <= 0 {
		o.Rescan = 30 * time.Second
	}
	if o.Settle <= 0 {
		o.Settle = 10 * time.Millisecond
	}
	if o.Chunk <= 0 {
		o.Chunk = math.MaxInt64
	}
	if o.Synced == nil {
		o.Synced = func() error { return nil }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Change says what a file is now.
type Change struct {
	// Path is relative to the root, with forward slashes. Empty when Err is about the folder, or Removed takes that back.
	Path string
	// Data is the file's content; nil when Removed or Err is set.
	Data []byte
	// Removed is set when the file is gone.
	Removed bool
	// Err is set when the file is there but cannot be used: it is too large, unreadable, or a symbolic link out of the root.
	Err error
}
