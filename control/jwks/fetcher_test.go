package jwks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const goodKeys = `{"keys":[{"kty":"RSA","n":"abc","e":"AQAB","kid":"one"}]}`

// names is a resolver whose answers may change from one question to the next.
type names map[string][]string

func (n names) LookupHost(_ context.Context, host string) ([]string, error) {
	if a, ok := n[host]; ok {
		return a, nil
	}
	return nil, fmt.Errorf("no such host %s", host)
}

// world is a Fetcher whose every permitted connection ends at one test server.
type world struct {
	*Fetcher
	dialed  chan string
	updates chan Set
}

func newWorld(t *testing.T, s *httptest.Server, cfg Config) *world {
	t.Helper()
	w := &world{dialed: make(chan string, 100), updates: make(chan Set, 100)}
	if cfg.Resolver == nil {
		cfg.Resolver = names{"keys.example": {"203.0.113.7"}}
	}
	cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		w.dialed <- address
		return (&net.Dialer{}).DialContext(ctx, network, s.Listener.Addr().String())
	}
	if s.TLS != nil {
		cfg.Transport = s.Client().Transport.(*http.Transport)
	}
	cfg.Update = func(_ Source, set Set) { w.updates <- set }
	w.Fetcher = New(cfg)
	t.Cleanup(w.client.CloseIdleConnections)
	return w
}

func serve(t *testing.T, tls bool, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	if tls {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

func answer(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }
}

func TestFetch(t *testing.T) {
	s := serve(t, true, answer(goodKeys))
	// The certificate of test servers is for example.com.
	w := newWorld(t, s, Config{Resolver: names{"example.com": {"203.0.113.7"}}})
	keys, err := w.fetch(t.Context(), Source{URI: "https://example.com/keys"})
	if err != nil || !strings.Contains(keys, `"kid":"one"`) {
		t.Fatalf("%q %v", keys, err)
	}
	if a := <-w.dialed; a != "203.0.113.7:443" {
		t.Errorf("dialed %s", a)
	}
	w = newWorld(t, s, Config{})
	if _, err := w.fetch(t.Context(), Source{URI: "https://keys.example/keys"}); err == nil {
		t.Error("a certificate for another name is accepted")
	}
}

func TestDiscovery(t *testing.T) {
	s := serve(t, false, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/realm/.well-known/openid-configuration" {
			fmt.Fprint(w, `{"jwks_uri":"http://keys.example/jwks"}`)
			return
		}
		fmt.Fprint(w, goodKeys)
	})
	w := newWorld(t, s, Config{AllowHTTP: true})
	if _, err := w.fetch(t.Context(), Source{Issuer: "http://keys.example/realm/"}); err != nil {
		t.Fatal(err)
	}
}

func TestRefusals(t *testing.T) {
	s := serve(t, false, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/keys":
			fmt.Fprint(w, goodKeys)
		case "/private-key":
			fmt.Fprint(w, `{"keys":[{"kty":"RSA","d":"secret"}]}`)
		case "/none":
			fmt.Fprint(w, `{"keys":[]}`)
		case "/large":
			fmt.Fprint(w, `{"keys":[{"kty":"`+strings.Repeat("x", MaxBody)+`"}]}`)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/inside":
			http.Redirect(w, r, "http://metadata.example/keys", http.StatusFound)
		case "/file":
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		default:
			http.NotFound(w, r)
		}
	})
	hosts := names{
		"keys.example":     {"203.0.113.7"},
		"metadata.example": {"169.254.169.254"},
		"local.example":    {"127.0.0.1"},
		"private.example":  {"10.0.0.1"},
		"mapped.example":   {"::ffff:127.0.0.1"},
		"mixed.example":    {"127.0.0.1", "203.0.113.7"},
	}
	for uri, want := range map[string]string{
		"http://keys.example/keys":        "",
		"http://mixed.example/keys":       "", // the address that may be asked is
		"http://keys.example/none":        "no keys",
		"http://keys.example/private-key": "private",
		"http://keys.example/large":       "more than",
		"http://keys.example/loop":        "redirects",
		"http://keys.example/inside":      "link-local",
		"http://keys.example/file":        "neither https nor http",
		"http://keys.example/what":        "404",
		"http://metadata.example/keys":    "link-local",
		"http://local.example/keys":       "this machine",
		"http://mapped.example/keys":      "this machine",
		"http://private.example/keys":     "private",
		"http://127.0.0.1/keys":           "this machine",
		"http://[::1]/keys":               "this machine",
		"http://[fe80::1%25lo]/keys":      "link-local",
		"http://0.0.0.0/keys":             "not the address",
		"http://224.0.0.1/keys":           "link-local",
		"http://[64:ff9b::7f00:1]/keys":   "this machine",
		"http://[2002:7f00:1::]/keys":     "this machine",
		"http://u:p@keys.example/keys":    "password",
		"ftp://keys.example/keys":         "neither",
		"http://missing.example/keys":     "no such host",
	} {
		w := newWorld(t, s, Config{AllowHTTP: true, Resolver: hosts})
		_, err := w.fetch(t.Context(), Source{URI: uri})
		switch {
		case want == "" && err != nil, want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q", uri, err, want)
		}
	}
	w := newWorld(t, s, Config{})
	if _, err := w.fetch(t.Context(), Source{URI: "http://keys.example/keys"}); !errors.Is(err, errRefused) {
		t.Errorf("plain HTTP: %v", err)
	}
	w = newWorld(t, s, Config{AllowHTTP: true, AllowPrivate: true, Resolver: hosts})
	if _, err := w.fetch(t.Context(), Source{URI: "http://private.example/keys"}); err != nil {
		t.Errorf("private addresses are allowed, but: %v", err)
	}
}

// rebinding answers with a good address first and with a forbidden one from then on.
type rebinding struct{ asked atomic.Int32 }

func (r *rebinding) LookupHost(context.Context, string) ([]string, error) {
	if r.asked.Add(1) == 1 {
		return []string{"203.0.113.7"}, nil
	}
	return []string{"169.254.169.254"}, nil
}

// What is dialed is the address that was judged: the name is looked up once for each connection.
func TestRebinding(t *testing.T) {
	s := serve(t, false, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		fmt.Fprint(w, goodKeys)
	})
	r := &rebinding{}
	w := newWorld(t, s, Config{AllowHTTP: true, Resolver: r})
	src := Source{URI: "http://rebind.example/keys"}
	if _, err := w.fetch(t.Context(), src); err != nil {
		t.Fatal(err)
	}
	if a := <-w.dialed; a != "203.0.113.7:80" || r.asked.Load() != 1 {
		t.Errorf("dialed %s after %d look-ups", a, r.asked.Load())
	}
	if _, err := w.fetch(t.Context(), src); !errors.Is(err, errRefused) {
		t.Errorf("the second time: %v", err)
	}
	if len(w.dialed) > 0 {
		t.Errorf("dialed %s", <-w.dialed)
	}
}

func TestTimeout(t *testing.T) {
	stop := make(chan struct{})
	s := serve(t, false, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-stop:
		}
	})
	defer close(stop)
	w := newWorld(t, s, Config{AllowHTTP: true})
	if _, err := w.fetch(t.Context(), Source{URI: "http://keys.example/keys", Timeout: 20 * time.Millisecond}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// The last good set stays while fetching fails, and the failure is told.
func TestRunKeepsTheLastGoodSet(t *testing.T) {
	var broken atomic.Bool
	s := serve(t, false, func(w http.ResponseWriter, _ *http.Request) {
		if broken.Load() {
			http.Error(w, "no", http.StatusBadGateway)
			return
		}
		fmt.Fprint(w, goodKeys)
	})
	w := newWorld(t, s, Config{AllowHTTP: true, Refresh: 10 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	w.Need([]Source{{URI: "http://keys.example/keys"}})
	first := <-w.updates
	if first.Keys == "" || first.Problem != "" {
		t.Fatalf("%+v", first)
	}
	broken.Store(true)
	if bad := <-w.updates; bad.Keys != first.Keys || !strings.Contains(bad.Problem, "502") {
		t.Fatalf("%+v", bad)
	}
	broken.Store(false)
	if good := <-w.updates; good != first {
		t.Fatalf("%+v", good)
	}
	w.Need(nil)
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestCheckAddress(t *testing.T) {
	f := New(Config{})
	for _, a := range []string{"203.0.113.7", "8.8.8.8", "2606:4700::1111"} {
		if err := f.checkAddress(netip.MustParseAddr(a)); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
	for _, a := range []string{"100.64.0.1", "192.168.1.1", "fd00::1", "198.18.0.1", "0.1.2.3", "::", "ff02::1", "64:ff9b::a00:1"} {
		if err := f.checkAddress(netip.MustParseAddr(a)); err == nil {
			t.Errorf("%s may be dialed", a)
		}
	}
}
