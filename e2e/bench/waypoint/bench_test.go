package main

import (
	"net"
	"strings"
	"testing"
)

func TestHeads(t *testing.T) {
	in := newHeads(strings.NewReader("HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\nx-a: b\r\n\r\nnoGHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"))
	var fields []string
	in.field = func(name, value []byte) { fields = append(fields, string(name)+"="+string(value)) }
	for _, want := range []int{403, 200} {
		if err := in.next(); err != nil || in.status != want {
			t.Fatalf("%d, %v; want %d", in.status, err, want)
		}
	}
	if got := strings.Join(fields, " "); got != "Content-Length=3 x-a=b content-length=0" {
		t.Errorf("fields %s", got)
	}
	if err := in.next(); err == nil {
		t.Error("an answer without a length was read")
	}
}

// A pod's address says whose it is: the stand-in for its node proxy shows that service's certificate.
func TestAddressesTellServices(t *testing.T) {
	seen := map[string]bool{}
	for s := range 2000 {
		for pod := range 60 {
			text := podIP(s, pod)
			ip := net.ParseIP(text).To4()
			if ip == nil || serviceOf(ip) != s || seen[text] {
				t.Fatalf("pod %d of service %d has %s", pod, s, text)
			}
			seen[text] = true
		}
	}
}

func TestQuantiles(t *testing.T) {
	samples := []float64{5, 1, 4, 2, 3}
	if got := three(samples); got != "3.00 / 5.00 / 5.00" {
		t.Error(got)
	}
	if got := spread(samples); got != "3.00 [1.00–5.00]" {
		t.Error(got)
	}
	if got := three(nil); got != "–" {
		t.Error(got)
	}
}
