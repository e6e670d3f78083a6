package envoy

import (
	"net/netip"

	"github.com/ambit-mesh/ambit/api/mesh"
)

const (
	portStats = 15090

	defaultMaxConnections = 50_000
	defaultMaxHeap        = 2 << 30
	defaultMaxSeries      = 50_000
)

// withDefaults fills in what is not set.
func (o Options) withDefaults() Options {
	port := func(p *uint32, value uint32) {
		if *p == 0 {
			*p = value
		}
	}
	port(&o.HBONEPort, mesh.PortHBONE)
	port(&o.PeerHBONEPort, mesh.PortHBONE)
	port(&o.ReadyPort, mesh.PortReadiness)
	port(&o.StatsPort, portStats)
	port(&o.AdminPort, mesh.PortAdmin)
	port(&o.MaxMetricSeries, defaultMaxSeries)
	if !o.Bind.IsValid() {
		o.Bind = netip.IPv6Unspecified()
	}
	if o.MaxConnections == 0 {
		o.MaxConnections = defaultMaxConnections
	}
	if o.MaxHeap == 0 {
		o.MaxHeap = defaultMaxHeap
	}
	if o.TrustDomain == "" {
		o.TrustDomain = mesh.DefaultTrustDomain
	}
	if o.Cluster == "" {
		o.Cluster = mesh.DefaultClusterID
	}
	if o.ServiceAccount == "" {
		o.ServiceAccount = mesh.DefaultServiceAccount
	}
	return o
}

func (e *Env) options() Options { return e.Options.withDefaults() }

// trustDomains are those whose certificates are accepted.
func (e *Env) trustDomains() []string {
	if t := e.Gateway.GetTrustDomains(); len(t) > 0 {
		return t
	}
	return []string{e.options().TrustDomain}
}

// spiffeID is an identity of the mesh.
func spiffeID(trustDomain, namespace, account string) string {
	if trustDomain == "" {
		trustDomain = mesh.DefaultTrustDomain
	}
	if account == "" {
		account = mesh.DefaultServiceAccount
	}
	return "spiffe://" + trustDomain + "/ns/" + namespace + "/sa/" + account
}
