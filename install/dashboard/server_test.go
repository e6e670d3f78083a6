package dashboard

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/install/picture"
)

// started is a server that draws a picture with a nasty name at every look.
func started(t *testing.T) (s *Server, base string, drawn *atomic.Int32) {
	t.Helper()
	drawn = new(atomic.Int32)
	s, err := New(Config{Title: `<script>alert("x")</script>`, Every: 5 * time.Millisecond, Draw: func(context.Context) picture.Picture {
		drawn.Add(1)
		return picture.Build(picture.Input{Mesh: "m", Pods: []picture.Pod{{Name: "</script>\n\ndata: x"}}})
	}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx, l) }()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Run does not end")
		}
	})
	return s, "http://" + l.Addr().String(), drawn
}

func ask(t *testing.T, url string, change func(*http.Request)) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(req)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}

func TestWhoMayLook(t *testing.T) {
	s, base, drawn := started(t)
	port := base[strings.LastIndex(base, ":")+1:]
	good := func(r *http.Request) { r.AddCookie(&http.Cookie{Name: cookie + "-" + port, Value: s.key}) }
	for what, c := range map[string]struct {
		path   string
		change func(*http.Request)
		code   int
	}{
		"no key":            {"/", nil, 401},
		"another key":       {"/?key=" + strings.Repeat("A", len(s.key)), nil, 401},
		"another cookie":    {"/", func(r *http.Request) { r.AddCookie(&http.Cookie{Name: cookie + "-" + port, Value: "x"}) }, 401},
		"key, not the page": {"/picture.json?key=" + s.key, nil, 401},
		"a foreign name":    {"/?key=" + s.key, func(r *http.Request) { r.Host = "evil.example:" + port }, 421},
		"another port":      {"/", func(r *http.Request) { good(r); r.Host = "127.0.0.1:1" }, 421},
		"the cookie":        {"/", good, 200},
		"localhost":         {"/", func(r *http.Request) { good(r); r.Host = "localhost:" + port }, 200},
		"a change":          {"/", func(r *http.Request) { good(r); r.Method = http.MethodPost }, 405},
		"another file":      {"/page/index.html", good, 404},
		"the script":        {"/dashboard.js", good, 200},
	} {
		resp, text := ask(t, base+c.path, c.change)
		if resp.StatusCode != c.code {
			t.Errorf("%s: %s %s", what, resp.Status, text)
		}
		if csp := resp.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v", what, resp.Header)
		}
	}
	if n := drawn.Load(); n != 0 {
		t.Errorf("%d pictures although nobody looked", n)
	}
	resp, _ := ask(t, base+"/?key="+s.key, nil)
	set := resp.Cookies()
	if len(set) != 1 || !set[0].HttpOnly || set[0].SameSite != http.SameSiteStrictMode || set[0].Value != s.key {
		t.Errorf("%v", set)
	}
	if _, text := ask(t, base+"/", good); strings.Contains(text, "<script>alert") || !strings.Contains(text, "&lt;script&gt;alert") {
		t.Errorf("the title is markup: %s", text)
	}
}

func TestEvents(t *testing.T) {
	s, base, drawn := started(t)
	port := base[strings.LastIndex(base, ":")+1:]
	ctx, stop := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.AddCookie(&http.Cookie{Name: cookie + "-" + port, Value: s.key})
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	seen := 0
	for lines := bufio.NewScanner(resp.Body); seen < 3 && lines.Scan(); {
		text, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			if lines.Text() != "" && !strings.HasPrefix(lines.Text(), ":") {
				t.Errorf("a line of the mesh's own: %q", lines.Text())
			}
			continue
		}
		var p picture.Picture
		if err := json.Unmarshal([]byte(text), &p); err != nil || p.Pods[0].Name != "</script>\n\ndata: x" {
			t.Errorf("%v: %s", err, text)
		}
		seen++
	}
	if seen != 3 {
		t.Errorf("%d pictures", seen)
	}
	stop()
	// Once nobody looks, the mesh is left alone.
	deadline := time.Now().Add(10 * time.Second)
	for quiet := 0; quiet < 10; {
		before := drawn.Load()
		time.Sleep(10 * time.Millisecond)
		if drawn.Load() == before {
			quiet++
		} else if quiet = 0; time.Now().After(deadline) {
			t.Fatal("pictures are drawn although nobody looks")
		}
	}
}

func TestLocal(t *testing.T) {
	for address, want := range map[string]bool{"127.0.0.1:0": true, "[::1]:80": true, "localhost:1": true, "0.0.0.0:80": false, ":80": false, "10.0.0.1:80": false, "example.com:80": false, "x": false} {
		if Local(address) != want {
			t.Errorf("%s: %v", address, !want)
		}
	}
}
