package envoy_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// TestRawRequests: requests written by hand get past no policy, and none of them is taken for two.
func TestRawRequests(t *testing.T) {
	s := openShop(t, "127.0.64.1")
	s.apply(authorization(policy(waypoint.Authorization_DENY, "admin",
		to(&waypoint.Operation{Paths: prefix("/admin")}), to(&waypoint.Operation{Hosts: exact("secret.example")}), to(&waypoint.Operation{Methods: exact("CONNECT")}))))
	peer := s.Peer(idClient)
	send := func(raw string) (statuses []int) {
		conn, err := dial(t, peer, "10.96.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		timer := time.AfterFunc(3*time.Second, func() { conn.Close() })
		defer timer.Stop()
		if _, err := io.WriteString(conn, raw); err != nil {
			return nil
		}
		r := bufio.NewReader(conn)
		for {
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				return statuses
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			statuses = append(statuses, resp.StatusCode)
			if resp.Close {
				return statuses
			}
		}
	}
	const end = "Connection: close\r\n\r\n"
	for name, c := range map[string]struct {
		raw  string
		want string
	}{
		"plain":              {"GET / HTTP/1.1\r\nHost: a\r\n" + end, "[200]"},
		"denied":             {"GET /admin HTTP/1.1\r\nHost: a\r\n" + end, "[403]"},
		"dot segments":       {"GET /x/../admin HTTP/1.1\r\nHost: a\r\n" + end, "[403]"},
		"escaped dots":       {"GET /x/%2e%2e/admin HTTP/1.1\r\nHost: a\r\n" + end, "[403]"},
		"escaped letters":    {"GET /%61dmin HTTP/1.1\r\nHost: a\r\n" + end, "[403]"},
		"backslash":          {"GET /x\\..\\admin HTTP/1.1\r\nHost: a\r\n" + end, "[403]"},
		"absolute":           {"GET http://a/admin HTTP/1.1\r\nHost: a\r\n" + end, "[403]"},
		"absolute, host":     {"GET http://secret.example/ HTTP/1.1\r\nHost: a\r\n" + end, "[403]"},
		"fragment":           {"GET /admin#x HTTP/1.1\r\nHost: a\r\n" + end, "[400]"},
		"query":              {"GET /admin?x HTTP/1.1\r\nHost: a\r\n" + end, "[403]"},
		"host":               {"GET / HTTP/1.1\r\nHost: secret.example\r\n" + end, "[403]"},
		"host in capitals":   {"GET / HTTP/1.1\r\nHost: SECRET.example\r\n" + end, "[403]"},
		"host with a dot":    {"GET / HTTP/1.1\r\nHost: secret.example.\r\n" + end, "[403]"},
		"two hosts":          {"GET / HTTP/1.1\r\nHost: a\r\nHost: secret.example\r\n" + end, ""},
		"no host":            {"GET /admin HTTP/1.1\r\n" + end, "[400]"},
		"HTTP/1.0":           {"GET /admin HTTP/1.0\r\nHost: a\r\n\r\n", "[403]"},
		"HTTP/1.0, no host":  {"GET /admin HTTP/1.0\r\n\r\n", "[400]"},
		"CONNECT":            {"CONNECT 127.0.0.1:15000 HTTP/1.1\r\nHost: a\r\n" + end, "[404]"}, // no route takes it
		"websocket":          {"GET /admin HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "[403]"},
		"another upgrade":    {"GET /admin HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", "[403]"},
		"two lengths":        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n" + end + "hello", "[400]"},
		"length and chunks":  {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n" + end, "[400]"},
		"odd encoding":       {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", "[501]"},
		"folded header":      {"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n" + end, ""},
		"space before colon": {"GET / HTTP/1.1\r\nHost : a\r\n" + end, "[400]"},
		"header in trailer":  {"POST /admin HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n" + end[:len(end)-2] + "\r\n0\r\nX-Forwarded-Client-Cert: URI=" + idOther + "\r\n\r\n", "[403]"},
		"pipelined":          {"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /admin HTTP/1.1\r\nHost: a\r\n" + end, "[200 403]"},
	} {
		if got := fmt.Sprint(send(c.raw)); c.want != "" && got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
