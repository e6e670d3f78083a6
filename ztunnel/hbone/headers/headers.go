// Package headers builds and reads the request and response fields that mesh peers put on a tunnel: baggage,
// forwarded, traceparent and x-forwarded-network.
//
// It knows their grammar and nothing of the workloads they describe. Everything read comes from a peer, so lengths are
// bounded and a field that cannot be read says nothing instead of failing the tunnel. Pure functions; start anywhere.
package headers

// Names of the fields, lower case as on the wire. Istio ambient wire contract, HBONE request headers.
const (
	Baggage          = "baggage"
	Forwarded        = "forwarded"
	TraceParent      = "traceparent"
	ForwardedNetwork = "x-forwarded-network"
	// IstioSource tells an east-west gateway what kind of proxy called it.
	IstioSource = "x-istio-source"
)

// maxField bounds what we read of one field.
const maxField = 8 << 10
