package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"crypto/tls"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/security"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/ca/certs"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/hbone"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	. "github.com/ambit-mesh/ambit/ztunnel/state/statetest"
)

const cartKey = "shop/cart.shop.svc.cluster.local"

func cartWorld(t *testing.T, more ...proto.Message) *state.State {
	st := World(t,
		In(Pod("shop", "cart", "cart-sa", "10.0.0.1"), cartKey, 80, 8080),
		Service("shop", "cart", []string{"10.96.0.1"}, 80, 8080),
		Pod("shop", "web", "web-sa", "10.0.0.9"),
	)
	Put(t, st, more...)
	return st
}

func denyAccount(name, account string) *security.Authorization {
	return &security.Authorization{Name: name, Namespace: "shop", Scope: security.Scope_NAMESPACE, Action: security.Action_DENY, Rules: []*security.Rule{{
		Clauses: []*security.Clause{{Matches: []*security.Match{{ServiceAccounts: []*security.ServiceAccountMatch{{Namespace: "shop", ServiceAccount: account}}}}}},
	}}}
}

// echo answers one connection by sending back what it got until the other side is done.
func echo(c call) {
	_, _ = io.Copy(c.conn, c.conn)
	c.conn.Close()
}

func TestInboundCarriesBytesFromTheClientsAddress(t *testing.T) {
	w := start(t, cartWorld(t), nil)
	a := w.listen("10.0.0.1:8080")
	s, err := w.open(w.tunnel("10.0.0.9", "shop", "web-sa"), "10.0.0.1:8080", hbone.Header{Name: "forwarded", Value: `for="10.0.0.9:1";host=cart.shop.svc.cluster.local`})
	if err != nil {
		t.Fatal(err)
	}
	c := a.next(t)
	if c.from.Addr() != netip.MustParseAddr("10.0.0.9") {
		t.Errorf("the application sees %s", c.from)
	}
	var baggage string
	for _, h := range s.ResponseHeaders() {
		if strings.EqualFold(h.Name, "baggage") {
			baggage = h.Value
		}
	}
	for _, want := range []string{"k8s.cluster.name=Kubernetes", "k8s.namespace.name=shop", "k8s.deployment.name=cart", "service.name=cart", "service.version=v1"} {
		if !strings.Contains(baggage, want) {
			t.Errorf("response baggage %q lacks %s", baggage, want)
		}
	}
	go echo(c)
	if _, err := s.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(s); err != nil || string(got) != "hello" {
		t.Fatalf("echo = %q, %v", got, err)
	}
	w.logged("\tinfo\taccess\tconnection complete\t", "src.addr=10.0.0.9:", `src.workload="web"`, `src.identity="spiffe://cluster.local/ns/shop/sa/web-sa"`,
		"dst.addr=10.0.0.1:8080 dst.hbone_addr=10.0.0.1:8080", `dst.service="cart.shop.svc.cluster.local" dst.workload="cart"`,
		`dst.identity="spiffe://cluster.local/ns/shop/sa/cart-sa"`, `direction="inbound" bytes_sent=5 bytes_recv=5 duration="`)
}

func TestInboundAnswers(t *testing.T) {
	strict := &security.Authorization{Name: "strict", Namespace: "shop", Scope: security.Scope_NAMESPACE, Action: security.Action_DENY, Rules: []*security.Rule{{
		Clauses: []*security.Clause{{Matches: []*security.Match{{NotPrincipals: []*security.StringMatch{{MatchType: &security.StringMatch_Presence{Presence: &security.Empty{}}}}}}}},
	}}}
	tests := []struct {
		name      string
		policies  []proto.Message
		authority string
		status    int
		log       string
		known     bool
	}{
		{"allowed", nil, "10.0.0.1:8080", 200, "", false},
		{"strict lets the mesh in", []proto.Message{strict}, "10.0.0.1:8080", 200, "", false},
		{"denied", []proto.Message{denyAccount("d", "web-sa")}, "10.0.0.1:8080", 401, `error="explicitly denied by: shop/d" reason="policy-denied"`, true},
		{"nothing allowed", []proto.Message{&security.Authorization{Name: "a", Namespace: "shop", Scope: security.Scope_NAMESPACE}}, "10.0.0.1:8080", 401, `error="allow policies exist, but none allowed"`, true},
		{"policy on another port", []proto.Message{&security.Authorization{Name: "d", Namespace: "shop", Scope: security.Scope_NAMESPACE, Action: security.Action_DENY, Rules: []*security.Rule{{
			Clauses: []*security.Clause{{Matches: []*security.Match{{DestinationPorts: []uint32{9090}}}}},
		}}}}, "10.0.0.1:8080", 200, "", false},
		{"by hostname, to the target port", nil, "cart.shop.svc.cluster.local:80", 200, "", false},
		{"another pod", nil, "10.0.0.2:8080", 400, `reason="wrong-destination"`, false},
		{"nonsense", nil, "10.0.0.1", 400, `reason="bad-authority"`, false},
		{"unknown service", nil, "nobody.shop.svc.cluster.local:80", 503, `reason="unknown-destination"`, false},
		{"self call", nil, "10.0.0.1:15008", 503, `reason="self-call"`, false},
		{"nobody listens", nil, "10.0.0.1:8081", 503, `reason="connect-refused"`, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := start(t, cartWorld(t, tt.policies...), nil)
			w.listen("10.0.0.1:8080")
			s, err := w.open(w.tunnel("10.0.0.9", "shop", "web-sa"), tt.authority)
			status := 200
			var se *hbone.StatusError
			switch {
			case err == nil:
				s.Close()
			case errors.As(err, &se):
				status = se.Code
			default:
				t.Fatal(err)
			}
			if status != tt.status {
				t.Fatalf("status %d, want %d", status, tt.status)
			}
			if tt.log == "" {
				return
			}
			// Once both ends are known it is a connection like any other, only a failed one.
			line := "\twarn\taccess\tconnection failed\t"
			if tt.known {
				line = "\terror\taccess\tconnection complete\t"
			}
			w.logged(line, tt.log, `direction="inbound"`)
		})
	}
}

// A policy that arrives while a connection is open ends it, and nothing else.
func TestInboundLateDenial(t *testing.T) {
	st := cartWorld(t)
	w := start(t, st, nil)
	a := w.listen("10.0.0.1:8080")
	denied, err := w.open(w.tunnel("10.0.0.9", "shop", "web-sa"), "10.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	atApp := a.next(t)
	other, err := w.open(w.tunnel("10.0.0.8", "shop", "other-sa"), "10.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	go echo(a.next(t))
	Put(t, st, denyAccount("late", "web-sa"))
	if _, err := denied.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("the tunnel ended with %v, not with a reset", err)
	}
	if _, err := atApp.conn.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("the application's connection ended with %v, not with a reset", err)
	}
	w.logged("\terror\taccess\tconnection complete\t", `reason="policy-changed"`, "explicitly denied by: shop/late")
	if _, err := other.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(other, make([]byte, 1)); err != nil {
		t.Errorf("the other connection: %v", err)
	}
	other.Close()
}

// A pod the control plane has not described has unknown policies, and is not to be reached.
func TestInboundFailsClosedWithoutState(t *testing.T) {
	st := World(t, Pod("shop", "web", "web-sa", "10.0.0.9"))
	w := start(t, st, nil)
	a := w.listen("10.0.0.1:8080")
	tunnel := w.tunnel("10.0.0.9", "shop", "web-sa")
	result := make(chan error, 1)
	go func() {
		s, err := w.open(tunnel, "10.0.0.1:8080")
		if err == nil {
			s.Close()
		}
		result <- err
	}()
	select {
	case <-a.calls:
		t.Fatal("the application was reached")
	case err := <-result:
		var se *hbone.StatusError
		if !errors.As(err, &se) || se.Code != 503 {
			t.Fatalf("err = %v", err)
		}
	}
}

// PROXY v2 goes first, over loopback, with who calls and what was asked for.
func TestInboundApplicationTunnel(t *testing.T) {
	cart := In(Pod("shop", "cart", "cart-sa", "10.0.0.1"), cartKey, 80, 8080)
	cart.ApplicationTunnel = &workload.ApplicationTunnel{Protocol: workload.ApplicationTunnel_PROXY, Port: 15088}
	w := start(t, cartWorld(t, cart), nil)
	a := w.listen("127.0.0.1:15088")
	s, err := w.open(w.tunnel("10.0.0.9", "shop", "web-sa"), "10.96.0.77:80")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := a.next(t)
	if !c.from.Addr().IsLoopback() {
		t.Errorf("connected from %s", c.from)
	}
	if _, err := s.Write([]byte("app data")); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 16)
	if _, err := io.ReadFull(c.conn, head); err != nil {
		t.Fatal(err)
	}
	rest := make([]byte, binary.BigEndian.Uint16(head[14:]))
	if _, err := io.ReadFull(c.conn, rest); err != nil {
		t.Fatal(err)
	}
	uri := "spiffe://cluster.local/ns/shop/sa/web-sa"
	if string(head[:12]) != "\r\n\r\n\x00\r\nQUIT\n" || head[12] != 0x21 || head[13] != 0x11 ||
		string(rest[:8]) != "\x0a\x00\x00\x09\x0a\x60\x00\x4d" || binary.BigEndian.Uint16(rest[10:]) != 80 ||
		rest[12] != 0xd0 || string(rest[15:]) != uri {
		t.Errorf("PROXY header % x % x", head, rest)
	}
	data := make([]byte, 8)
	if _, err := io.ReadFull(c.conn, data); err != nil || string(data) != "app data" {
		t.Errorf("after the header: %q, %v", data, err)
	}
}

func TestInboundRefusesStrangers(t *testing.T) {
	w := start(t, cartWorld(t), nil)
	foreign := w.ca.MustSVID("spiffe://other.domain/ns/shop/sa/web-sa")
	tests := map[string]*tls.Config{
		"another trust domain": certs.Policy{}.ClientConfig(foreign, []identity.ID{w.pod.id}),
		"no certificate":       {InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}},
		"TLS 1.2":              {InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, NextProtos: []string{"h2"}},
	}
	for name, cfg := range tests {
		t.Run(name, func(t *testing.T) {
			c := tls.Client(w.dial("10.0.0.9", "10.0.0.1:15008"), cfg)
			err := c.HandshakeContext(t.Context())
			if err == nil {
				// A TLS 1.3 server tells of its refusal only after the client is done.
				_, err = c.Read(make([]byte, 1))
			}
			if err == nil {
				t.Error("let in")
			}
		})
	}
}

func TestInboundPlaintextToOurOwnPort(t *testing.T) {
	w := start(t, cartWorld(t), nil)
	// The reset may come before connect has returned.
	c, err := w.ns.Dial(t.Context(), "tcp", netip.AddrPort{}, netip.MustParseAddrPort("10.0.0.1:15006"), nil)
	if err == nil {
		defer c.Close()
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("answered")
		}
	}
	w.logged("\twarn\taccess\tconnection failed\t", `reason="self-call"`, `direction="inbound"`)
}

// Metrics say the same on both ends: received is what clients sent.
func TestInboundMetrics(t *testing.T) {
	w := start(t, cartWorld(t, denyAccount("d", "bad-sa")), nil)
	a := w.listen("10.0.0.1:8080")
	s, err := w.open(w.tunnel("10.0.0.9", "shop", "web-sa"), "10.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	c := a.next(t)
	if _, err := s.Write([]byte("12345")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c.conn, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.conn.Write([]byte("123")); err != nil {
		t.Fatal(err)
	}
	c.conn.Close()
	if _, err := io.ReadAll(s); err != nil {
		t.Fatal(err)
	}
	s.Close()
	w.logged("connection complete")
	if _, err := w.open(w.tunnel("10.0.0.9", "shop", "bad-sa"), "10.0.0.1:8080"); err == nil {
		t.Fatal("let in")
	}
	families, err := w.proxy.Recorder.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["reporter"] == "destination" {
				key := fmt.Sprintf("%s %s %s %s", f.GetName(), labels["source_principal"], labels["response_flags"], labels["connection_security_policy"])
				got[key] = m.GetCounter().GetValue()
			}
		}
	}
	web, bad := "spiffe://cluster.local/ns/shop/sa/web-sa", "spiffe://cluster.local/ns/shop/sa/bad-sa"
	for key, want := range map[string]float64{
		"istio_tcp_connections_opened_total " + web + " - mutual_tls":    1,
		"istio_tcp_connections_closed_total " + web + " - mutual_tls":    1,
		"istio_tcp_received_bytes_total " + web + " - mutual_tls":        5,
		"istio_tcp_sent_bytes_total " + web + " - mutual_tls":            3,
		"istio_tcp_connections_failed_total " + bad + " DENY mutual_tls": 1,
	} {
		if got[key] != want {
			t.Errorf("%s = %v, want %v", key, got[key], want)
		}
	}
}

// Draining tells peers to go elsewhere, lets open connections finish, and takes no new ones but those that are on their way.
func TestDrain(t *testing.T) {
	w := start(t, cartWorld(t), nil)
	a := w.listen("10.0.0.1:8080")
	tunnel := w.tunnel("10.0.0.9", "shop", "web-sa")
	s, err := w.open(tunnel, "10.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	go echo(a.next(t))
	drained := make(chan struct{})
	go func() { defer close(drained); w.proxy.Drain(t.Context()) }()
	// The peer learns by GOAWAY: from then on it has no room for streams on this connection.
	w.until("GOAWAY", func() bool { return tunnel.Available() == 0 })
	if _, err := s.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s, make([]byte, 10)); err != nil {
		t.Fatalf("the open connection: %v", err)
	}
	select {
	case <-drained:
		t.Fatal("drained while a connection is open")
	default:
	}
	w.until("new connections are refused", func() bool {
		c, err := w.ns.Dial(t.Context(), "tcp", netip.AddrPort{}, netip.MustParseAddrPort("10.0.0.1:15008"), nil)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(s); err != nil {
		t.Fatal(err)
	}
	<-drained
}

// Only CONNECT is served; anything else is 400.
func TestInboundMethod(t *testing.T) {
	w := start(t, cartWorld(t), nil)
	conn := tls.Client(w.dial("10.0.0.9", "10.0.0.1:15008"), certs.Policy{}.ClientConfig(w.ca.MustSVID("spiffe://cluster.local/ns/shop/sa/web-sa"), []identity.ID{w.pod.id}))
	code, err := getOverHTTP2(conn)
	if err != nil || code != http.StatusBadRequest {
		t.Errorf("GET: %d, %v", code, err)
	}
	w.logged("\twarn\taccess\tconnection failed\t", `reason="bad-method"`)
}
