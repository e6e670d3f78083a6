package envoy

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	proxyprotocolv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// SecretSystemRoots is the SDS resource with the roots of the machine the proxy runs on, for destinations on the Internet.
const SecretSystemRoots = "file-root:system"

func originatesTLS(t *waypoint.ClientTLS) bool {
	return t.GetBroken() != "" || t.GetMode() == waypoint.ClientTLS_SIMPLE || t.GetMode() == waypoint.ClientTLS_MUTUAL
}

// destinationTransport is the TLS (and PROXY protocol) a destination wants spoken inside the tunnel or on the plain wire;
// nil: nothing, raw bytes.
func (e *Env) destinationTransport(d *waypoint.Destination, p *waypoint.TrafficPolicy) (*corev3.TransportSocket, []Problem) {
	var problems []Problem
	var out *corev3.TransportSocket
	if t := p.GetTls(); originatesTLS(t) {
		context, err := e.Options.clientTLS(d, t)
		if err != nil {
			problems = append(problems, Problem{
				Object: destinationName(d),
				Text:   "connections fail because their TLS cannot be set up: " + err.Error(),
			})
			context = noTLS()
		}
		out = transport("envoy.transport_sockets.tls", context)
	}
	if v := p.GetProxyProtocol(); v == 1 || v == 2 {
		if out == nil {
			out = rawTransport()
		}
		out = transport("envoy.transport_sockets.upstream_proxy_protocol", &proxyprotocolv3.ProxyProtocolUpstreamTransport{
			Config:          &corev3.ProxyProtocolConfig{Version: corev3.ProxyProtocolConfig_Version(v - 1)},
			TransportSocket: out,
		})
	} else if v != 0 {
		problems = append(problems, Problem{Object: destinationName(d), Text: fmt.Sprintf("PROXY protocol has no version %d: use 1 or 2", v)})
	}
	return out, problems
}

// TLSProblem says why the TLS that a destination wants cannot be set up, so that connections fail; "" when it can.
func TLSProblem(d *waypoint.Destination, port uint32, subset string) string {
	t := policyFor(d, port, subset).GetTls()
	if !originatesTLS(t) {
		return ""
	}
	if _, err := (Options{}).clientTLS(d, t); err != nil {
		return "connections fail because their TLS cannot be set up: " + err.Error()
	}
	return ""
}

func destinationName(d *waypoint.Destination) string {
	if o := d.GetOrigin(); o.GetKind() != "" {
		return objectName(o)
	}
	return "destination " + d.GetNamespace() + "/" + d.GetHostname()
}

// clientTLS is TLS to a destination that is no peer of the mesh at this layer.
func (o Options) clientTLS(d *waypoint.Destination, t *waypoint.ClientTLS) (*tlsv3.UpstreamTlsContext, error) {
	if t.GetBroken() != "" {
		return nil, errors.New(t.GetBroken())
	}
	common := &tlsv3.CommonTlsContext{}
	out := &tlsv3.UpstreamTlsContext{CommonTlsContext: common, Sni: t.GetSni()}
	if out.Sni == "" && !strings.HasPrefix(d.GetHostname(), "*") {
		out.Sni = d.GetHostname()
	}
	if len(out.Sni) > 255 {
		return nil, fmt.Errorf("server name %q is longer than 255 characters", out.Sni)
	}
	if t.GetMode() == waypoint.ClientTLS_MUTUAL {
		if t.GetSecret() == "" {
			return nil, errors.New("mutual TLS needs a client certificate: name a Secret")
		}
		common.TlsCertificateSdsSecretConfigs = []*tlsv3.SdsSecretConfig{o.fromAgent(t.GetSecret())}
	}
	if t.GetInsecureSkipVerify() {
		return out, nil
	}
	verify := &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: subjects(t, out.Sni)}
	if t.GetCa() == "" {
		common.ValidationContextType = &tlsv3.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext:         verify,
				ValidationContextSdsSecretConfig: o.fromAgent(SecretSystemRoots),
			},
		}
		return out, nil
	}
	if err := checkBundle(t.GetCa()); err != nil {
		return nil, err
	}
	verify.TrustedCa = &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: t.GetCa()}}
	common.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: verify}
	return out, nil
}

// subjects are the names the server's certificate may be for: those given, or the one it was asked for.
func subjects(t *waypoint.ClientTLS, sni string) []*tlsv3.SubjectAltNameMatcher {
	names := t.GetSubjectAltNames()
	if len(names) == 0 && sni != "" {
		names = []string{sni}
	}
	var out []*tlsv3.SubjectAltNameMatcher
	for _, name := range names {
		kind := tlsv3.SubjectAltNameMatcher_DNS
		if _, err := netip.ParseAddr(name); err == nil {
			kind = tlsv3.SubjectAltNameMatcher_IP_ADDRESS
		} else if strings.Contains(name, "://") {
			kind = tlsv3.SubjectAltNameMatcher_URI
		}
		out = append(out, &tlsv3.SubjectAltNameMatcher{SanType: kind, Matcher: exactString(name)})
	}
	return out
}

// checkBundle: Envoy refuses a cluster with certificates it cannot read.
func checkBundle(text string) error {
	rest, n := []byte(text), 0
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("the CA bundle has a PEM block of type %s: only CERTIFICATE belongs there", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("certificate %d of the CA bundle: %w", n, err)
		}
		n++
	}
	if n == 0 {
		return errors.New("the CA bundle has no certificate in PEM")
	}
	return nil
}

// noTLS fails every handshake: no certificate has the hash it asks for. Connections that should be protected in a way
// that cannot be carried out must fail rather than go unprotected.
func noTLS() *tlsv3.UpstreamTlsContext {
	return &tlsv3.UpstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
		ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{
			ValidationContext: &tlsv3.CertificateValidationContext{VerifyCertificateHash: []string{strings.Repeat("00", 32)}},
		},
	}}
}
