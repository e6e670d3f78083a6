package model

import (
	"net/netip"
	"strings"

	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/control/object"
)

// appProtocol is the protocol of a Service's port: as said, else by the prefix of its name.
func appProtocol(p object.ServicePort) workload.AppProtocol {
	if p.Protocol != object.TCP {
		return workload.AppProtocol_UNKNOWN
	}
	name := p.Name
	if p.AppProtocol != "" {
		name = p.AppProtocol
		switch name {
		case "kubernetes.io/h2c":
			return workload.AppProtocol_HTTP2
		case "kubernetes.io/ws":
			return workload.AppProtocol_HTTP11
		case "kubernetes.io/wss":
			return workload.AppProtocol_TLS
		}
	}
	if len(name) >= 8 && strings.EqualFold(name[:8], "grpc-web") {
		return workload.AppProtocol_UNKNOWN
	}
	prefix, _, _ := strings.Cut(name, "-")
	if a := protocolNamed(prefix); a != workload.AppProtocol_UNKNOWN {
		return a
	}
	switch p.Port {
	case 25, 53, 3306, 27017: // SMTP, DNS, MySQL and MongoDB, which talk before they are asked
		return workload.AppProtocol_TCP
	}
	return workload.AppProtocol_UNKNOWN
}

// protocolNamed reads a protocol as Istio spells it.
func protocolNamed(s string) workload.AppProtocol {
	switch strings.ToUpper(s) {
	case "HTTP":
		return workload.AppProtocol_HTTP11
	case "HTTP2":
		return workload.AppProtocol_HTTP2
	case "GRPC":
		return workload.AppProtocol_GRPC
	case "TCP":
		return workload.AppProtocol_TCP
	case "TLS", "HTTPS":
		return workload.AppProtocol_TLS
	}
	return workload.AppProtocol_UNKNOWN
}

// isRacing reports whether a ServiceEntry asks for connecting to all its addresses at once.
func isRacing(e *object.ServiceEntry) bool {
	return strings.EqualFold(e.Annotations.Get("istio.io/connect-strategy"), "RACE_FIRST_TCP_CONNECT")
}

func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

func addressText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}
