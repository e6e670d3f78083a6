package nodenet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
)

// Node is what matters of a Kubernetes Node, in its JSON.
type Node struct {
	Metadata struct {
		Name            string `json:"name"`
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
	Spec struct {
		PodCIDRs []netip.Prefix `json:"podCIDRs"`
	} `json:"spec"`
	Status struct {
		Addresses []struct {
			Type    string `json:"type"`
			Address string `json:"address"`
		} `json:"addresses"`
	} `json:"status"`
}

// A Route leads to the pods of another node.
type Route struct {
	Pods netip.Prefix
	Via  netip.Addr
}

// A Plan is how one node has to look.
type Plan struct {
	// Ranges are the pod ranges of this node; none as long as the cluster has not assigned them.
	Ranges []netip.Prefix
	Routes []Route
}

// Decide says how the node named self has to look among all nodes. Nodes that have no range or no address yet are left out.
func Decide(self string, nodes []Node) Plan {
	var p Plan
	for _, n := range nodes {
		if n.Metadata.Name == self {
			p.Ranges = n.Spec.PodCIDRs
			continue
		}
		for _, pods := range n.Spec.PodCIDRs {
			if via, ok := n.address(pods.Addr().Is4()); ok {
				p.Routes = append(p.Routes, Route{pods, via})
			}
		}
	}
	slices.SortFunc(p.Routes, func(a, b Route) int { return a.Pods.Addr().Compare(b.Pods.Addr()) })
	return p
}

// address finds the node's internal address of a family.
func (n Node) address(v4 bool) (netip.Addr, bool) {
	for _, a := range n.Status.Addresses {
		ip, err := netip.ParseAddr(a.Address)
		if err == nil && a.Type == "InternalIP" && ip.Is4() == v4 {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

// Conflist is the CNI configuration that gives a node's pods their addresses: a point-to-point link for each pod, so that all
// its traffic passes the node, and ports of the node for pods that ask for them.
func Conflist(ranges []netip.Prefix) ([]byte, error) {
	type object map[string]any
	var subnets [][]object
	var routes []object
	for _, r := range ranges {
		subnets = append(subnets, []object{{"subnet": r.String()}})
		everything := "::/0"
		if r.Addr().Is4() {
			everything = "0.0.0.0/0"
		}
		routes = append(routes, object{"dst": everything})
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetIndent("", "  ")
	err := enc.Encode(object{
		"cniVersion": "0.4.0",
		"name":       "nodenet",
		"plugins": []object{
			{"type": "ptp", "ipMasq": false, "ipam": object{
				// Leases end with the node's boot, as its pods do.
				"type": "host-local", "dataDir": "/run/cni-leases", "ranges": subnets, "routes": routes,
			}},
			{"type": "portmap", "capabilities": object{"portMappings": true}},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("encode the CNI configuration: %w", err)
	}
	return out.Bytes(), nil
}
