package wasm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
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
