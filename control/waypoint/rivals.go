package waypoint

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// reportRivals warns of an older VirtualService for the same host, which is asked first.
func (m *Model) reportRivals(r *reader, rep *model.Report, v *object.VirtualService) {
	for _, host := range v.Hosts {
		if strings.HasPrefix(host, "*") {
			continue
		}
		for _, ns := range slices.Sorted(maps.Keys(r.m.namespacesOf[host])) {
			h, ok := r.host(ns, host)
			if !ok || h.Waypoint == (object.Key{}) {
				continue
			}
			all := r.virtuals(gatewayOf(h.Waypoint), ns, host)
			if i := slices.Index(all, v); i > 0 && slices.Contains(all[i-1].Hosts, host) {
				rep.Warn(status.RivalRoutes, "spec.hosts", fmt.Sprintf("VirtualService %s/%s is older and for %s, too: only what none of its rules matches comes here", all[i-1].Namespace, all[i-1].Name, host),
					"put the rules for a host into one VirtualService")
			}
		}
	}
}
