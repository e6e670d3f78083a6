package envoy

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// fromAgent is a secret the agent hands out. Private keys never pass through ADS, whose content tools may read.
func (o Options) fromAgent(name string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{
		Name: name,
		SdsConfig: &corev3.ConfigSource{
			ResourceApiVersion:  corev3.ApiVersion_V3,
			InitialFetchTimeout: durationpb.New(0),
			ConfigSourceSpecifier: &corev3.ConfigSource_ApiConfigSource{ApiConfigSource: &corev3.ApiConfigSource{
				ApiType:                   corev3.ApiConfigSource_DELTA_GRPC,
				TransportApiVersion:       corev3.ApiVersion_V3,
				SetNodeOnFirstMessageOnly: true,
				GrpcServices:              []*corev3.GrpcService{o.toAgent(ClusterSDS)},
			}},
		},
	}
}

// toAgent is a stream to the agent. What runs inside Envoy, such as a Wasm module, reaches the agent's cluster as well, but does
// not know the word that lets it in.
func (o Options) toAgent(cluster string) *corev3.GrpcService {
	to := envoyGRPC(cluster)
	if o.AgentToken != "" {
		to.InitialMetadata = []*corev3.HeaderValue{{Key: HeaderAgentToken, Value: o.AgentToken}}
	}
	return to
}

func envoyGRPC(cluster string) *corev3.GrpcService {
	return &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
		EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: cluster},
	}}
}

// meshTLS is one end of HBONE: TLS 1.3, our own certificate, and a peer with a certificate of the mesh's roots for an
// identity of an accepted trust domain. Endpoints are held to their own identity besides, see originate.go.
func (e *Env) meshTLS() *tlsv3.CommonTlsContext {
	var sans []*tlsv3.SubjectAltNameMatcher
	for _, td := range e.trustDomains() {
		// The slash keeps cluster.local from accepting cluster.local.example.com.
		sans = append(sans, &tlsv3.SubjectAltNameMatcher{
			SanType: tlsv3.SubjectAltNameMatcher_URI,
			Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "spiffe://" + td + "/"}},
		})
	}
	return &tlsv3.CommonTlsContext{
		TlsParams: &tlsv3.TlsParameters{
			TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
			TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
		},
		AlpnProtocols:                  []string{"h2"},
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{e.Options.fromAgent(SecretIdentity)},
		ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext:         &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: sans},
				ValidationContextSdsSecretConfig: e.Options.fromAgent(SecretRoots),
			},
		},
	}
}

func (e *Env) meshServer() *corev3.TransportSocket {
	return transport("envoy.transport_sockets.tls", &tlsv3.DownstreamTlsContext{
		CommonTlsContext:         e.meshTLS(),
		RequireClientCertificate: wrapperspb.Bool(true),
		// A resumed session would outlive a rotation of the roots.
		DisableStatefulSessionResumption: true,
		SessionTicketKeysType: &tlsv3.DownstreamTlsContext_DisableStatelessSessionResumption{
			DisableStatelessSessionResumption: true,
		},
	})
}

func (e *Env) meshClient() *corev3.TransportSocket {
	return transport("envoy.transport_sockets.tls", &tlsv3.UpstreamTlsContext{
		CommonTlsContext: e.meshTLS(),
		MaxSessionKeys:   uint32Value(0),
	})
}
