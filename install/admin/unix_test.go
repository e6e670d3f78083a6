package admin

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLongPath asks a socket whose path does not fit into an address.
func TestLongPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 30))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	short, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(short)
	l, err := net.Listen("unix", filepath.Join(short, "x"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) })}
	done := make(chan error)
	go func() { done <- srv.Serve(l) }()
	long := filepath.Join(dir, "admin.sock")
	if err := os.Link(filepath.Join(short, "x"), long); err != nil {
		t.Fatal(err)
	}
	body, err := Endpoint{What: "test", Address: "unix:" + long}.Get(t.Context(), "/")
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := io.ReadAll(body); string(text) != "hello" {
		t.Errorf("answer %q", text)
	}
	body.Close()
	srv.Close()
	<-done
}
