package dump

import (
	"net"
	"strings"
)

// Names turns addresses into the names people know.
type Names struct {
	workloads map[string]string // by address
	services  map[string]string
	hosts     map[string]string // service name by namespace/hostname
}

// Names indexes the addresses of d.
func (d *Dump) Names() *Names {
	n := &Names{workloads: map[string]string{}, services: map[string]string{}, hosts: map[string]string{}}
	for _, w := range d.Workloads {
		for _, ip := range w.Value.IPs {
			n.workloads[ip] = w.Value.Name + "." + w.Value.Namespace
		}
	}
	for _, s := range d.Services {
		name := s.Value.Name + "." + s.Value.Namespace
		n.hosts[s.Value.Namespace+"/"+s.Value.Hostname] = s.Value.Name
		for _, vip := range s.Value.VIPs {
			n.services[Address(vip)] = name
			n.hosts[vip] = s.Value.Name
		}
	}
	return n
}

// Address is the address part of network/address.
func Address(s string) string {
	if _, addr, ok := strings.Cut(s, "/"); ok {
		return addr
	}
	return s
}

// Socket names the address of host:port where it is known; a workload wins over a service, as it does in the proxy.
func (n *Names) Socket(s string) string {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return s
	}
	if name, ok := n.workloads[host]; ok {
		return name + ":" + port
	}
	if name, ok := n.services[host]; ok {
		return name + ":" + port
	}
	return s
}

// Gateway names a waypoint: that of its service where it is known, else what the proxy was told, and "None" for none.
func (n *Names) Gateway(g *Gateway) string {
	if g == nil || g.Destination == "" {
		return "None"
	}
	if name, ok := n.hosts[g.Destination]; ok {
		return name
	}
	if name, ok := n.workloads[Address(g.Destination)]; ok {
		return name
	}
	return strings.TrimPrefix(g.Destination, "/")
}

// Unhealthy is the set of workloads, by uid, that are not in order. An endpoint's health is that of its workload.
func (d *Dump) Unhealthy() map[string]bool {
	out := map[string]bool{}
	for _, w := range d.Workloads {
		if strings.EqualFold(w.Value.Status, "Unhealthy") {
			out[w.Value.UID] = true
		}
	}
	return out
}
