package proxy

import (
	"errors"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/ztunnel/hbone"
)

// What a peer asks for stands in the access log before anybody has looked at it. It must not be able to write fields of
// the line there, an identity least of all.
func TestAuthorityCannotForgeLogFields(t *testing.T) {
	w := start(t, cartWorld(t), nil)
	_, err := w.open(w.tunnel("10.0.0.9", "shop", "web-sa"), `x:1 src.identity="spiffe://cluster.local/ns/shop/sa/admin"`)
	var se *hbone.StatusError
	if !errors.As(err, &se) || se.Code != 400 {
		t.Fatalf("%v, want status 400", err)
	}
	line := w.logged(`reason="bad-authority"`)
	if strings.Contains(line, ` src.identity="spiffe://cluster.local/ns/shop/sa/admin"`) {
		t.Errorf("the peer wrote a field of its own:\n%s", line)
	}
}
