// Package services joins Services to the pods behind them, and gives each Service its virtual address.
//
// It is pure. What becomes of the result, address translation and names, is for packages vip and names. Start reading
// at Resolve.
package services

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/ambit-mesh/ambit/e2e/lab/resource"
)

// Pod is a pod as Services see it.
type Pod struct {
	Namespace, Name, Node string
	Labels                map[string]string
	Addrs                 []netip.Addr
	// Ready pods get traffic. A pod that is ending never is.
	Ready bool
	// Hostname and Subdomain give it a name of its own below a headless Service.
	Hostname, Subdomain string
	Spec                *resource.PodSpec
}

// Service is a Service and what is behind it now.
type Service struct {
	Namespace, Name string
	// VIPs is empty for a headless Service.
	VIPs []netip.Addr
	// External are the addresses of a LoadBalancer, which work like virtual ones and stand for no name.
	External []netip.Addr
	Headless bool
	// ExternalName is the other name of a Service of that type.
	ExternalName string
	Ports        []Port
	// Hosts are the addresses behind a headless Service; Name is empty for pods without a name of their own.
	Hosts []Host
}

// Port is a Service's port.
type Port struct {
	Name, Protocol string
	Number         uint16
	Endpoints      []netip.AddrPort
}

// Host is an address behind a headless Service.
type Host struct {
	Name string
	Addr netip.Addr
}

type port struct {
	Name       string                `json:"name"`
	Protocol   string                `json:"protocol"`
	Port       int                   `json:"port"`
	TargetPort resource.NumberOrName `json:"targetPort"`
}

// Check says what is wrong with a Service as far as the lab is concerned.
func Check(o resource.Object) error {
	var ports []port
	if err := o.Into(&ports, "spec", "ports"); err != nil {
		return err
	}
	for i, p := range ports {
		if p.Port < 1 || p.Port > 65535 {
			return fmt.Errorf("spec.ports[%d].port %d: 1 to 65535", i, p.Port)
		}
		if len(ports) > 1 && p.Name == "" {
			return fmt.Errorf("spec.ports[%d].name: needed when there is more than one port", i)
		}
	}
	if len(ports) == 0 && o.Text("spec", "type") != "ExternalName" && o.Text("spec", "clusterIP") != "None" {
		return fmt.Errorf("spec.ports is empty")
	}
	return nil
}

// Resolve computes every Service. The result is ordered by namespace and name, endpoints by address, so that equal
// worlds give equal results.
func Resolve(objects, slicesOf []resource.Object, pods []Pod) []Service {
	out := make([]Service, 0, len(objects))
	for _, o := range objects {
		out = append(out, resolve(o, slicesOf, pods))
	}
	slices.SortFunc(out, func(a, b Service) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return out
}

func resolve(o resource.Object, slicesOf []resource.Object, pods []Pod) Service {
	s := Service{Namespace: o.Namespace(), Name: o.Name(), ExternalName: o.Text("spec", "externalName")}
	s.Headless = o.Text("spec", "clusterIP") == "None"
	if !s.Headless {
		s.VIPs = Addresses(o)
	}
	s.External = External(o)
	var ports []port
	// A bad port was reported when the Service was applied; here it has no endpoints.
	_ = o.Into(&ports, "spec", "ports")
	for _, p := range ports {
		s.Ports = append(s.Ports, Port{Name: p.Name, Protocol: cmp.Or(p.Protocol, "TCP"), Number: uint16(p.Port)})
	}
	if selector := o.Strings("spec", "selector"); len(selector) > 0 {
		publish := o.At("spec", "publishNotReadyAddresses") == true
		for _, pod := range pods {
			if pod.Namespace == o.Namespace() && resource.Matches(selector, pod.Labels) && (pod.Ready || publish) {
				s.addPod(ports, pod)
			}
		}
	} else {
		for _, slice := range slicesOf {
			if slice.Namespace() == o.Namespace() && slice.Labels()["kubernetes.io/service-name"] == o.Name() {
				s.addSlice(slice)
			}
		}
	}
	for i := range s.Ports {
		slices.SortFunc(s.Ports[i].Endpoints, netip.AddrPort.Compare)
		s.Ports[i].Endpoints = slices.Compact(s.Ports[i].Endpoints)
	}
	slices.SortFunc(s.Hosts, func(a, b Host) int { return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Name, b.Name)) })
	return s
}

func (s *Service) addPod(ports []port, pod Pod) {
	host := ""
	if pod.Subdomain == s.Name {
		host = pod.Hostname
	}
	for _, a := range pod.Addrs {
		s.Hosts = append(s.Hosts, Host{host, a})
	}
	for i, p := range ports {
		target := int(s.Ports[i].Number)
		if p.TargetPort != "" && p.TargetPort != "0" {
			var ok bool
			if target, ok = pod.Spec.PortNumber(p.TargetPort); !ok {
				continue
			}
		}
		for _, a := range pod.Addrs {
			s.Ports[i].Endpoints = append(s.Ports[i].Endpoints, netip.AddrPortFrom(a, uint16(target)))
		}
	}
}

func (s *Service) addSlice(slice resource.Object) {
	var ports []port
	var endpoints []struct {
		Addresses  []string
		Hostname   string
		Conditions struct{ Ready *bool }
	}
	// What cannot be read has no endpoints; the control plane says what is wrong with it.
	_ = slice.Into(&ports, "ports")
	_ = slice.Into(&endpoints, "endpoints")
	for _, e := range endpoints {
		if e.Conditions.Ready != nil && !*e.Conditions.Ready {
			continue
		}
		for _, text := range e.Addresses {
			a, err := netip.ParseAddr(text)
			if err != nil {
				continue
			}
			s.Hosts = append(s.Hosts, Host{e.Hostname, a})
			for i := range s.Ports {
				for _, p := range ports {
					if p.Name == s.Ports[i].Name {
						s.Ports[i].Endpoints = append(s.Ports[i].Endpoints, netip.AddrPortFrom(a, uint16(p.Port)))
					}
				}
			}
		}
	}
}

// Addresses are the virtual addresses of a Service, without the ones that are not addresses.
func Addresses(o resource.Object) []netip.Addr {
	list, _ := o.At("spec", "clusterIPs").([]any)
	if len(list) == 0 {
		list = []any{o.Text("spec", "clusterIP")}
	}
	var addrs []netip.Addr
	for _, v := range list {
		s, _ := v.(string)
		if a, err := netip.ParseAddr(s); err == nil {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// Ranges of virtual addresses.
func ranges() (v4, v6 netip.Prefix) {
	return netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112")
}

// DNSAddrs are the virtual addresses of the lab's name server.
func DNSAddrs(dualStack bool) []netip.Addr {
	addrs := []netip.Addr{netip.MustParseAddr("10.96.0.10")}
	if dualStack {
		addrs = append(addrs, netip.MustParseAddr("fd00:10:96::a"))
	}
	return addrs
}

// Allocate gives a Service the virtual addresses it lacks and says whether it changed. The place in the range follows
// from the name, so that equal labs have equal addresses; taken holds the addresses of all other Services.
func Allocate(o resource.Object, taken map[netip.Addr]string, dualStack bool) (bool, error) {
	if o.Text("spec", "clusterIP") == "None" || o.Text("spec", "type") == "ExternalName" {
		return false, nil
	}
	v4, v6 := ranges()
	have := Addresses(o)
	for _, a := range have {
		if owner, ok := taken[a]; ok {
			return false, fmt.Errorf("spec.clusterIP %s is taken by Service %s: leave it out and one is found", a, owner)
		}
		if !v4.Contains(a) && !v6.Contains(a) {
			return false, fmt.Errorf("spec.clusterIP %s is not in %s or %s: leave it out and one is found", a, v4, v6)
		}
	}
	want := families(o, dualStack)
	if len(have) > 0 && len(have) >= len(want) && o.At("spec", "clusterIPs") != nil {
		return false, nil
	}
	var addrs []any
	var fams []any
	for _, f := range want {
		i := slices.IndexFunc(have, func(a netip.Addr) bool { return a.Is4() == (f == "IPv4") })
		a := netip.Addr{}
		if i >= 0 {
			a = have[i]
		} else {
			a = free(f, o.Namespace()+"/"+o.Name(), taken)
		}
		addrs, fams = append(addrs, a.String()), append(fams, f)
	}
	o.Set(addrs[0], "spec", "clusterIP")
	o.Set(addrs, "spec", "clusterIPs")
	o.Set(fams, "spec", "ipFamilies")
	return true, nil
}

func families(o resource.Object, dualStack bool) []string {
	var asked []string
	_ = o.Into(&asked, "spec", "ipFamilies")
	policy := o.Text("spec", "ipFamilyPolicy")
	if !dualStack {
		return []string{"IPv4"}
	}
	if len(asked) == 0 {
		asked = []string{"IPv4"}
		// A lab with both families is asked for to see both, so a Service that says nothing gets both.
		if policy == "" {
			return []string{"IPv4", "IPv6"}
		}
	}
	if len(asked) == 1 && policy != "" && policy != "SingleStack" {
		other := map[string]string{"IPv4": "IPv6", "IPv6": "IPv4"}[asked[0]]
		asked = append(asked, other)
	}
	return asked
}

func free(family, name string, taken map[netip.Addr]string) netip.Addr {
	v4, v6 := ranges()
	base := v4.Addr().AsSlice()
	if family == "IPv6" {
		base = v6.Addr().AsSlice()
	}
	h := uint32(2166136261)
	for _, c := range []byte(name) {
		h = (h ^ uint32(c)) * 16777619
	}
	for i := h; ; i++ {
		// The first addresses are kept for well-known Services.
		host := 32 + i%(65536-64)
		base[len(base)-2], base[len(base)-1] = byte(host>>8), byte(host)
		a, _ := netip.AddrFromSlice(base)
		if _, ok := taken[a]; !ok {
			return a
		}
	}
}
