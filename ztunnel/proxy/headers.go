package proxy

import (
	"net/netip"
	"strings"

	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/hbone"
	"github.com/ambit-mesh/ambit/ztunnel/route"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

func (pd *pod) requestHeaders(s *state.Snapshot, d route.Decision, src, dst netip.AddrPort) []hbone.Header {
	return nil
}

func (pd *pod) responseHeaders(w *state.Workload) []hbone.Header { return nil }

func forwardedHost(in *hbone.Incoming) string { return "" }

func peerOf(in *hbone.Incoming, peer identity.ID) *telemetry.Peer { return nil }

// joinAccept and parseAccept carry a list of identities through a pool key.
func joinAccept(ids []identity.ID) string {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = id.String()
	}
	return strings.Join(names, " ")
}

func parseAccept(s string) ([]identity.ID, error) {
	var ids []identity.ID
	for name := range strings.FieldsSeq(s) {
		id, err := identity.Parse(name)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// clip keeps what a peer sent from flooding a log line.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
