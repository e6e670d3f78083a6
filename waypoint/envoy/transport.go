package envoy

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	internalv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/internal_upstream/v3"
	rawv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/type/metadata/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// metaTransport is the namespace of endpoint metadata by which Envoy picks a transport socket, metaOriginal the one the
// original_dst listener filter reads.
const (
	metaTransport = "envoy.transport_socket_match"
	metaOriginal  = "envoy.filters.listener.original_dst"
)

func transport(name string, config proto.Message) *corev3.TransportSocket {
	return &corev3.TransportSocket{Name: name, ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: toAny(config)}}
}

func rawTransport() *corev3.TransportSocket {
	return transport("envoy.transport_sockets.raw_buffer", &rawv3.RawBuffer{})
}

// internalTransport leads to a listener of this Envoy and takes the endpoint's metadata along. Filter state that is
// shared with upstreams goes with it in any case.
func internalTransport(inner *corev3.TransportSocket, metadata ...string) *corev3.TransportSocket {
	if inner == nil {
		inner = rawTransport()
	}
	t := &internalv3.InternalUpstreamTransport{TransportSocket: inner}
	for _, name := range metadata {
		t.PassthroughMetadata = append(t.PassthroughMetadata, &internalv3.InternalUpstreamTransport_MetadataValueSource{
			Kind: &metadatav3.MetadataKind{Kind: &metadatav3.MetadataKind_Host_{Host: &metadatav3.MetadataKind_Host{}}},
			Name: name,
		})
	}
	return transport("envoy.transport_sockets.internal_upstream", t)
}

// tunnelOrPlain picks by endpoint: through a tunnel, or straight to a pod that is not in the mesh.
func tunnelOrPlain(inner *corev3.TransportSocket) []*clusterv3.Cluster_TransportSocketMatch {
	plain := inner
	if plain == nil {
		plain = rawTransport()
	}
	return []*clusterv3.Cluster_TransportSocketMatch{
		{
			Name:            "tunnel",
			Match:           stringStruct("tunnel", "hbone"),
			TransportSocket: internalTransport(inner, metaOriginal, metaPeer),
		},
		{Name: "plain", Match: &structpb.Struct{}, TransportSocket: plain},
	}
}

// stringStruct takes keys and values in turn; empty values are left out.
func stringStruct(pairs ...string) *structpb.Struct {
	s := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			s.Fields[pairs[i]] = structpb.NewStringValue(pairs[i+1])
		}
	}
	return s
}
