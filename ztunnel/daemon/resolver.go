package daemon

import (
	"context"
	"net"
	"net/netip"
)

// resolver looks names up as the proxy's own /etc/resolv.conf says.
type resolver struct{}

func (resolver) Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, err
}
