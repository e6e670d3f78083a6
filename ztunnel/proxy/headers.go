package proxy

import (
	"math/rand/v2"
	"net/netip"
	"strings"

	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/hbone"
	"github.com/ambit-mesh/ambit/ztunnel/hbone/headers"
	"github.com/ambit-mesh/ambit/ztunnel/route"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

// requestHeaders describe the client to the other end, for its logs and metrics alone: it believes the certificate.
func (pd *pod) requestHeaders(self *state.Workload, d route.Decision, src netip.AddrPort) []hbone.Header {
	origin := headers.Origin{For: src}
	if d.Service != nil {
		origin.Host = d.Service.Hostname
	}
	return []hbone.Header{
		{Name: headers.Baggage, Value: describe(self).String()},
		{Name: headers.Forwarded, Value: origin.String()},
		{Name: headers.TraceParent, Value: headers.NewTrace(rand.Uint64).String()},
	}
}

// responseHeaders describe this pod to a client that knows only a gateway.
func (pd *pod) responseHeaders(w *state.Workload) []hbone.Header {
	if !pd.proxy.cfg.ResponseBaggage {
		return nil
	}
	return []hbone.Header{{Name: headers.Baggage, Value: describe(w).String()}}
}

func describe(w *state.Workload) headers.Workload {
	out := headers.Workload{
		Cluster: w.ClusterID, Namespace: w.Namespace, Kind: w.Type.String(), Name: w.WorkloadName,
		Service: w.CanonicalName, Version: w.CanonicalRevision,
	}
	if w.Locality != nil {
		out.Region, out.Zone = w.Locality.Region, w.Locality.Zone
	}
	return out
}

func forwardedHost(in *hbone.Incoming) string {
	return headers.ParseForwarded(in.Header(headers.Forwarded)).Host
}

// peerOf is what a peer says of itself. Its namespace is not taken from there: the certificate proved it.
func peerOf(in *hbone.Incoming, peer identity.ID) *telemetry.Peer {
	b := headers.ParseBaggage(in.Header(headers.Baggage))
	return &telemetry.Peer{
		Workload: b.Name, Namespace: peer.Namespace, CanonicalName: b.Service, CanonicalRevision: b.Version,
		Cluster: b.Cluster, Region: b.Region, Zone: b.Zone,
	}
}

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
