package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"

	"github.com/ambit-mesh/ambit/ca/catest"
	"github.com/ambit-mesh/ambit/ca/certs"
)

// Ports of the ways that speak TLS themselves.
const (
	plainPort = 8080
	tlsPort   = 8443
	barePort  = 9443
	bareAdmin = 9901
)

// parties are those that speak TLS to each other where no mesh does it for them.
type parties struct {
	ca                    *catest.CA
	client, server, proxy *certs.SVID
}

func newParties() *parties {
	ca := catest.New()
	of := func(account string) *certs.SVID { return ca.MustSVID("spiffe://cluster.local/ns/plain/sa/" + account) }
	return &parties{ca: ca, client: of("client"), server: of("server"), proxy: of("proxy")}
}

func (p *parties) dials() *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{p.client.TLS}, MinVersion: tls.VersionTLS13,
		InsecureSkipVerify: true, // there are no names; both ends show certificates all the same
	}
}

func (p *parties) serves() *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{p.server.TLS}, MinVersion: tls.VersionTLS13, ClientCAs: p.server.Roots, ClientAuth: tls.RequireAndVerifyClientCert,
	}
}

// bareConfig is an Envoy that forwards HTTP/1.1 to one server, with mTLS on both sides and nothing else: the least a hop
// through Envoy can cost.
func (p *parties) bareConfig(server string) ([]byte, error) {
	key, err := x509.MarshalPKCS8PrivateKey(p.proxy.TLS.PrivateKey)
	if err != nil {
		return nil, err
	}
	var chain []byte
	for _, der := range p.proxy.TLS.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	inline := func(b []byte) any { return map[string]any{"inline_string": string(b)} }
	common := map[string]any{
		"tls_params": map[string]any{"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
		"tls_certificates": []any{map[string]any{
			"certificate_chain": inline(chain),
			"private_key":       inline(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})),
		}},
		"validation_context": map[string]any{"trusted_ca": inline(p.ca.Roots())},
	}
	typed := func(kind string, fields map[string]any) map[string]any {
		fields["@type"] = "type.googleapis.com/" + kind
		return fields
	}
	address := func(ip string, port int) any {
		return map[string]any{"socket_address": map[string]any{"address": ip, "port_value": port}}
	}
	route := map[string]any{"virtual_hosts": []any{map[string]any{
		"name": "all", "domains": []any{"*"},
		"routes": []any{map[string]any{"match": map[string]any{"prefix": "/"}, "route": map[string]any{"cluster": "server"}}},
	}}}
	manager := typed("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", map[string]any{
		"stat_prefix": "bare", "route_config": route,
		"http_filters": []any{map[string]any{
			"name": "router", "typed_config": typed("envoy.extensions.filters.http.router.v3.Router", map[string]any{}),
		}},
	})
	return json.Marshal(map[string]any{
		"admin": map[string]any{"address": address("127.0.0.1", bareAdmin)},
		"static_resources": map[string]any{
			"listeners": []any{map[string]any{
				"name": "bare", "address": address("0.0.0.0", barePort),
				"filter_chains": []any{map[string]any{
					"filters": []any{map[string]any{"name": "http", "typed_config": manager}},
					"transport_socket": map[string]any{
						"name": "tls", "typed_config": typed("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", map[string]any{
							"common_tls_context": common, "require_client_certificate": true,
						}),
					},
				}},
			}},
			"clusters": []any{map[string]any{
				"name": "server", "type": "STATIC", "connect_timeout": "2s",
				"load_assignment": map[string]any{"cluster_name": "server", "endpoints": []any{map[string]any{
					"lb_endpoints": []any{map[string]any{"endpoint": map[string]any{"address": address(server, tlsPort)}}},
				}}},
				"transport_socket": map[string]any{
					"name": "tls", "typed_config": typed("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", map[string]any{"common_tls_context": common}),
				},
			}},
		},
	})
}

// barePod runs it.
func barePod(envoy, config string, workers int) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: bare, namespace: plain}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 1
  containers: [{name: envoy, command: [%q, -c, %q, --concurrency, "%d", --disable-hot-restart, --log-level, warn]}]
`, envoy, config, workers)
}
