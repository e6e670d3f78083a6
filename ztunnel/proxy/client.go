package proxy

import (
	"fmt"
	"net/netip"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/hbone"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

// original is the client a waypoint speaks for. Either part may be missing.
//
// It is for policies and logs. The address the application sees is still that of the peer, as in Istio: replies have to come
// back through this proxy whatever the client's address, and an application behind a waypoint finds its clients in
// X-Forwarded-For.
type original struct {
	id identity.ID
	ip netip.Addr
}

// originalClient reads for whom a peer says it speaks. Only a waypoint bound to the destination is believed; of others the
// headers are ignored and counted. A bound waypoint that cannot be understood is refused: a policy may be about that client.
func (pd *pod) originalClient(w *state.Workload, in *hbone.Incoming, peer identity.ID) (original, error) {
	var client original
	var seenID, seenIP bool
	for _, h := range in.Headers() {
		var err error
		switch h.Name {
		case mesh.HeaderClientIdentity:
			seenID, err = once(seenID)
			if err == nil && told(h.Value) {
				client.id, err = identity.Parse(h.Value)
			}
		case mesh.HeaderClientAddress:
			seenIP, err = once(seenIP)
			if err == nil && told(h.Value) {
				client.ip, err = netip.ParseAddr(h.Value)
				client.ip = state.Unmapped(client.ip)
			}
		default:
			continue
		}
		if !w.Guards.Trusts(peer) {
			pd.proxy.Recorder.ClientHeadersIgnored.Inc()
			pd.log.Debug("what a peer says of its client is ignored: it is no waypoint of this pod", "peer", peer.String(), "header", h.Name)
			return original{}, nil
		}
		if err != nil {
			return original{}, telemetry.Fail(telemetry.BadAuthority, "header "+h.Name+" of waypoint "+peer.String(), err)
		}
	}
	return client, nil
}

func once(seen bool) (bool, error) {
	if seen {
		return true, fmt.Errorf("is there twice")
	}
	return true, nil
}

// told tells a value from the ways Envoy writes that it has none.
func told(v string) bool { return v != "" && v != "-" }

// refusalFields tell the peer's proxy why, where its user can do something about it. Other reasons stay in our own log.
func refusalFields(err error) []hbone.Header {
	if telemetry.ReasonOf(err) != telemetry.WaypointRequired {
		return nil
	}
	return []hbone.Header{{Name: mesh.HeaderRefusal, Value: printable(telemetry.WaypointRequired.String() + ": " + err.Error())}}
}

// maxRefusal keeps header lists within what peers accept.
const maxRefusal = 1000

// printable is text as a field value may hold it, RFC 9110 §5.5.
func printable(s string) string {
	b := make([]byte, 0, min(len(s), maxRefusal))
	for i := 0; i < len(s) && i < maxRefusal; i++ {
		c := s[i]
		if c < ' ' || c > '~' {
			c = '?'
		}
		b = append(b, c)
	}
	return string(b)
}
