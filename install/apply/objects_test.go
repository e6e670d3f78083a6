package apply

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
)

// TestUnanswered: whoever asks first, an API server that is away, strange, or does not know us is told of with what to do.
func TestUnanswered(t *testing.T) {
	denied := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }))
	defer denied.Close()
	strange := httptest.NewTLSServer(http.NotFoundHandler())
	defer strange.Close()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for url, want := range map[string][]string{
		gone.URL:    {"the API server " + gone.URL + " does not answer: dial tcp", `see "kubectl cluster-info"`},
		strange.URL: {"the API server is not the one of the kubeconfig: ", "x509"},
		denied.URL:  {"does not know who we are", "may have expired"},
	} {
		c, err := New(&rest.Config{Host: url})
		if err != nil {
			t.Fatal(err)
		}
		for what, ask := range map[string]func(context.Context) error{
			"version": func(ctx context.Context) error { _, err := c.ServerVersion(ctx); return err },
			"record":  func(ctx context.Context) error { _, err := c.Record(ctx, mesh); return err },
			"apply": func(ctx context.Context) error {
				_, err := c.Put(ctx, Object{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": mesh}}, false)
				return err
			},
		} {
			err := ask(t.Context())
			for _, w := range want {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("%s: %v\nhas no %q", what, err, w)
				}
			}
		}
	}
}

// TestManifestFrom: definitions that the cluster is to have come from a file, or from somebody who can prove who he is.
func TestManifestFrom(t *testing.T) {
	for from, want := range map[string]string{"http://example.com/x.yaml": "give an https URL, or a file", "file:///x": "give an https URL", "/nowhere/x.yaml": "no such file"} {
		if _, err := read(t.Context(), from); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", from, err, want)
		}
	}
}
