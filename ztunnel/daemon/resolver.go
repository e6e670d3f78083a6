package daemon

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"

	"github.com/ambit-mesh/ambit/ztunnel/dns"
)

const resolvConf = "/etc/resolv.conf"

// upstream is whom the pods' other questions go to. Without the file there is nobody, which is worth a warning and no more.
func upstream(log *slog.Logger) dns.Upstream {
	text, err := os.ReadFile(resolvConf)
	if err != nil {
		log.Warn("names outside the mesh cannot be resolved for pods", "error", err)
	}
	return dns.ParseResolvConf(string(text))
}

// resolver looks names up as the proxy's own /etc/resolv.conf says.
type resolver struct{}

func (resolver) Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, err
}
