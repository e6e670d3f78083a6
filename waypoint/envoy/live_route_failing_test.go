package envoy_test

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestFaults: late, failed, and given up on.
func TestFaults(t *testing.T) {
	s := store(t, "127.0.35", nil)
	s.route(t, `[
	 {"matches":[{"path":{"segments":"/delay"}}], "fault":{"delay":"0.300s","delayPerMillion":1000000}, "forward":{"backends":[{$reviews,"weight":1}]}},
	 {"matches":[{"path":{"segments":"/abort"}}], "fault":{"abortStatus":418,"abortPerMillion":1000000}, "forward":{"backends":[{$reviews,"weight":1}]}},
	 {"matches":[{"path":{"segments":"/some"}}], "fault":{"abortStatus":503,"abortPerMillion":500000}, "retry":{"attempts":0}, "forward":{"backends":[{$reviews,"weight":1}]}},
	 {"matches":[{"path":{"segments":"/grpc"}}], "fault":{"abortGrpcStatus":14,"abortPerMillion":1000000}, "forward":{"backends":[{$reviews,"weight":1}]}},
	 {"matches":[{"path":{"segments":"/timeout"}}], "timeout":"0.200s", "forward":{"backends":[{$reviews,"weight":1}]}},
	 {"matches":[{"path":{"segments":"/patient"}}], "timeout":"0s", "forward":{"backends":[{$reviews,"weight":1}]}},
	 {"matches":[{"path":{"segments":"/try"}}], "timeout":"10s", "backendTimeout":"0.200s", "retry":{"attempts":1,"on":["5xx"]}, "forward":{"backends":[{$reviews,"weight":1}]}},
	 {"matches":[{"path":{"segments":"/status"}}], "retry":{"attempts":3,"statuses":[503]}, "forward":{"backends":[{$reviews,"weight":1}]}}
	]`)
	c := s.client()
	if took := timed(func() { exchange(t, c, "GET", "http://reviews/delay", nil) }); took < 300*time.Millisecond {
		t.Errorf("a delay of 300 ms took %v", took)
	}
	if resp, _ := exchange(t, c, "GET", "http://reviews/abort", nil); resp.StatusCode != 418 {
		t.Errorf("abort: %d", resp.StatusCode)
	}
	failed := 0
	for range 200 {
		if resp, _ := exchange(t, c, "GET", "http://reviews/some", nil); resp.StatusCode == 503 {
			failed++
		}
	}
	if failed < 65 || failed > 135 {
		t.Errorf("%d of 200 aborted, want about half", failed)
	}
	if resp, _ := exchange(t, c, "POST", "http://reviews/grpc", nil, "Content-Type", "application/grpc"); resp.Header.Get("grpc-status") != "14" {
		t.Errorf("gRPC abort: %d %v", resp.StatusCode, resp.Header)
	}
	if resp, _ := exchange(t, c, "GET", "http://reviews/timeout?delay=5s", nil); resp.StatusCode != 504 {
		t.Errorf("timeout: %d", resp.StatusCode)
	}
	if resp, _ := exchange(t, c, "GET", "http://reviews/patient?delay=500ms", nil); resp.StatusCode != 200 {
		t.Errorf("no timeout: %d", resp.StatusCode)
	}
	took := timed(func() {
		if resp, _ := exchange(t, c, "GET", "http://reviews/try?delay=5s", nil); resp.StatusCode != 504 {
			t.Errorf("two tries: %d", resp.StatusCode)
		}
	})
	if took < 390*time.Millisecond || took > 4*time.Second {
		t.Errorf("two tries of 200 ms took %v", took)
	}
	before := s.hosts(t, "reviews", "rq_total")
	if resp, _ := exchange(t, c, "POST", "http://reviews/status?status=503", nil); resp.StatusCode != 503 {
		t.Errorf("status: %d", resp.StatusCode)
	}
	if n := s.hosts(t, "reviews", "rq_total") - before; n != 4 {
		t.Errorf("%d tries, want one and three more for the status that was named", n)
	}
}

// TestClientsDecideNothing: Envoy would let headers of a client change timeouts and retries.
func TestClientsDecideNothing(t *testing.T) {
	s := store(t, "127.0.46", nil)
	c := s.client()
	if resp, _ := exchange(t, c, "GET", "http://reviews/?delay=300ms", nil, "x-envoy-upstream-rq-timeout-ms", "1"); resp.StatusCode != 200 {
		t.Errorf("a client's timeout: %d", resp.StatusCode)
	}
	before := s.hosts(t, "reviews", "rq_total")
	exchange(t, c, "POST", "http://reviews/?status=503", nil, "x-envoy-retry-on", "5xx", "x-envoy-max-retries", "7")
	if n := s.hosts(t, "reviews", "rq_total") - before; n != 1 {
		t.Errorf("a client's retries: %d tries", n)
	}
	for _, header := range [][2]string{{"x-envoy-fault-abort-request", "500"}, {"x-envoy-decorator-operation", "x"}, {"x-ambit-reason", "forged"}} {
		if resp, _ := exchange(t, c, "GET", "http://reviews/", nil, header[0], header[1]); resp.StatusCode != 200 {
			t.Errorf("%s: %d", header[0], resp.StatusCode)
		}
	}
}

func timed(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

// TestGRPCStatuses: what is refused here is refused in the language of gRPC to those who speak it.
func TestGRPCStatuses(t *testing.T) {
	s := store(t, "127.0.36", nil)
	s.route(t, `[
	 {"matches":[{"path":{"segments":"/broken"}}], "broken":"a ReferenceGrant is missing", "forward":{"backends":[{$reviews,"weight":1}]}},
	 {"matches":[{"path":{"segments":"/share"}}], "forward":{"backends":[{$reviews,"weight":0},{"hostname":"gone","weight":1,"broken":"gone"},{"hostname":"lost","weight":1,"broken":"lost"}]}}
	]`)
	c := s.client()
	for path, want := range map[string]string{"/broken": "14", "/share": "14", "/nowhere": "12"} {
		resp, _ := exchange(t, c, "POST", "http://reviews"+path, nil, "Content-Type", "application/grpc")
		if resp.StatusCode != 200 || resp.Header.Get("grpc-status") != want || resp.Header.Get("x-ambit-reason") == "" {
			t.Errorf("%s: %d %v, want grpc-status %s", path, resp.StatusCode, resp.Header, want)
		}
	}
	for path, want := range map[string]int{"/broken": 500, "/share": 500, "/nowhere": 404} {
		if resp, _ := exchange(t, c, "POST", "http://reviews"+path, nil); resp.StatusCode != want || resp.Header.Get("x-ambit-reason") == "" {
			t.Errorf("%s: %d %v, want %d", path, resp.StatusCode, resp.Header, want)
		}
	}
}

// killer takes requests and never answers them: it counts them and cuts the connection, as an application that crashes does.
func killer(t *testing.T, at string) *atomic.Int64 {
	t.Helper()
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var n atomic.Int64
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					n.Add(1)
				}
			}()
		}
	}()
	return &n
}

// TestRetryCoversADeadPod: a pod that dies behind its tunnel costs no GET, with nothing configured; a POST that may have been
// carried out is not sent again.
func TestRetryCoversADeadPod(t *testing.T) {
	for _, how := range []string{"crashes", "refuses"} {
		t.Run(how, func(t *testing.T) {
			subnet := map[string]string{"crashes": "127.0.37", "refuses": "127.0.38"}[how]
			s := store(t, subnet, func(s *bookstore) {
				// Without being put out: each request finds the dead pod again.
				s.Destinations[0].Policy = dormant()
			}, "v2")
			killed := &atomic.Int64{}
			if how == "crashes" {
				killed = killer(t, fmt.Sprintf("%s.2:%d", subnet, s.port))
			}
			c := s.client()
			for i := range 40 {
				for _, method := range []string{"GET", "PUT", "DELETE"} {
					if resp, echo := exchange(t, c, method, "http://reviews/", bytes.NewReader(nil)); resp.StatusCode != 200 || echo.App != "v1" {
						t.Fatalf("%s %d: %d of %s %s", method, i, resp.StatusCode, echo.App, echo.Body)
					}
				}
			}
			before, failed, answered := killed.Load(), 0, 0
			for range 60 {
				resp, _ := exchange(t, c, "POST", "http://reviews/", strings.NewReader("order one book"))
				switch resp.StatusCode {
				case 200:
					answered++
				case 503:
					failed++
				default:
					t.Fatalf("POST: %d", resp.StatusCode)
				}
			}
			if failed == 0 || answered == 0 {
				t.Errorf("%d POST failed and %d were answered: both pods should have been asked", failed, answered)
			}
			if got := killed.Load() - before; how == "crashes" && got != int64(failed) {
				t.Errorf("%d POST were carried out by the dead pod and %d failed: some were sent twice", got, failed)
			}
		})
	}
}
