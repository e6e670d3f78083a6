package daemon

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/control/status"
)

// What a pod is to refuse travels in an extension of its workload. A node proxy of another make ignores extensions: there
// a waypoint's policies hold for clients that go through the waypoint, and for nobody else. That must not go unsaid.

// ignorant are the connected node proxies that do not say they know guards, by the node they serve.
func ignorant(clients []xds.ClientStatus) map[string]xds.ClientStatus {
	out := map[string]xds.ClientStatus{}
	for _, c := range clients {
		if strings.HasPrefix(c.NodeID, "ztunnel~") && c.NodeName != "" && !slices.Contains(c.Features, mesh.ExtensionGuards) {
			out[c.NodeName] = c
		}
	}
	return out
}

// unguarded is what is not enforced on one node: the same policies at some pods.
type unguarded struct {
	node, gateway, policies string
	pods                    int
	example                 string
}

// foreign says for every node proxy that ignores guards what goes around waypoints there.
func (d *Daemon) foreign() []status.Entry {
	proxies := ignorant(d.server.Clients())
	if len(proxies) == 0 {
		return nil // the usual case costs nothing
	}
	found := map[[3]string]*unguarded{}
	for _, r := range d.addresses.Snapshot() {
		if _, ok := proxies[r.Node]; !ok {
			continue
		}
		var a workload.Address
		if proto.Unmarshal(r.Body, &a) != nil {
			continue // only possible if an encoder and a decoder of the same library disagree
		}
		note(found, a.GetWorkload())
	}
	var out []status.Entry
	for _, key := range slices.SortedFunc(maps.Keys(found), func(a, b [3]string) int {
		return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1]), cmp.Compare(a[2], b[2]))
	}) {
		out = append(out, found[key].entry(proxies[key[0]]))
	}
	return out
}

// note adds what a workload is to guard.
func note(found map[[3]string]*unguarded, w *workload.Workload) {
	for _, x := range w.GetExtensions() {
		var g waypoint.Guards
		if x.GetName() != mesh.ExtensionGuards || x.GetConfig().UnmarshalTo(&g) != nil {
			continue
		}
		for _, guard := range g.Guards {
			if guard.Open {
				continue // is reported at its service already
			}
			key := [3]string{w.Node, guard.Gateway, strings.Join(guard.Policies, ", ")}
			u := found[key]
			if u == nil {
				u = &unguarded{node: key[0], gateway: key[1], policies: key[2]}
				found[key] = u
			}
			u.pods++
			if pod := w.Namespace + "/" + w.Name; u.example == "" || pod < u.example {
				u.example = pod
			}
		}
	}
}

func (u *unguarded) entry(c xds.ClientStatus) status.Entry {
	name, namespace := "", ""
	if parts := strings.Split(c.NodeID, "~"); len(parts) == 4 {
		name, namespace, _ = strings.Cut(parts[2], ".")
	}
	what := strings.TrimSpace(cmp.Or(c.Agent, "of another make") + " " + c.Version)
	pods := "pod " + u.example
	if u.pods > 1 {
		pods = fmt.Sprintf("%d pods, %s for one,", u.pods, u.example)
	}
	return status.Entry{
		Severity: status.Warning, Code: status.ForeignProxy, Kind: "Pod", Namespace: namespace, Name: name,
		Problem: fmt.Sprintf("the node proxy of node %s (%s) does not know guards: traffic that goes around waypoint %s reaches %s there, and escapes %s", u.node, what, u.gateway, pods, u.policies),
		Fix:     "run Ambit's ztunnel on node " + u.node + ", or say in an AuthorizationPolicy with a selector that only the waypoint's identity may reach the pods",
	}
}
