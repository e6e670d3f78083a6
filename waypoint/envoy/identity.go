package envoy

import (
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	mutatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	earlyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	headerXFCC = "x-forwarded-client-cert"
	headerXFF  = "x-forwarded-for"
)

// clientPrefixes are headers that mean something to Envoy or to the mesh. From a client they mean nothing: they would
// set timeouts and retries, name a destination, or somebody else's identity.
var clientPrefixes = []string{"x-envoy-", "x-ambit-"}

// identify sets how a connection manager learns who the client is, and whom it takes the word of: its headers say
// nothing about that, except to an edge gateway behind trusted proxies.
func (e *Env) identify(t target, m *hcmv3.HttpConnectionManager) {
	m.EarlyHeaderMutationExtensions = []*corev3.TypedExtensionConfig{
		typedExtension("ambit.strip", &earlyv3.HeaderMutation{Mutations: stripped()}),
	}
	// No address is "internal": such clients could set x-envoy- headers if the above ever missed one.
	m.InternalAddressConfig = &hcmv3.HttpConnectionManager_InternalAddressConfig{}
	if !t.edge {
		// X-Forwarded-Proto and the request id of an edge gateway stay; clientHeaders appends to X-Forwarded-For.
		m.UseRemoteAddress = wrapperspb.Bool(false)
		m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE
		return
	}
	m.UseRemoteAddress = wrapperspb.Bool(true)
	m.XffNumTrustedHops = e.Gateway.GetMesh().GetTrustedProxies()
	m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE_SET
	m.SetCurrentClientCertDetails = &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{
		Subject: wrapperspb.Bool(true), Dns: true, Uri: true,
	}
}

func stripped() []*mutationv3.HeaderMutation {
	var out []*mutationv3.HeaderMutation
	for _, p := range clientPrefixes {
		out = append(out, &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_RemoveOnMatch_{
			RemoveOnMatch: &mutationv3.HeaderMutation_RemoveOnMatch{KeyMatcher: startingWith(p)},
		}})
	}
	return out
}

// clientHeaders tells the application who the client is: its certificate's SPIFFE id in X-Forwarded-Client-Cert, as
// Istio's proxies write it, and its address at the end of X-Forwarded-For (RFC 7239 §5.2 has the same order). Both come
// from the connection. At the edge Envoy does it by itself.
func clientHeaders(t target) *mutatev3.HeaderMutation {
	if t.edge {
		return &mutatev3.HeaderMutation{}
	}
	return &mutatev3.HeaderMutation{Mutations: &mutatev3.Mutations{RequestMutations: []*mutationv3.HeaderMutation{
		appendHeader(headerXFCC, "By="+state(stateSelf)+";URI="+state(statePeer), corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD),
		appendHeader(headerXFF, state(stateClientAddress), corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD),
	}}}
}

func appendHeader(key, value string, how corev3.HeaderValueOption_HeaderAppendAction) *mutationv3.HeaderMutation {
	return &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_Append{Append: &corev3.HeaderValueOption{
		Header: &corev3.HeaderValue{Key: key, Value: value}, AppendAction: how,
	}}}
}

// removeHeaders has a client's values of headers removed that only the proxy may set for this host.
func removeHeaders(names []string) *mutatev3.HeaderMutationPerRoute {
	out := &mutatev3.Mutations{}
	for _, name := range names {
		out.RequestMutations = append(out.RequestMutations, &mutationv3.HeaderMutation{
			Action: &mutationv3.HeaderMutation_Remove{Remove: name},
		})
	}
	return &mutatev3.HeaderMutationPerRoute{Mutations: out}
}
