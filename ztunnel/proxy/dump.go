package proxy

import (
	"net/netip"
	"slices"
	"strings"
)

// PodStatus is one pod as the proxy serves it.
type PodStatus struct {
	UID         string // the uid the CNI agent uses
	Connections []ConnectionStatus
}

// ConnectionStatus is one open connection.
type ConnectionStatus struct {
	Inbound  bool
	Src      netip.AddrPort
	Original netip.AddrPort // as the client dialed it
	Actual   netip.AddrPort // as the proxy dialed it
	Protocol string         // HBONE or TCP
}

// Dump lists the pods and their open connections.
func (p *Proxy) Dump() []PodStatus {
	var out []PodStatus
	for _, pd := range p.all() {
		st := PodStatus{UID: pd.uid}
		for _, c := range pd.conns.list() {
			st.Connections = append(st.Connections, ConnectionStatus{
				Inbound: c.inbound, Src: c.src, Original: c.original, Actual: c.actual, Protocol: c.protocol,
			})
		}
		out = append(out, st)
	}
	slices.SortFunc(out, func(a, b PodStatus) int { return strings.Compare(a.UID, b.UID) })
	return out
}
