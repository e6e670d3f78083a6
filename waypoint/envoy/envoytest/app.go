package envoytest

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"net/http/httptest"
)

// Echo is what an App answers: the request as it came.
type Echo struct {
	App    string
	Method string
	Path   string
	Query  string
	Host   string
	Proto  string
	Header http.Header
	Body   string
}

// App is an HTTP/1.1 and HTTP/2 application at an address of loopback that answers with an Echo. The query "status"
// asks for a status, "delay" for a pause; the path /upgrade turns the connection into an echo of bytes.
func App(t testing.TB, name, ip string) (port uint32) {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Fatal(err)
	}
	AppAt(t, name, l)
	return uint32(l.Addr().(*net.TCPAddr).Port)
}

// AppAt is App on a listener that is there already.
func AppAt(t testing.TB, name string, l net.Listener) {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/upgrade" {
			upgrade(w)
			return
		}
		if d, err := time.ParseDuration(r.URL.Query().Get("delay")); err == nil {
			select {
			case <-time.After(d):
			case <-r.Context().Done():
				return
			}
		}
		body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-App", name)
		if n, err := strconv.Atoi(r.URL.Query().Get("status")); err == nil {
			w.WriteHeader(n)
		}
		_ = json.NewEncoder(w).Encode(Echo{name, r.Method, r.URL.Path, r.URL.RawQuery, r.Host, r.Proto, r.Header, string(body)})
	}))
	s.Listener.Close()
	s.Listener = l
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
}

// upgrade answers as a WebSocket server would and then echoes bytes.
func upgrade(w http.ResponseWriter) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	_, _ = io.Copy(conn, rw)
}

// TCPApp greets with its name and a newline, then echoes until the client is done.
func TCPApp(t testing.TB, name, ip string) (port uint32) {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.WriteString(c, name+"\n")
				_, _ = io.Copy(c, bufio.NewReader(c))
			}()
		}
	}()
	return uint32(l.Addr().(*net.TCPAddr).Port)
}

// Get asks and reads the echo. The error is of the connection; a status is no error.
func Get(c *http.Client, url string, header ...string) (status int, echo Echo, err error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, Echo{}, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, Echo{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return resp.StatusCode, Echo{}, err
	}
	if json.Unmarshal(body, &echo) != nil {
		echo = Echo{Body: string(body)}
	}
	return resp.StatusCode, echo, nil
}
