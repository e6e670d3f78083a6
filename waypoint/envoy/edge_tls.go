package envoy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// edgeTLS is what a listener shows its clients and asks of them. The error is of this listener alone: a certificate that
// is missing or unusable would otherwise keep Envoy from listening on the port at all.
func (e *Env) edgeTLS(l *waypoint.Listener, alpn ...string) (*corev3.TransportSocket, error) {
	if len(l.GetCertificates()) == 0 {
		return nil, errors.New("it has no certificate: name one in tls.certificateRefs")
	}
	common := &tlsv3.CommonTlsContext{
		AlpnProtocols: alpn,
		TlsParams:     &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2},
	}
	for _, name := range l.GetCertificates() {
		if err := e.usable(name); err != nil {
			return nil, err
		}
		common.TlsCertificateSdsSecretConfigs = append(common.TlsCertificateSdsSecretConfigs, e.Options.fromAgent(name))
	}
	context := &tlsv3.DownstreamTlsContext{CommonTlsContext: common, RequireClientCertificate: wrapperspb.Bool(false)}
	if ca := l.GetClientCa(); ca != "" {
		if !x509.NewCertPool().AppendCertsFromPEM([]byte(ca)) {
			return nil, errors.New("the bundle for client certificates has no certificate in it: expect PEM")
		}
		context.RequireClientCertificate = wrapperspb.Bool(!l.GetClientCertificateOptional())
		common.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: ca}},
		}}
	}
	return transport("envoy.transport_sockets.tls", context), nil
}

// usable says why a certificate cannot be served.
func (e *Env) usable(name string) error {
	if e.Secret == nil {
		return nil
	}
	s := e.Secret(name)
	if s == nil {
		return fmt.Errorf("Secret %s is not there (yet)", name)
	}
	if _, err := tls.X509KeyPair(s.GetCertificateChain(), s.GetPrivateKey()); err != nil {
		return fmt.Errorf("Secret %s/%s has no usable certificate and key: %w", s.GetNamespace(), s.GetName(), err)
	}
	return nil
}
