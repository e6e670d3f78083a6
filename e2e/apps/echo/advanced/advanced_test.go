package advanced

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// free are ports that nobody has at the moment.
func free(t *testing.T, n int) []int {
	t.Helper()
	var ports []int
	for range n {
		l, err := net.Listen("tcp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// TestEcho calls the server by all its protocols, and reads the answers as the conformance module does.
func TestEcho(t *testing.T) {
	p := free(t, 4)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	s := Server{HTTP: p[:2], TLS: p[1:2], GRPC: p[2:3], TCP: p[3:], Certificate: "/nowhere.crt", Key: "/nowhere.key", Version: "v7"}
	go func() { done <- s.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	for _, port := range p {
		deadline := time.Now().Add(10 * time.Second)
		for {
			c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if err == nil {
				c.Close()
				break
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range []struct {
		url   string
		port  int
		count int
		want  map[string]string
	}{
		{"http://127.0.0.1:%d/a?b=c", p[0], 1, map[string]string{"StatusCode": "200", "URL": "/a?b=c", "Method": "POST", "Hostname": host, "Host": fmt.Sprint("127.0.0.1:", p[0]), "RequestHeader": "X-Color:blue\n[0] body] RequestHeader=X-Color:azure"}},
		{"https://127.0.0.1:%d/?codes=418", p[1], 1, map[string]string{"StatusCode": "418", "ServiceVersion": "v7"}},
		{"grpc://127.0.0.1:%d", p[2], 3, map[string]string{"StatusCode": "200", "Hostname": host, "RequestHeader": "x-color:blue"}},
	} {
		var out bytes.Buffer
		call := Call{URL: fmt.Sprintf(one.url, one.port), Method: http.MethodPost, Header: http.Header{"X-Color": {"blue", "azure"}}, Count: one.count, Timeout: 5 * time.Second}
		if err := call.Do(ctx, &out); err != nil {
			t.Errorf("%s: %v", one.url, err)
			continue
		}
		answers := strings.Split(strings.TrimSpace(out.String()), "\n\n")
		if len(answers) != one.count {
			t.Errorf("%d answers, want %d:\n%s", len(answers), one.count, &out)
		}
		for field, want := range one.want {
			found := false
			for _, m := range regexp.MustCompile(field+"=(.*)").FindAllStringSubmatch(answers[0], -1) {
				found = found || m[1] == want || strings.Contains(answers[0], field+"="+want+"\n")
				if field != "RequestHeader" {
					break // the first is the one that is read
				}
			}
			if !found {
				t.Errorf("%s: %s is not %q in\n%s", one.url, field, want, answers[0])
			}
		}
	}
	if err := (Call{URL: "http://127.0.0.1:1/", Timeout: time.Second}).Do(ctx, &bytes.Buffer{}); err == nil {
		t.Error("a port that nobody listens on answers")
	}
}
