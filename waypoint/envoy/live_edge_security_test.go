package envoy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"testing"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/waypoint/envoy/envoytest"
)

// TestEdgePolicies: at the edge the client's address is the connection's, or what as many trusted proxies say as there are.
func TestEdgePolicies(t *testing.T) {
	w, _, _ := echoWorld(t, "127.0.38.1", waypoint.Protocol_HTTP1)
	w.Services = nil
	w.Gateway = &waypoint.Gateway{Namespace: "default", Name: "edge", Kind: waypoint.Gateway_EDGE, TrustDomains: []string{"cluster.local"}, Mesh: &waypoint.MeshSettings{}}
	host := httpHost("plain", "")
	l := listen(t, w, &waypoint.Listener{Name: "plain", Protocol: waypoint.Listener_HTTP}, host)
	host.Policies = authorization(policy(waypoint.Authorization_ALLOW, "p", from(&waypoint.Source{IpBlocks: []string{"127.0.0.7"}})))
	p := envoytest.Start(t, w)
	p.Node("127.0.38.1", idEcho)
	as := func(ip string) *http.Client {
		dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
		tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", l.Port))
		}}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr}
	}
	status, body, _ := ask(t, as("127.0.0.7"), "GET", "/", "X-Forwarded-For", "1.2.3.4", "x-envoy-retry-on", "5xx", "x-ambit-client-identity", idClient, "X-Forwarded-Client-Cert", "URI="+idClient)
	var echo struct{ Header http.Header }
	if err := json.Unmarshal([]byte(body), &echo); err != nil || status != 200 {
		t.Fatalf("%d %q %v", status, body, err)
	}
	if got := echo.Header.Get("X-Forwarded-For"); got != "1.2.3.4,127.0.0.7" {
		t.Errorf("XFF %q", got)
	}
	for _, name := range []string{"X-Envoy-Retry-On", "X-Ambit-Client-Identity", "X-Forwarded-Client-Cert"} {
		if got := echo.Header.Values(name); got != nil {
			t.Errorf("the application got %s %q", name, got)
		}
	}
	wantStatus(t, as("127.0.0.8"), 403, "GET", "/", "X-Forwarded-For", "127.0.0.7")

	host.Policies = authorization(policy(waypoint.Authorization_ALLOW, "p", from(&waypoint.Source{RemoteIpBlocks: []string{"1.2.3.4"}})))
	p.Apply(w)
	wantStatus(t, as("127.0.0.7"), 403, "GET", "/", "X-Forwarded-For", "1.2.3.4")
	host.Policies = authorization(policy(waypoint.Authorization_ALLOW, "p", from(&waypoint.Source{Principals: present()})))
	p.Apply(w)
	wantStatus(t, as("127.0.0.7"), 403, "GET", "/", "X-Forwarded-Client-Cert", "URI="+idClient)
}
