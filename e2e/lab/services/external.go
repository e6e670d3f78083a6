package services

import (
	"hash/fnv"
	"net/netip"

	"github.com/ambit-mesh/ambit/e2e/lab/resource"
)

// externalRange is where LoadBalancers get their addresses: outside of what nodes, pods and virtual addresses use.
func externalRange() netip.Prefix { return netip.MustParsePrefix("172.31.0.0/16") }

// External are the addresses of a LoadBalancer.
func External(o resource.Object) []netip.Addr {
	if o.Text("spec", "type") != "LoadBalancer" {
		return nil
	}
	list, _ := o.At("status", "loadBalancer", "ingress").([]any)
	var addrs []netip.Addr
	for _, v := range list {
		m, _ := v.(map[string]any)
		if a, err := netip.ParseAddr(resource.Object(m).Text("ip")); err == nil {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// Expose gives a LoadBalancer the address it lacks, takes it from a Service that is none any more, and says whether it
// changed the status. taken holds the external addresses of all other Services.
func Expose(o resource.Object, taken map[netip.Addr]string) bool {
	if o.Text("spec", "type") != "LoadBalancer" {
		status, _ := o.At("status").(map[string]any)
		_, had := status["loadBalancer"]
		delete(status, "loadBalancer")
		return had
	}
	have := External(o)
	wanted, err := netip.ParseAddr(o.Text("spec", "loadBalancerIP"))
	asked := err == nil && externalRange().Contains(wanted) && taken[wanted] == ""
	if len(have) > 0 && taken[have[0]] == "" && (!asked || have[0] == wanted) {
		return false
	}
	if !asked {
		wanted = place(o.Namespace()+"/"+o.Name(), taken)
	}
	o.Set([]any{map[string]any{"ip": wanted.String()}}, "status", "loadBalancer", "ingress")
	return true
}

// place follows from the name, so that equal labs have equal addresses.
func place(name string, taken map[netip.Addr]string) netip.Addr {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	base := externalRange().Addr().As4()
	for i := h.Sum32(); ; i++ {
		host := 1 + i%65533
		base[2], base[3] = byte(host>>8), byte(host)
		if a := netip.AddrFrom4(base); taken[a] == "" {
			return a
		}
	}
}
