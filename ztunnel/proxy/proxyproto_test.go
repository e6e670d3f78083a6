package proxy

import (
	"encoding/hex"
	"net/netip"
	"testing"

	"github.com/ambit-mesh/ambit/ca/identity"
)

func TestProxyHeader(t *testing.T) {
	for _, tc := range []struct {
		name, src, dst string
		source         identity.ID
		want           string
	}{
		{"IPv4 without identity", "10.0.0.1:4660", "10.0.0.2:80", identity.ID{},
			"0d0a0d0a000d0a515549540a" + "21" + "11" + "000c" + "0a000001" + "0a000002" + "1234" + "0050"},
		{"IPv4 with identity", "10.0.0.1:4660", "10.0.0.2:80", identity.ID{TrustDomain: "t", Namespace: "n", ServiceAccount: "s"},
			"0d0a0d0a000d0a515549540a" + "21" + "11" + "0023" + "0a000001" + "0a000002" + "1234" + "0050" +
				"d0" + "0014" + hex.EncodeToString([]byte("spiffe://t/ns/n/sa/s"))},
		{"mixed families become IPv6", "10.0.0.1:1", "[fd00::2]:2", identity.ID{},
			"0d0a0d0a000d0a515549540a" + "21" + "21" + "0024" + "00000000000000000000ffff0a000001" + "fd000000000000000000000000000002" + "0001" + "0002"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := hex.EncodeToString(proxyHeader(netip.MustParseAddrPort(tc.src), netip.MustParseAddrPort(tc.dst), tc.source))
			if got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}
