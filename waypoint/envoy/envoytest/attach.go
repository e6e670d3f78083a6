package envoytest

import (
	"testing"

	"github.com/ambit-mesh/ambit/ca/catest"
	"github.com/ambit-mesh/ambit/waypoint/envoy"
)

// Attach is a Proxy that somebody else runs, with the certificates of an authority and the ports of options: its peers,
// nodes and admin port are of use, Apply is not.
func Attach(t testing.TB, ca *catest.CA, o envoy.Options) *Proxy {
	return &Proxy{CA: ca, Options: o, Log: &Buffer{}, t: t}
}
