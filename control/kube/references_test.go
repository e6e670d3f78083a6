package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/rest"

	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// slow is an API server that takes its time to give Secrets, by their names; it never gives others.
type slow map[string]time.Duration

func (s slow) RoundTrip(r *http.Request) (*http.Response, error) {
	name := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	d, ok := s[name]
	if !ok {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	select {
	case <-time.After(d):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if d < 0 {
		return nil, errors.New("away")
	}
	body := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": %q, "namespace": "shop"}, "type": "kubernetes.io/tls", "data": {"tls.crt": "", "tls.key": ""}}`, name)
	return &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

// batches remembers what came together.
type batches struct{ all []string }

func (b *batches) Synced() {}
func (b *batches) Apply(events []object.Event) {
	var names []string
	for _, e := range events {
		names = append(names, e.Key.String())
	}
	b.all = append(b.all, strings.Join(names, ", "))
}

// TestSecretsComeWithWhoNamesThem: a listener and the Secret it is the first to name come together, unless the Secret takes
// long; and nothing that is queued meanwhile waits for longer than one batch may.
func TestSecretsComeWithWhoNamesThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cluster, err := NewCluster(&rest.Config{Host: "http://api", Transport: slow{"quick": 300 * time.Millisecond, "other": 400 * time.Millisecond, "broken": -1}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := &batches{}
		s := NewSource(SourceConfig{Cluster: cluster, Sink: got, Status: status.New(), Secrets: Spaces{"*"}})
		defer s.fetches.Wait()
		defer cancel()
		flush := func(synced bool) time.Duration {
			start := time.Now()
			s.flush(ctx, synced)
			return time.Since(start)
		}
		names := func(name string, secrets ...string) {
			var refs []object.Ref
			for _, s := range secrets {
				refs = append(refs, object.Ref{Kind: "Secret", Namespace: "shop", Name: s})
			}
			s.emit(object.Put(&object.Gateway{Meta: object.Meta{Namespace: "shop", Name: name}, Listeners: []object.Listener{{Certificates: refs}}}))
		}
		for _, name := range []string{"quick", "other", "broken", "stuck", "stuck2"} {
			s.emit(object.Put(&object.Secret{Meta: object.Meta{Namespace: "shop", Name: name}}))
		}
		if d := flush(true); d != 0 {
			t.Errorf("a batch that names nothing waited %s", d)
		}
		names("a", "quick")
		if d := flush(true); d != 300*time.Millisecond {
			t.Errorf("waited %s for a Secret that took 300 ms", d)
		}
		names("b", "broken")
		if d := flush(true); d != 0 {
			t.Errorf("waited %s for a Secret that cannot be read", d)
		}
		// What is queued while others wait has the rest of the time.
		names("c", "other")
		time.AfterFunc(100*time.Millisecond, func() { names("d", "stuck") })
		if d := flush(true) + flush(true); d != fetchWait {
			t.Errorf("one batch waited for two, for %s", d)
		}
		names("e", "stuck2")
		if d := flush(true); d != fetchWait {
			t.Errorf("waited %s for a Secret that does not come", d)
		}
		names("f")
		if d := flush(true); d != 0 {
			t.Errorf("waited %s for a flight of another batch", d)
		}
		want := []string{
			"Gateway shop/a, Secret shop/quick", "Gateway shop/b", "Gateway shop/c, Secret shop/other", "Gateway shop/d", "Gateway shop/e", "Gateway shop/f",
		}
		if !slices.Equal(got.all, want) {
			t.Errorf("got %q", got.all)
		}
	})
}
