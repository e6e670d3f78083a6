package envoy

import (
	"net/netip"
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	setstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"

	"github.com/ambit-mesh/ambit/api/workload"
)

// ClusterPlain reaches pods outside the mesh by their own address.
const ClusterPlain = "plain"

// podGroup is workloads of this gateway with one identity, which are served when addressed by their own IP. Chains are
// made per identity: a chain says which certificate the pod must show, and there are few identities and many pods.
type podGroup struct {
	// san is the pods' SPIFFE id; empty: they are not in the mesh and dialed without a tunnel.
	san       string
	addresses []netip.Addr
}

// name of the chain, and of its routes up to the identity.
func (d podGroup) name(kind string) string {
	base := chainDirectHTTP
	if kind == kindTCP {
		base = chainDirectTCP
	}
	if d.san == "" {
		return base + "|plain"
	}
	return base + "|" + d.san
}

func (d podGroup) routes() string {
	if d.san == "" {
		return chainDirectHTTP + "|plain"
	}
	return chainDirectHTTP
}

func (d podGroup) cluster() string {
	if d.san == "" {
		return ClusterPlain
	}
	return ClusterEncap
}

// state tells connect_originate where to and to whom.
func (d podGroup) state() []*setstatev3.FilterStateValue {
	if d.san == "" {
		return nil
	}
	return []*setstatev3.FilterStateValue{
		keep(stateDestination, "%DOWNSTREAM_LOCAL_ADDRESS%"),
		keep(stateDestinationSAN, strings.ReplaceAll(d.san, "%", "%%")),
	}
}

// directs are the workloads bound to this gateway by identity, in a fixed order.
func (e *Env) directs() []podGroup {
	if !e.Gateway.GetWorkloads() || e.Workloads == nil {
		return nil
	}
	by := map[string]*podGroup{}
	// A WorkloadEntry may claim any address; a pod is what really has it.
	pods := map[netip.Addr]bool{}
	for _, w := range e.Workloads() {
		for _, raw := range w.GetAddresses() {
			if a, ok := netip.AddrFromSlice(raw); ok && isPod(w) && w.GetNetwork() == e.Options.Network {
				pods[a] = true
			}
		}
	}
	for _, w := range e.Workloads() {
		san := ""
		if w.GetTunnelProtocol() == workload.TunnelProtocol_HBONE {
			san = spiffeID(w.GetTrustDomain(), w.GetNamespace(), w.GetServiceAccount())
		}
		if by[san] == nil {
			by[san] = &podGroup{san: san}
		}
		if w.GetNetwork() != e.Options.Network {
			continue
		}
		for _, raw := range w.GetAddresses() {
			if a, ok := netip.AddrFromSlice(raw); ok && (isPod(w) || !pods[a]) {
				by[san].addresses = append(by[san].addresses, a)
			}
		}
	}
	var out []podGroup
	for _, d := range by {
		slices.SortFunc(d.addresses, netip.Addr.Compare)
		out = append(out, *d)
	}
	slices.SortFunc(out, func(a, b podGroup) int { return strings.Compare(a.san, b.san) })
	return out
}

// isPod tells pods from what is only said to be somewhere, by the form of uids: <cluster>/<group>/Pod/<namespace>/<name>.
func isPod(w *workload.Workload) bool { return strings.Contains(w.GetUid(), "//Pod/") }

// encapCluster tunnels to the address in filter state; plainCluster dials the one the client dialed.
func encapCluster() *clusterv3.Cluster {
	c := staticCluster(ClusterEncap, internalAddress(ListenerOriginate, ""))
	c.CircuitBreakers = unlimitedBreakers()
	c.TransportSocket = internalTransport(nil)
	c.TypedExtensionProtocolOptions = downstreamProtocol()
	return c
}

func plainCluster() *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                          ClusterPlain,
		ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST},
		LbPolicy:                      clusterv3.Cluster_CLUSTER_PROVIDED,
		ConnectTimeout:                seconds(2),
		CleanupInterval:               seconds(60),
		CircuitBreakers:               unlimitedBreakers(),
		TypedExtensionProtocolOptions: downstreamProtocol(),
	}
}
