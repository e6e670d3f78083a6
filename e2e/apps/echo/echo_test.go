package echo

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"
)

// start runs a server on free ports until the test ends.
func start(t *testing.T) Server {
	t.Helper()
	free := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}
	s := Server{HTTP: free(), TCP: free(), First: free(), Sink: free(), Source: free(), Text: "blue", Drain: time.Second}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	deadline := time.Now().Add(5 * time.Second)
	for _, addr := range []string{s.HTTP, s.Source} {
		for {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				_ = c.Close()
				break
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	return s
}

func TestConversations(t *testing.T) {
	s := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var body strings.Builder
	if err := (Request{URL: "http://" + s.HTTP + "/x", Timeout: time.Second}).Do(ctx, &body); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Hostname=", "Text=blue", "Client=127.0.0.1:", "URL=/x"} {
		if !strings.Contains(body.String(), want) {
			t.Errorf("answer lacks %q:\n%s", want, body.String())
		}
	}
	if err := (Request{URL: "http://" + s.HTTP + "/status/503", Timeout: time.Second}).Do(ctx, &body); err == nil {
		t.Error("status 503 was no error")
	}
	body.Reset()
	if err := (Request{URL: "http://" + s.HTTP + "/download?bytes=100000", Timeout: time.Second}).Do(ctx, &body); err != nil || body.Len() != 100000 {
		t.Errorf("download: %d bytes, %v", body.Len(), err)
	}
	body.Reset()
	post := Request{URL: "http://" + s.HTTP + "/x", Method: "POST", Body: "b", HTTP2: true, Head: true, Timeout: time.Second}
	if err := post.Do(ctx, &body); err != nil || !strings.Contains(body.String(), "Proto=HTTP/2.0") || !strings.HasPrefix(body.String(), "HTTP/2.0 200") {
		t.Errorf("HTTP/2: %v\n%s", err, body.String())
	}
	if text, err := WebSocket(ctx, "ws://"+s.HTTP+"/ws", "hi"); err != nil || text != "hi" {
		t.Errorf("websocket: %q, %v", text, err)
	}
	count := Tally{Request: Request{URL: "http://" + s.HTTP + "/", Timeout: time.Second}, Requests: 10, Workers: 3, By: "Text"}.Run(ctx)
	if count["200 blue"] != 10 || len(count) != 1 {
		t.Errorf("tally: %v", count)
	}
	if line, err := Greeting(ctx, s.First); err != nil || !strings.HasPrefix(line, "220 ") || !strings.Contains(line, "blue") {
		t.Errorf("greeting %q, %v", line, err)
	}
	if b, err := Send(ctx, s.Sink, 1_000_001, 3); err != nil || b.Bytes != 1_000_001 {
		t.Errorf("send: %+v, %v", b, err)
	}
	if b, err := Receive(ctx, s.Source, 1_000_001, 3); err != nil || b.Bytes != 1_000_001 {
		t.Errorf("receive: %+v, %v", b, err)
	}
}

func TestHold(t *testing.T) {
	s := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	h, err := Hold(ctx, s.TCP, time.Millisecond, nil)
	if err != nil || h.Echoes < 5 {
		t.Errorf("held: %+v, %v", h, err)
	}
	// The server of the other kind answers with something else, which is as bad as a cut.
	if _, err := Hold(t.Context(), s.First, time.Millisecond, nil); err == nil {
		t.Error("a wrong answer was taken for an echo")
	}
}

func TestLoad(t *testing.T) {
	s := start(t)
	r := Load{URL: "http://" + s.HTTP + "/", Requests: 50, Workers: 4}.Run(t.Context())
	if r.Requests != 50 || r.Errors != 0 || r.P50 == 0 || len(r.Pods) != 1 {
		t.Errorf("load: %s", r)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	r = Load{URL: "http://" + s.HTTP + "/", Rate: 50}.Run(ctx)
	if r.Requests < 10 || r.Requests > 16 {
		t.Errorf("50/s for 0.3 s made %d requests", r.Requests)
	}
	r = Load{URL: "http://" + s.HTTP + "/status/500", Requests: 3}.Run(t.Context())
	if r.Errors != 3 || r.Kinds["status 500"] != 3 || !strings.Contains(r.String(), "3 errors") || !strings.Contains(r.JSON(), `"errors": 3`) {
		t.Errorf("errors: %s %s", r, r.JSON())
	}
}
