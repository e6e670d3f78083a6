package daemon

import (
	"log/slog"
	"testing"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/xds"
)

// TestKeysAreKeptBack: who need not prove who he is gets nobody's private keys.
func TestKeysAreKeptBack(t *testing.T) {
	d, err := New(newPlane(t).cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range d.facts {
		c.Apply([]*xds.Resource{{Name: "shop/edge/x", Version: "1", Scopes: []string{"shop/edge"}}}, nil)
	}
	for _, c := range d.served() {
		if want := c.TypeURL() != mesh.TypeWaypointSecret; (c.Len() == 1) != want {
			t.Errorf("%s: %d resources are served to anybody", c.TypeURL(), c.Len())
		}
	}
	d.cfg.TokenKeys = "keys"
	for _, c := range d.served() {
		if c.Len() != 1 {
			t.Errorf("%s: %d resources are served to clients with tokens", c.TypeURL(), c.Len())
		}
	}
}
