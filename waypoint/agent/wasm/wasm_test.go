package wasm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var code = []byte("\x00asm\x01\x00\x00\x00")

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func start(t *testing.T) *Store {
	t.Helper()
	s := New(t.TempDir(), slog.New(slog.DiscardHandler))
	s.client.Transport = transport(func(netip.Addr) error { return nil }) // test servers are on loopback
	return run(t, s)
}

func run(t *testing.T, s *Store) *Store {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		s.client.CloseIdleConnections()
	})
	return s
}

// await asks for a module until there is news of it.
func await(t *testing.T, s *Store, key Key) (string, error) {
	t.Helper()
	if _, err := s.File(key.URL, key.SHA256); err == nil {
		t.Fatal("there before it was fetched")
	}
	select {
	case <-s.News():
	case <-time.After(20 * time.Second):
		t.Fatal("no news")
	}
	if got := s.Take(); len(got) != 1 || got[0] != key {
		t.Fatalf("news of %v", got)
	}
	return s.File(key.URL, key.SHA256)
}

func TestModules(t *testing.T) {
	var down atomic.Bool
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case down.Load():
			http.Error(w, "down", 500)
		case r.URL.Path == "/text":
			w.Write([]byte("hello"))
		default:
			w.Write(code)
		}
	}))
	defer srv.Close()
	file := filepath.Join(t.TempDir(), "m.wasm")
	if err := os.WriteFile(file, code, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]Key{
		"http": {srv.URL + "/m", sum(code)}, "without a hash": {srv.URL + "/m", ""}, "prefixed hash": {srv.URL + "/m", "sha256:" + sum(code)},
		"file": {"file://" + file, sum(code)},
	} {
		path, err := await(t, start(t), key)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != string(code) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for want, key := range map[string]Key{
		"not " + strings.Repeat("0", 64): {srv.URL + "/m", strings.Repeat("0", 64)},
		"no Wasm module":                 {srv.URL + "/text", ""},
		"not supported":                  {"oci://registry/m", ""},
		"no such file":                   {"file:///nowhere", ""},
	} {
		if _, err := await(t, start(t), key); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", key, err, want)
		}
	}

	// What failed is tried again.
	down.Store(true)
	s := start(t)
	key := Key{srv.URL + "/m", ""}
	if _, err := await(t, s, key); err == nil || !strings.Contains(err.Error(), "500") {
		t.Errorf("while the server is down: %v", err)
	}
	down.Store(false)
	select {
	case <-s.News():
	case <-time.After(20 * time.Second):
		t.Fatal("not tried again")
	}
	if _, err := s.File(key.URL, key.SHA256); err != nil {
		t.Error(err)
	}
}

// TestNotOurs: a module's URL finds out nothing about the pod it is fetched in: neither by an address, nor a name, nor a
// redirect, nor a file that is no module.
func TestNotOurs(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(code) }))
	defer srv.Close()
	dir := t.TempDir()
	secret, pipe := filepath.Join(dir, "secret"), filepath.Join(dir, "pipe")
	if err := os.WriteFile(secret, []byte("password"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	port := srv.URL[strings.LastIndexByte(srv.URL, ':')+1:]
	for _, url := range []string{
		srv.URL, "http://localhost:" + port, "http://[::ffff:127.0.0.1]:" + port, "http://0.0.0.0:" + port, "http://169.254.169.254/latest",
		"file://" + pipe, "file:///dev/zero", "file://" + dir,
	} {
		s := run(t, New(t.TempDir(), slog.New(slog.DiscardHandler)))
		if path, err := await(t, s, Key{url, ""}); err == nil {
			t.Errorf("%s: %s", url, path)
		}
	}
	s := run(t, New(t.TempDir(), slog.New(slog.DiscardHandler)))
	if _, err := await(t, s, Key{"file://" + secret, strings.Repeat("0", 64)}); err == nil || strings.Contains(err.Error(), sum([]byte("password"))) {
		t.Errorf("a file that is no module: %v", err)
	}
	for _, a := range []string{"203.0.113.7", "10.0.0.1", "2001:db8::1"} {
		if err := notOurs(netip.MustParseAddr(a)); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
}
