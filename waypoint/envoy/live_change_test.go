package envoy_test

import (
	"bufio"
	"io"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/waypoint/envoy/envoytest"
)

// TestChangesLeaveConnections: a service that comes or goes does not touch the connections of others, whatever it speaks.
func TestChangesLeaveConnections(t *testing.T) {
	w := tcpWorld(t, "127.0.71.1", waypoint.Protocol_TCP)
	p := envoytest.Start(t, w)
	p.Node("127.0.71.1", idEcho)
	conn, err := dial(t, p.Peer(idClient), "10.96.0.1:90")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	if _, err := r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	for i, protocol := range []waypoint.Protocol{waypoint.Protocol_HTTP1, waypoint.Protocol_TCP, waypoint.Protocol_AUTO, waypoint.Protocol_TLS} {
		host := []string{"one", "two", "three", "four"}[i]
		svc := w.Add(host, "10.96.1."+string(rune('1'+i)), []envoytest.Port{{Number: uint32(1000 + i), Target: 1, Protocol: protocol}})
		if protocol == waypoint.Protocol_TLS {
			svc.Ports[0].Stream = []*waypoint.StreamRule{{Sni: []string{"a.example"}, Backends: []*waypoint.Backend{{Namespace: "default", Hostname: host, Port: 1003, Weight: 1}}}}
		}
		p.Apply(w)
		// Longer than what is drained may live.
		for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			if _, err := io.WriteString(conn, "still here\n"); err != nil {
				t.Fatalf("after %s: %v", protocol, err)
			}
			if line, err := r.ReadString('\n'); line != "still here\n" {
				t.Fatalf("after %s: %q, %v", protocol, line, err)
			}
		}
	}
}
