package envoy_test

import (
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/waypoint/envoy/envoytest"
)

// TestServerCloses: what a server says before it closes arrives, though the client is not done.
func TestServerCloses(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.72.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(c, "bye")
			c.Close()
		}
	}()
	w := &envoytest.World{}
	pod := envoytest.Pod("tcp", "127.0.72.1", "echo")
	pod.TunnelProtocol = workload.TunnelProtocol_NONE
	w.Add("tcp.default.svc.cluster.local", "10.96.0.1", []envoytest.Port{
		{Number: 90, Target: uint32(l.Addr().(*net.TCPAddr).Port), Protocol: waypoint.Protocol_TCP},
	}, pod)
	p := envoytest.Start(t, w)
	peer := p.Peer(idClient)
	for i := range 100 {
		conn, err := dial(t, peer, "10.96.0.1:90")
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(conn)
		conn.Close()
		if string(got) != "bye\n" {
			t.Fatalf("connection %d: %q, %v", i, got, err)
		}
	}
}
