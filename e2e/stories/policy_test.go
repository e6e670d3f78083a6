package stories

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

const onlyFriends = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-friends, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  action: ALLOW
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/friend]}}]}]
`

const strict = `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
`

// TestPolicy lets one identity through and refuses others with the reason, refuses plaintext under STRICT, and cuts an
// open connection when the policy changes.
func TestPolicy(t *testing.T) {
	w := start(t, options{})
	w.namespace("shop")
	w.namespace("outside")
	w.pod("shop", "friend", "friend", "node1")
	w.pod("shop", "foe", "foe", "node1")
	w.pod("shop", "web", "web", "node2")
	w.pod("outside", "stranger", "stranger", "node3")
	vip := w.service("shop", "web", 80, 8080)
	w.serve("shop", "web", 8080)
	w.enrol("shop")
	w.want("shop", "foe", vip, "web "+w.podIP("shop", "foe"))
	w.want("outside", "stranger", vip, "web "+w.podIP("outside", "stranger"))

	cut, err := w.dial("shop", "foe", vip)
	w.must(err)
	defer cut.Close()
	_, err = say(cut, "before")
	w.must(err)
	stays := w.held("shop", "friend", vip)

	w.apply(onlyFriends)
	// The open connection of an identity that is no longer allowed ends by itself.
	w.must(cut.SetReadDeadline(time.Now().Add(patience)))
	if _, err := cut.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("the open connection of foe was not cut: %v", err)
	}
	w.logged("node2", "connection complete", "sa/foe", "policy changed while the connection was open", "error=")
	w.refused("shop", "foe", vip)
	w.logged("node2", "sa/foe", "allow policies exist, but none allowed", "connection complete")
	w.logged("node1", "sa/foe", "401", "direction=\"outbound\"")
	w.want("shop", "friend", vip, "web "+w.podIP("shop", "friend"))
	w.refused("outside", "stranger", vip)
	if err := stays(); err != nil {
		t.Errorf("the open connection of friend: %v", err)
	}

	w.remove(onlyFriends)
	w.eventually("foe to be let in again", func() error { _, err := w.call("shop", "foe", vip, "hi"); return err })

	// STRICT: the mesh talks, plaintext does not, not even past the service.
	w.apply(strict)
	w.eventually("plaintext to be refused", func() error {
		if _, err := w.call("outside", "stranger", vip, "hi"); err == nil {
			return errors.New("still answered")
		}
		return nil
	})
	w.refused("outside", "stranger", w.podIP("shop", "web")+":8080")
	w.want("shop", "foe", vip, "web "+w.podIP("shop", "foe"))
	w.logged("node2", "connection complete", "explicitly denied by: ambit-system/istio_converted_static_strict")
	metrics, err := w.admin("node2", "/metrics")
	w.must(err)
	denied := false
	for line := range strings.Lines(string(metrics)) {
		denied = denied || strings.HasPrefix(line, "istio_tcp_connections_failed_total") && strings.Contains(line, `response_flags="DENY"`)
	}
	if !denied {
		t.Error("no metric counts the refusals")
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// TestHalfClose: what one side has finished saying does not stop the other, through tunnels on one node and across two.
func TestHalfClose(t *testing.T) {
	w := start(t, options{nodes: 2})
	w.namespace("shop", "istio.io/dataplane-mode: ambient")
	w.pod("shop", "client", "client", "node1")
	w.pod("shop", "near", "near", "node1")
	w.pod("shop", "far", "far", "node2")
	w.protocol("shop", "HBONE")
	const size = 3 << 20
	for _, pod := range []string{"near", "far"} {
		var l net.Listener
		w.must(w.inside("shop", pod, func() (err error) { l, err = net.Listen("tcp", ":9000"); return err }))
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				// Reads everything to its end before it answers.
				n, _ := io.Copy(io.Discard, c)
				_, _ = c.Write(make([]byte, n))
				c.Close()
			}
		}()
		c, err := w.dial("shop", "client", net.JoinHostPort(w.podIP("shop", pod), "9000"))
		w.must(err)
		w.must(c.SetDeadline(time.Now().Add(patience)))
		if _, err := c.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		w.must(c.(*net.TCPConn).CloseWrite())
		n, err := io.Copy(io.Discard, c)
		if err != nil || n != size {
			t.Errorf("%s answered %d of %d bytes: %v", pod, n, size, err)
		}
		c.Close()
	}
}
