package envoy_test

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/waypoint/envoy/envoytest"
)

// greeter says its name to whoever connects, and waits for them to go.
func greeter(t *testing.T, name, at string) {
	t.Helper()
	l, err := net.Listen("tcp", at)
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
				fmt.Fprintln(c, name)
				_, _ = io.Copy(io.Discard, c)
			}()
		}
	}()
}

// TestStreamShares: connections are divided by weight, a backend that is not there closes its share, and a source stays
// with its endpoint when the destination asks for it.
func TestStreamShares(t *testing.T) {
	w := &envoytest.World{}
	port := envoytest.FreePort(t)
	ports := []envoytest.Port{{Number: 90, Target: port, Protocol: waypoint.Protocol_TCP}}
	var pods []*workload.Workload
	for i, name := range []string{"one", "two"} {
		ip := fmt.Sprintf("127.0.45.%d", i+1)
		greeter(t, name, fmt.Sprintf("%s:%d", ip, port))
		pods = append(pods, envoytest.Pod(name, ip, "echo"))
		w.Add(name+".default.svc.cluster.local", fmt.Sprintf("10.96.3.%d", i+1), ports, pods[i])
	}
	w.Add("both.default.svc.cluster.local", "10.96.3.3", ports, pods...)
	w.Destinations[2].Policy = hashed(&waypoint.ConsistentHash{Key: &waypoint.ConsistentHash_SourceIp{SourceIp: true}})
	backend := func(name string, weight uint32) *waypoint.Backend {
		return &waypoint.Backend{Namespace: "default", Hostname: name + ".default.svc.cluster.local", Port: 90, Weight: weight}
	}
	lost := backend("lost", 1)
	lost.Broken = "Service default/lost does not exist"
	split := w.Services[0].Ports[0]
	split.Routed = true
	split.Stream = []*waypoint.StreamRule{{Backends: []*waypoint.Backend{backend("one", 6), backend("two", 3), lost, backend("both", 0)}}}
	p := envoytest.Start(t, w)
	p.Node("127.0.45.1", idEcho)
	p.Node("127.0.45.2", idEcho)

	const n = 200
	seen := map[string]int{}
	for range n {
		seen[firstWord(t, p.Peer(idClient), "10.96.3.1:90")]++
	}
	for name, share := range map[string]float64{"one": 0.6, "two": 0.3, "": 0.1} {
		if d := math.Abs(float64(seen[name]) - n*share); d > 5*math.Sqrt(n*share*(1-share)) {
			t.Errorf("of %d connections: %v, want 6:3:1", n, seen)
		}
	}
	seen = map[string]int{}
	for i := range 12 {
		peer := p.Peer(idClient).From(fmt.Sprintf("127.0.98.%d", i+1))
		first := firstWord(t, peer, "10.96.3.3:90")
		seen[first]++
		if again := firstWord(t, peer, "10.96.3.3:90"); again != first {
			t.Errorf("source %d went to %s and then to %s", i, first, again)
		}
	}
	if len(seen) != 2 {
		t.Errorf("12 sources went to %v", seen)
	}
}

// firstWord is what the other end says first; nothing when it closes.
func firstWord(t *testing.T, peer *envoytest.Peer, authority string) string {
	t.Helper()
	conn, err := dial(t, peer, authority)
	if err != nil {
		return ""
	}
	defer conn.Close()
	line, _ := bufio.NewReader(conn).ReadString('\n')
	if line == "" {
		return ""
	}
	return line[:len(line)-1]
}

// TestProxyProtocol: an application that asks for it learns the client's address before anything else.
func TestProxyProtocol(t *testing.T) {
	w := &envoytest.World{}
	port := envoytest.FreePort(t)
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.47.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	lines := make(chan string, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				r := bufio.NewReader(c)
				line, _ := r.ReadString('\n')
				lines <- line
				if _, err := http.ReadRequest(r); err == nil {
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				}
				_, _ = io.Copy(io.Discard, c)
			}()
		}
	}()
	pod := envoytest.Pod("proxied", "127.0.47.1", "echo")
	for i, protocol := range []waypoint.Protocol{waypoint.Protocol_TCP, waypoint.Protocol_HTTP1} {
		w.Add(fmt.Sprintf("proxied%d.default.svc.cluster.local", i), fmt.Sprintf("10.96.3.%d", i+1),
			[]envoytest.Port{{Number: 90, Target: port, Protocol: protocol}}, pod)
		w.Destinations[i].Policy = &waypoint.TrafficPolicy{ProxyProtocol: 1}
	}
	p := envoytest.Start(t, w)
	p.Node("127.0.47.1", idEcho)
	conn, err := dial(t, p.Peer(idClient).From("127.0.97.1"), "10.96.3.1:90")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "hello")
	if line := <-lines; !strings.HasPrefix(line, "PROXY TCP4 127.0.97.1 ") {
		t.Errorf("TCP: %q", line)
	}
	if resp, _ := exchange(t, p.Peer(idClient).From("127.0.97.2").Client("10.96.3.2:90"), "GET", "http://proxied/", nil); resp.StatusCode != 200 {
		t.Errorf("HTTP: %d", resp.StatusCode)
	}
	if line := <-lines; !strings.HasPrefix(line, "PROXY TCP4 127.0.97.2 ") {
		t.Errorf("HTTP: %q", line)
	}
}
