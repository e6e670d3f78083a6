package envoy_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"testing"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/waypoint/envoy/envoytest"
)

// TestListenersApart: a host of a listener that asks for client certificates, or that cannot be served, is not to be had
// on a connection to a listener for every host that does not ask, by a route attached to both.
func TestListenersApart(t *testing.T) {
	const prefix = "default/edge/default/"
	w := edgeWorld(t, "127.0.62.1")
	w.Secrets[prefix+"any"] = certificate(t, "*.example.com")
	w.Secrets[prefix+"admin"] = certificate(t, "admin.example.com")
	every := listen(t, w, &waypoint.Listener{Name: "any", Protocol: waypoint.Listener_HTTPS, Hostname: "*.example.com", Certificates: []string{prefix + "any"}},
		httpHost("any", "*.example.com"), httpHost("any", "admin.example.com"), httpHost("any", "gone.example.com"), httpHost("any", "a.deep.example.com"))
	for _, l := range []*waypoint.Listener{
		{Name: "admin", Hostname: "admin.example.com", Certificates: []string{prefix + "admin"}, ClientCa: string(w.Secrets[prefix+"admin"].CertificateChain)},
		{Name: "gone", Hostname: "gone.example.com", Certificates: []string{prefix + "gone"}, Refused: "there is no ConfigMap with the bundle for client certificates"},
		{Name: "deep", Hostname: "*.deep.example.com", Certificates: []string{prefix + "admin"}},
	} {
		l.Protocol, l.Port = waypoint.Listener_HTTPS, every.Port
		listen(t, w, l, httpHost(l.Name, l.Hostname))
	}
	p := envoytest.Start(t, &envoytest.World{Gateway: &waypoint.Gateway{Kind: waypoint.Gateway_EDGE}})
	p.TryApply(w)
	p.Node("127.0.62.1", idEcho)
	ask := func(sni, host string) int {
		tr := &http.Transport{
			ForceAttemptHTTP2: true,
			TLSClientConfig:   &tls.Config{ServerName: sni, InsecureSkipVerify: true},
		}
		defer tr.CloseIdleConnections()
		req, err := http.NewRequest("GET", "https://"+net.JoinHostPort("127.0.0.1", fmt.Sprint(every.Port))+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		resp, err := tr.RoundTrip(req)
		if err != nil {
			return 0
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	for _, c := range []struct {
		sni, host string
		status    int
	}{
		{"shop.example.com", "shop.example.com", 200},
		{"shop.example.com", "admin.example.com", 421},
		{"shop.example.com", fmt.Sprintf("ADMIN.example.com:%d", every.Port), 421},
		{"shop.example.com", "gone.example.com", 421},
		{"gone.example.com", "gone.example.com", 421}, // the listener is gone, its host is still not the other's
		{"shop.example.com", "a.deep.example.com", 421},
		{"shop.example.com", "b.deep.example.com", 421},
		{"x.deep.example.com", "a.deep.example.com", 200},
		{"x.deep.example.com", "shop.example.com", 421}, // another connection would come to the listener for it
		{"x.deep.example.com", "shop.example.org", 404}, // no listener is for that
		{"admin.example.com", "admin.example.com", 0},   // no certificate
	} {
		if got := ask(c.sni, c.host); got != c.status {
			t.Errorf("server name %s, host %s: %d, want %d", c.sni, c.host, got, c.status)
		}
	}
}
