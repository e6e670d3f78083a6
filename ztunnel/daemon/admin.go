package daemon

import (
	"context"

	"github.com/ambit-mesh/ambit/ztunnel/admin"
	"github.com/ambit-mesh/ambit/ztunnel/explain"
	"github.com/ambit-mesh/ambit/ztunnel/inpod"
	"github.com/ambit-mesh/ambit/ztunnel/proxy"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

// serveAdmin answers operators, scrapers and probes.
func (z *ztunnel) serveAdmin(ctx context.Context, levels *telemetry.Levels) error {
	at := admin.Addresses{
		Admin: z.cfg.AdminAddress, Socket: z.cfg.AdminSocket, Metrics: z.cfg.MetricsAddress, Readiness: z.cfg.ReadinessAddress,
	}
	return admin.Serve(ctx, at, admin.Sources{
		Version: z.version, Config: z.cfg, State: z.state.Current, Certificates: z.certs.Dump, Pods: z.pods, Levels: levels,
		Mesh:   explain.Mesh{Network: z.cfg.Network, PreferredNamespace: z.cfg.PreferredServiceNamespace, Domain: z.cfg.ClusterDomain},
		Static: z.static.Current, Metrics: z.rec.Registry(), Blockers: z.blockers, Quit: z.quit,
	}, z.log)
}

// pods joins what the agent handed over with what the proxy carries for it.
func (z *ztunnel) pods() []admin.Pod {
	open := map[string]proxy.PodStatus{}
	for _, p := range z.proxy.Dump() {
		open[p.UID] = p
	}
	var out []admin.Pod
	handed := z.agent.Dump()
	if z.serving.Load() {
		handed = append(handed, inpod.Status{UID: dedicatedUID, Info: z.cfg.Dedicated})
	}
	for _, st := range handed {
		p := admin.Pod{
			UID: st.UID, State: podState(st), Name: st.Info.Name, Namespace: st.Info.Namespace, ServiceAccount: st.Info.ServiceAccount,
		}
		for _, c := range open[st.UID].Connections {
			conn := admin.Connection{Src: c.Src.String(), OriginalDst: c.Original.String(), ActualDst: c.Actual.String(), Protocol: c.Protocol}
			if c.Inbound {
				p.Inbound = append(p.Inbound, conn)
			} else {
				p.Outbound = append(p.Outbound, conn)
			}
		}
		out = append(out, p)
	}
	return out
}

func podState(st inpod.Status) string {
	if st.Problem != "" {
		return "Pending"
	}
	return "Up"
}
