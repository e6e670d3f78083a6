package proxy

import (
	"crypto/x509"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	. "github.com/ambit-mesh/ambit/ztunnel/state/statetest"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

// of reports whether a certificate is that of a service account.
func of(account string) func(*x509.Certificate) bool {
	return func(c *x509.Certificate) bool {
		return len(c.URIs) == 1 && strings.HasSuffix(c.URIs[0].Path, "/sa/"+account)
	}
}

// A revocation ends what is open to the peer, on tunnels that are shared and on those that only finish, and nothing else.
func TestRevocationEndsOutboundTunnels(t *testing.T) {
	var revoked atomic.Pointer[string]
	listed := func(c *x509.Certificate) bool { a := revoked.Load(); return a != nil && of(*a)(c) }
	w := start(t, payWorld(t, payPod("pay", "pay-sa", "10.0.0.2"), Pod("shop", "db", "db-sa", "10.0.0.3")), func(c *Config) { c.TLS.Revoked = listed })
	w.peer("10.0.0.2:15008", "pay-sa", 200)
	w.peer("10.0.0.3:15008", "db-sa", 200)
	open := func(dst string) *way {
		t.Helper()
		up, _, _, err := w.reach(dst)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { up.Close() })
		return up
	}
	finishing := open("10.0.0.2:8080")
	w.proxy.Revoke(func(*x509.Certificate) bool { return false }) // from now on others are dialed anew
	shared, bystander := open("10.0.0.2:8080"), open("10.0.0.3:8080")

	account := "pay-sa"
	revoked.Store(&account)
	w.proxy.Revoke(listed)
	for name, up := range map[string]*way{"finishing": finishing, "shared": shared} {
		if _, err := up.Read(make([]byte, 1)); telemetry.ReasonOf(relayError(err)) != telemetry.CertificateRevoked {
			t.Errorf("%s ended with %v", name, err)
		}
	}
	if _, err := bystander.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(bystander, make([]byte, 1)); err != nil {
		t.Errorf("the other tunnel: %v", err)
	}
	if _, _, _, err := w.reach("10.0.0.2:8080"); telemetry.ReasonOf(err) != telemetry.CertificateRevoked {
		t.Errorf("dialed anew: %v", err)
	}
	if n := w.counted("istio_crl_policy_rejections_total"); n < 2 {
		t.Errorf("counted %v", n)
	}
}

// A list that changes while a handshake is under way is noticed when the connection joins the others.
func TestRevocationDuringHandshake(t *testing.T) {
	asked := 0
	w := start(t, payWorld(t, payPod("pay", "pay-sa", "10.0.0.2")), func(c *Config) {
		c.TLS.Revoked = func(cert *x509.Certificate) bool {
			if !of("pay-sa")(cert) {
				return false
			}
			asked++
			return asked > 1 // the handshake asks first
		}
	})
	w.peer("10.0.0.2:15008", "pay-sa", 200)
	if _, _, _, err := w.reach("10.0.0.2:8080"); telemetry.ReasonOf(err) != telemetry.CertificateRevoked {
		t.Fatal(err)
	}
	if conns, _ := w.pod.pool.Conns(); conns != 0 {
		t.Errorf("%d tunnels kept", conns)
	}
}
