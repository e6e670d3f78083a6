// Package envoytest runs a real Envoy with what waypoint/envoy makes of facts, and stand-ins for everything around it: a
// control plane on unix sockets, peers that speak HBONE to it, nodes that accept HBONE from it, and applications. All of
// it is on loopback, in one process besides Envoy, and ends with the test.
//
// It deliberately contains nothing of the product but the expansion: what it accepts on the wire is written from the
// protocol, so that a mistake in one is not repeated in the other. Start reading at World, then Start in proxy.go.
package envoytest

import (
	"fmt"
	"net/netip"
	"sync"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/waypoint/envoy"
)

// World is the facts a test gives its waypoint. Change it, then call Proxy.Apply. The zero value is a waypoint for
// services that serves nothing.
type World struct {
	Gateway      *waypoint.Gateway
	Services     []*waypoint.Service
	Destinations []*waypoint.Destination
	VirtualHosts []*waypoint.VirtualHost
	// Secrets by resource name; Envoy gets them with Proxy.Apply.
	Secrets map[string]*waypoint.Secret
	// Addresses are all services there are; Workloads all workloads.
	Addresses []*workload.Service
	Workloads []*workload.Workload
	// Bound are workloads served when addressed by their own IP.
	Bound []*workload.Workload
	// Wasm are files of modules, by their URL.
	Wasm map[string]string
}

// Env is what the expansion sees of the world.
func (w *World) Env(o envoy.Options) *envoy.Env {
	gateway := w.Gateway
	if gateway == nil {
		gateway = &waypoint.Gateway{Namespace: "default", Name: "waypoint", Services: true, TrustDomains: []string{"cluster.local"}}
	}
	return &envoy.Env{
		Gateway:  gateway,
		Options:  o,
		Services: func() []*waypoint.Service { return w.Services },
		Service: func(ns, host string) *waypoint.Service {
			return find(w.Services, ns, host)
		},
		Destinations: func() []*waypoint.Destination { return w.Destinations },
		Destination: func(ns, host string) *waypoint.Destination {
			return find(w.Destinations, ns, host)
		},
		Address: func(ns, host string) *workload.Service {
			return find(w.Addresses, ns, host)
		},
		Endpoints: func(ns, host string) []*workload.Workload {
			var out []*workload.Workload
			for _, wl := range w.Workloads {
				if _, ok := wl.GetServices()[mesh.ServiceName(ns, host)]; ok {
					out = append(out, wl)
				}
			}
			return out
		},
		Workloads:    func() []*workload.Workload { return w.Bound },
		VirtualHosts: func() []*waypoint.VirtualHost { return w.VirtualHosts },
		WasmFile: func(url, _ string) (string, error) {
			if file, ok := w.Wasm[url]; ok {
				return file, nil
			}
			return "", fmt.Errorf("%s: there is no such module", url)
		},
		Secret: func(name string) *waypoint.Secret { return w.Secrets[name] },
	}
}

type named interface {
	comparable
	GetNamespace() string
	GetHostname() string
}

func find[T named](all []T, namespace, hostname string) T {
	for _, one := range all {
		if one.GetNamespace() == namespace && one.GetHostname() == hostname {
			return one
		}
	}
	var none T
	return none
}

// Port is a port of a service in a World.
type Port struct {
	Number, Target uint32
	Protocol       waypoint.Protocol
}

// Add puts a service into the world: its fact, its destination, its address and its endpoints. Without an address it is
// known by hostname alone.
func (w *World) Add(hostname, vip string, ports []Port, pods ...*workload.Workload) *waypoint.Service {
	svc := &waypoint.Service{Namespace: "default", Hostname: hostname, Name: hostname}
	address := &workload.Service{Namespace: "default", Hostname: hostname, Name: hostname, Canonical: true}
	if vip != "" {
		address.Addresses = []*workload.NetworkAddress{{Address: netip.MustParseAddr(vip).AsSlice()}}
	}
	list := &workload.PortList{}
	for _, p := range ports {
		svc.Ports = append(svc.Ports, &waypoint.ServicePort{Number: p.Number, Protocol: p.Protocol})
		wire := &workload.Port{ServicePort: p.Number, TargetPort: p.Target, AppProtocol: workload.AppProtocol(p.Protocol)}
		address.Ports = append(address.Ports, wire)
		list.Ports = append(list.Ports, wire)
	}
	for _, pod := range pods {
		if pod.Services == nil {
			pod.Services = map[string]*workload.PortList{}
		}
		pod.Services[mesh.ServiceName("default", hostname)] = list
		w.addWorkload(pod)
	}
	w.Services = append(w.Services, svc)
	w.Addresses = append(w.Addresses, address)
	w.Destinations = append(w.Destinations, &waypoint.Destination{Namespace: "default", Hostname: hostname})
	return svc
}

func (w *World) addWorkload(pod *workload.Workload) {
	for _, have := range w.Workloads {
		if have.GetUid() == pod.GetUid() {
			return
		}
	}
	w.Workloads = append(w.Workloads, pod)
}

// Pod is a workload in the mesh.
func Pod(name, ip, account string) *workload.Workload {
	return &workload.Workload{
		Uid: "Kubernetes//Pod/default/" + name, Name: name, Namespace: "default", ServiceAccount: account,
		Addresses:      [][]byte{netip.MustParseAddr(ip).AsSlice()},
		TunnelProtocol: workload.TunnelProtocol_HBONE,
		WorkloadName:   name, CanonicalName: name, CanonicalRevision: "v1",
		WorkloadType: workload.WorkloadType_DEPLOYMENT,
	}
}

// record is a list that goroutines add to.
type record[T any] struct {
	mu  sync.Mutex
	all []T
}

func (r *record[T]) add(v T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, v)
}

func (r *record[T]) list() []T {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]T(nil), r.all...)
}
