package admin

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
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

func TestRefusal(t *testing.T) {
	answer := "the mesh knows no \"x\""
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Error(w, answer, http.StatusNotFound) }))
	defer srv.Close()
	e := Endpoint{What: "ztunnel of node1", Address: strings.TrimPrefix(srv.URL, "http://")}
	_, err := e.Get(t.Context(), "/explain")
	if err == nil || err.Error() != "ztunnel of node1: the mesh knows no \"x\"" {
		t.Error(err)
	}
	answer = "404 page not found"
	if _, err = e.Get(t.Context(), "/explain"); err == nil || !strings.Contains(err.Error(), "refuses GET /explain: 404 Not Found") {
		t.Error(err)
	}
}
