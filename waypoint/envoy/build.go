package envoy

import (
	"net/netip"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	setstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Small pieces every part of the configuration is built of.

// unlimited is for limits that would only move a queue from one place of the same process to another.
const unlimited = 1<<32 - 1

func seconds(n int64) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Second) }

func uint32Value(n uint32) *wrapperspb.UInt32Value { return wrapperspb.UInt32(n) }

// fromADS says that a resource comes over the agent's one stream. It is waited for without a limit: a listener that
// waits for its routes is better than one that answers 404.
func fromADS() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		InitialFetchTimeout:   durationpb.New(0),
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
}

func socketAddress(ip string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       ip,
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

// listenAddress also takes IPv4 when it is the unspecified IPv6 address.
func listenAddress(bind netip.Addr, port uint32) *corev3.Address {
	a := socketAddress(bind.String(), port)
	a.GetSocketAddress().Ipv4Compat = bind == netip.IPv6Unspecified()
	return a
}

func pipeAddress(path string) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path}}}
}

// internalAddress is a listener of this Envoy; id tells addresses of one listener apart.
func internalAddress(listener, id string) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_EnvoyInternalAddress{EnvoyInternalAddress: &corev3.EnvoyInternalAddress{
		AddressNameSpecifier: &corev3.EnvoyInternalAddress_ServerListenerName{ServerListenerName: listener},
		EndpointId:           id,
	}}}
}

func internalListener() *listenerv3.Listener_InternalListener {
	return &listenerv3.Listener_InternalListener{InternalListener: &listenerv3.Listener_InternalListenerConfig{}}
}

func networkFilter(name string, config proto.Message) *listenerv3.Filter {
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: toAny(config)}}
}

func listenerFilter(name string, config proto.Message) *listenerv3.ListenerFilter {
	return &listenerv3.ListenerFilter{Name: name, ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: toAny(config)}}
}

func httpFilter(name string, config proto.Message) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: toAny(config)}}
}

func typedExtension(name string, config proto.Message) *corev3.TypedExtensionConfig {
	return &corev3.TypedExtensionConfig{Name: name, TypedConfig: toAny(config)}
}

// textFormat is a format of Envoy's access logs, where a value that is not there is nothing.
func textFormat(format string) *corev3.SubstitutionFormatString {
	return &corev3.SubstitutionFormatString{
		OmitEmptyValues: true,
		Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{
			Specifier: &corev3.DataSource_InlineString{InlineString: format},
		}},
	}
}

// keep makes a filter state object of a format. It is shared with the connection upstream once: never further, so that
// what one hop knows of its peer is not taken for what the next hop knows.
func keep(key, format string) *setstatev3.FilterStateValue {
	v := &setstatev3.FilterStateValue{
		Key:                &setstatev3.FilterStateValue_ObjectKey{ObjectKey: key},
		Value:              &setstatev3.FilterStateValue_FormatString{FormatString: textFormat(format)},
		SharedWithUpstream: setstatev3.FilterStateValue_ONCE,
		SkipIfEmpty:        true,
	}
	switch key {
	case stateLocalIP, stateRemoteIP, stateSANs: // have factories of their own
	default:
		v.FactoryKey = hashable
	}
	return v
}

// state is how a format refers to a filter state string.
func state(key string) string { return "%FILTER_STATE(" + key + ":PLAIN)%" }
