package daemon

import (
	"crypto/tls"
	"fmt"
	"net"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/ca/certs"
	"github.com/ambit-mesh/ambit/ca/client"
)

// xdsConfig is how the authority introduces itself to the control plane: with its own certificate, and a token if it has
// one.
func xdsConfig(d *Daemon, roots func() ([]byte, error)) xds.ClientConfig {
	id := d.self()
	name := id.ServiceAccount
	if host := hostname(); host != "" && !strings.HasPrefix(host, name) {
		name += "-" + host
	}
	cfg := xds.ClientConfig{
		Target:     strings.TrimPrefix(strings.TrimPrefix(d.cfg.XDSAddress, "https://"), "http://"),
		ServerName: d.cfg.XDSServerName,
		// Four parts, the address a placeholder: the authority is nobody's proxy, but only proxies' types are known on the wire.
		Node: &corev3.Node{
			Id: fmt.Sprintf("ztunnel~1.1.1.1~%s.%s~%s.svc.cluster.local", name, id.Namespace, id.Namespace),
			Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{
				"NAME": structpb.NewStringValue(name), "NAMESPACE": structpb.NewStringValue(id.Namespace), "SERVICE_ACCOUNT": structpb.NewStringValue(id.ServiceAccount)}},
		},
		Logger:     d.log,
		Registerer: d.registry,
	}
	if d.cfg.XDSToken != "" {
		cfg.Token = client.TokenFile(d.cfg.XDSToken)
	}
	if strings.HasPrefix(d.cfg.XDSAddress, "http://") {
		return cfg
	}
	serverName := d.cfg.XDSServerName
	if serverName == "" {
		serverName, _, _ = net.SplitHostPort(cfg.Target)
	}
	cfg.TLS = func() (*tls.Config, error) {
		pem, err := roots()
		if err != nil {
			return nil, fmt.Errorf("roots of the control plane: %w", err)
		}
		parsed, err := certs.ParseCertificates(pem)
		if err != nil {
			return nil, fmt.Errorf("roots of the control plane: %w", err)
		}
		return &tls.Config{
			MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, ServerName: serverName, RootCAs: certs.NewBundle(parsed).Pool(),
			Certificates: []tls.Certificate{*d.serving[0].Certificate()},
		}, nil
	}
	return cfg
}
