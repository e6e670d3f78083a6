package stories

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestWaypointClients: behind a waypoint the node proxy and the application know whom it speaks for, and never take one
// client for another.
func TestWaypointClients(t *testing.T) {
	w := startWaypoints(t, options{nodes: 2})
	w.guardedShop()
	w.pod("shop", "friend", "friend", "node1")
	w.pod("shop", "foe", "foe", "node1")
	w.serve("shop", "web", 7000)
	w.now(`
apiVersion: v1
kind: Service
metadata: {name: lines, namespace: shop}
spec: {selector: {app: web}, ports: [{name: tcp, port: 7000}]}
`)
	service, lines := "http://"+w.vip("shop", "web")+"/", w.vip("shop", "lines")+":7000"
	w.through("shop", "foe", service, "shop/wp")

	// A policy of the destination's node proxy about the real client, however it comes.
	w.now(onlyFriends)
	w.through("shop", "friend", service, "shop/wp")
	if _, err := w.call("shop", "friend", lines, "hi"); err != nil {
		t.Errorf("friend by TCP: %v", err)
	}
	if a, err := w.fetch("shop", "foe", service); err == nil && a.Status < 400 {
		t.Errorf("foe: %d by %q", a.Status, a.by())
	}
	w.refused("shop", "foe", lines)
	w.logged("node2", "connection complete", `src.client.identity="spiffe://cluster.local/ns/shop/sa/foe"`, `src.identity="spiffe://cluster.local/ns/shop/sa/wp"`, "policy-not-allowed")
	// Whose word that is matters: the waypoint's of this very service, and nobody else's, whoever they have their
	// certificate from.
	own, pod := filepath.Join(w.Dir, "mesh", "issuer"), net.JoinHostPort(w.podIP("shop", "web"), "8080")
	for account, want := range map[string]bool{"wp": true, "next": false, "foe": false} {
		c := &tls.Config{Certificates: []tls.Certificate{w.certificate(own, "cluster.local", "shop", account)}, NextProtos: []string{"h2"}, InsecureSkipVerify: true}
		door := net.JoinHostPort(w.podIP("shop", "web"), "15008")
		for _, header := range []string{"x-ambit-client-identity: spiffe://cluster.local/ns/shop/sa/friend", "x-ambit-client-identity: spiffe://cluster.local/ns/shop/sa/foe", "x-ambit-client-identity: friend", "x-other: y"} {
			a, status, err := w.tunnelled(door, c, pod, []string{header, "x-ambit-client-address: 10.1.1.1"}, "http://web/")
			if got, want := err == nil && a.Status == 200, want && strings.HasSuffix(header, "/sa/friend"); got != want {
				t.Errorf("%s with %s: CONNECT %d, then %d, %v", account, header, status, a.Status, err)
			}
		}
	}
	w.now(strict)
	w.through("shop", "friend", service, "shop/wp")
	w.remove(strict)
	w.remove(onlyFriends)
	w.now(strings.NewReplacer("only-friends", "not-foe", "ALLOW", "DENY", "sa/friend", "sa/foe").Replace(onlyFriends))
	w.through("shop", "friend", service, "shop/wp")
	if a, err := w.fetch("shop", "foe", service); err == nil && a.Status < 400 {
		t.Errorf("foe slipped past a DENY: %d by %q", a.Status, a.by())
	}
	w.refused("shop", "foe", lines)
	// By address, too.
	w.remove(strings.NewReplacer("only-friends", "not-foe").Replace(onlyFriends))
	w.now(fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: not-there, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  action: DENY
  rules: [{from: [{source: {ipBlocks: [%s]}}]}]
`, w.podIP("shop", "foe")))
	w.through("shop", "friend", service, "shop/wp")
	if a, err := w.fetch("shop", "foe", service); err == nil && a.Status < 400 {
		t.Errorf("foe slipped past a DENY by address: %d by %q", a.Status, a.by())
	}
	w.remove("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: not-there, namespace: shop}\n")
	w.synced()

	// Hundreds of requests of two clients, interleaved, over connections that stay and connections that do not.
	var all sync.WaitGroup
	for _, who := range []string{"friend", "foe"} {
		ip := w.podIP("shop", who)
		for i := range 8 {
			c := w.client("shop", who, i%2 == 0)
			if i%4 == 0 {
				tr := c.Transport.(*http.Transport)
				tr.Protocols = new(http.Protocols)
				tr.Protocols.SetUnencryptedHTTP2(true)
			}
			all.Go(func() {
				for n := range 50 {
					say := fmt.Sprintf("%s-%d-%d", who, i, n)
					a, err := send(c, service+say)
					want := "By=spiffe://cluster.local/ns/shop/sa/wp;URI=spiffe://cluster.local/ns/shop/sa/" + who
					if err != nil || a.Status != http.StatusOK || a.Path != "/"+say || a.Header.Get("X-Forwarded-Client-Cert") != want || a.Header.Get("X-Forwarded-For") != ip {
						t.Errorf("%s: %d, %v: path %s, XFCC %s, XFF %s", say, a.Status, err, a.Path, a.Header.Get("X-Forwarded-Client-Cert"), a.Header.Get("X-Forwarded-For"))
						return
					}
				}
			})
		}
	}
	all.Wait()
}
