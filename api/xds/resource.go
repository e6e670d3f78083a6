package xds

import (
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// Resource is one named item of a Collection. It must not be changed after it was handed to Collection.Apply.
type Resource struct {
	// Name is the canonical name and the only one a client ever sees as the resource's name.
	Name string
	// Aliases are other names an on-demand client may ask for: "network/ip" or "network/ip/prefix-length".
	Aliases []string
	// Version is a hash of the content. Empty means unversioned: a reconnecting client is always sent the resource again.
	Version string
	// Body is the encoded message that travels as the value of the resource's Any. Apply keeps a copy of its own, so
	// the slice may be reused afterwards.
	Body []byte
	// Node is the node a workload runs on; on-demand clients of that node are subscribed to it unasked.
	Node string
	// Services are the names of the services this workload is an endpoint of; who subscribes to a service is subscribed to its endpoints.
	Services []string
	// Scopes are the gateways the resource belongs to, each "namespace/name"; see mesh.GatewayScope.
	Scopes []string
}

// Field numbers of envoy.service.discovery.v3, as far as delta ADS between a control plane and a node proxy uses them.
const (
	fieldResponseVersion      = 1
	fieldResponseResources    = 2
	fieldResponseTypeURL      = 4
	fieldResponseNonce        = 5
	fieldResponseRemoved      = 6
	fieldResponseControlPlane = 7
	fieldIdentifier           = 1 // of a ControlPlane

	fieldResourceVersion = 1
	fieldResourceAny     = 2
	fieldResourceName    = 3
	fieldResourceAliases = 4

	fieldAnyTypeURL = 1
	fieldAnyValue   = 2

	fieldRequestNode        = 1
	fieldRequestTypeURL     = 2
	fieldRequestSubscribe   = 3
	fieldRequestUnsubscribe = 4
	fieldRequestKnown       = 5
	fieldRequestNonce       = 6
	fieldRequestError       = 7

	fieldStatusCode    = 1
	fieldStatusMessage = 2
	fieldMapKey        = 1
	fieldMapValue      = 2
)

// encodeResource builds the resource as it stands in a response, field tag and length included, so that a response is
// nothing but a short head followed by such pieces.
func encodeResource(typeURL string, r *Resource) mem.Buffer {
	anySize := protowire.SizeTag(fieldAnyTypeURL) + protowire.SizeBytes(len(typeURL)) +
		protowire.SizeTag(fieldAnyValue) + protowire.SizeBytes(len(r.Body))
	size := protowire.SizeTag(fieldResourceAny) + protowire.SizeBytes(anySize) +
		protowire.SizeTag(fieldResourceName) + protowire.SizeBytes(len(r.Name))
	if r.Version != "" {
		size += protowire.SizeTag(fieldResourceVersion) + protowire.SizeBytes(len(r.Version))
	}
	for _, a := range r.Aliases {
		size += protowire.SizeTag(fieldResourceAliases) + protowire.SizeBytes(len(a))
	}

	b := make([]byte, 0, protowire.SizeTag(fieldResponseResources)+protowire.SizeBytes(size))
	b = protowire.AppendTag(b, fieldResponseResources, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	if r.Version != "" {
		b = appendString(b, fieldResourceVersion, r.Version)
	}
	b = protowire.AppendTag(b, fieldResourceAny, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(anySize))
	b = appendString(b, fieldAnyTypeURL, typeURL)
	b = protowire.AppendTag(b, fieldAnyValue, protowire.BytesType)
	b = protowire.AppendBytes(b, r.Body)
	b = appendString(b, fieldResourceName, r.Name)
	for _, a := range r.Aliases {
		b = appendString(b, fieldResourceAliases, a)
	}
	return mem.SliceBuffer(b)
}

func appendString(b []byte, field protowire.Number, s string) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return protowire.AppendString(b, s)
}
