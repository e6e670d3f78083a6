package telemetry

import "github.com/ambit-mesh/ambit/ztunnel/state"

// unknown stands for every value that is not known. istio/ztunnel src/metrics DefaultedUnknown.
const unknown = "unknown"

// The label names of the TCP metrics, in Istio's order.
var trafficLabels = []string{
	"reporter",
	"source_workload", "source_canonical_service", "source_canonical_revision", "source_workload_namespace",
	"source_principal", "source_app", "source_version", "source_cluster",
	"destination_service", "destination_service_namespace", "destination_service_name",
	"destination_workload", "destination_canonical_service", "destination_canonical_revision",
	"destination_workload_namespace", "destination_principal", "destination_app", "destination_version",
	"destination_cluster",
	"request_protocol", "response_flags", "connection_security_policy",
	"source_region", "source_zone", "destination_region", "destination_zone",
}

// labels is one label set, in the order of trafficLabels. Being comparable it is its own key in the table of series, so
// that a connection costs a lookup and no allocation.
type labels [27]string

const (
	lReporter = iota
	lSource
)

// An end of a connection takes eight labels in a row at the source and, from destination_workload on, at the destination.
const (
	endWorkload = iota
	endCanonicalService
	endCanonicalRevision
	endNamespace
	endPrincipal
	endApp
	endVersion
	endCluster
	endSize
)

const (
	lService          = lSource + endSize
	lServiceNamespace = lService + 1
	lServiceName      = lService + 2
	lDestination      = lService + 3
	lProtocol         = lDestination + endSize
	lFlags            = lProtocol + 1
	lSecurity         = lProtocol + 2
	lSourceRegion     = lProtocol + 3
	lDestRegion       = lProtocol + 5
)

func labelsOf(info *ConnInfo, flags string) labels {
	var l labels
	l[lReporter] = "source"
	source, dest := (*Peer)(nil), info.Peer
	if info.Direction == Inbound {
		l[lReporter] = "destination"
		source, dest = dest, source
	}
	l.end(lSource, lSourceRegion, info.Source, source)
	l.end(lDestination, lDestRegion, info.Destination, dest)
	if !info.SourceID.IsZero() {
		l[lSource+endPrincipal] = info.SourceID.String()
	}
	if !info.DestID.IsZero() {
		l[lDestination+endPrincipal] = info.DestID.String()
	}
	if s := info.Service; s != nil {
		l[lService], l[lServiceNamespace], l[lServiceName] = s.Hostname, s.Namespace, s.Name
	}
	l[lProtocol], l[lFlags], l[lSecurity] = "tcp", flags, unknown
	if info.MutualTLS {
		l[lSecurity] = "mutual_tls"
	}
	for i := range l {
		if l[i] == "" {
			l[i] = unknown
		}
	}
	return l
}

// end fills in the labels of one end. App and version repeat the canonical names: they are what is left of the labels
// `app` and `version` on the wire.
func (l *labels) end(at, region int, w *state.Workload, p *Peer) {
	switch {
	case w != nil:
		l[at+endWorkload], l[at+endNamespace], l[at+endCluster] = w.WorkloadName, w.Namespace, w.ClusterID
		l[at+endCanonicalService], l[at+endCanonicalRevision] = w.CanonicalName, w.CanonicalRevision
		if w.Locality != nil {
			l[region], l[region+1] = w.Locality.Region, w.Locality.Zone
		}
	case p != nil:
		l[at+endWorkload], l[at+endNamespace], l[at+endCluster] = p.Workload, p.Namespace, p.Cluster
		l[at+endCanonicalService], l[at+endCanonicalRevision] = p.CanonicalName, p.CanonicalRevision
		l[region], l[region+1] = p.Region, p.Zone
	}
	l[at+endApp], l[at+endVersion] = l[at+endCanonicalService], l[at+endCanonicalRevision]
}
