package daemon

import (
	"context"
	"net"
	"strconv"

	"github.com/ambit-mesh/ambit/api/netns"
	"github.com/ambit-mesh/ambit/ztunnel/inpod"
)

// serveOwn lets scrapers in the mesh reach the metrics of this proxy over HBONE, if it knows which pod it is. Its job is to carry
// the traffic of others: when that fails it says so and goes on.
func (z *ztunnel) serveOwn(ctx context.Context) {
	info := inpod.Info{Namespace: z.cfg.PodNamespace, Name: z.cfg.PodName, ServiceAccount: z.cfg.ServiceAccount}
	if z.cfg.dedicated() || info.Namespace == "" || info.Name == "" || info.ServiceAccount == "" {
		return
	}
	_, text, err := net.SplitHostPort(z.cfg.MetricsAddress)
	if err != nil {
		return // no metrics to reach
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return
	}
	ns, err := netns.Open("/proc/self/ns/net")
	if err == nil {
		if err = z.proxy.StartOwn(ctx, info, ns, uint16(port)); err != nil {
			ns.Close()
		}
	}
	if err != nil {
		z.log.Warn("metrics of this proxy are not available over HBONE", "error", err)
	}
}
