package envoy

import (
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
)

// sampleEnv is a waypoint with one service of every kind, in random order: no result may depend on it.
func sampleEnv() *Env {
	services := []*waypoint.Service{
		{Namespace: "shop", Hostname: "web.shop", Name: "web", Ports: []*waypoint.ServicePort{
			{Number: 80, Protocol: waypoint.Protocol_HTTP1}, {Number: 81, Protocol: waypoint.Protocol_GRPC},
		}},
		{Namespace: "shop", Hostname: "db.shop", Name: "db", Ports: []*waypoint.ServicePort{{Number: 3306, Protocol: waypoint.Protocol_TCP}}},
		{Namespace: "shop", Hostname: "any.shop", Name: "any", Ports: []*waypoint.ServicePort{{Number: 9000}}},
		{Namespace: "shop", Hostname: "*.example.com", Ports: []*waypoint.ServicePort{
			{Number: 80, Protocol: waypoint.Protocol_HTTP1}, {Number: 443, Protocol: waypoint.Protocol_TLS},
		}},
		{Namespace: "shop", Hostname: "range.shop", Ports: []*waypoint.ServicePort{{Number: 80, Protocol: waypoint.Protocol_TCP}}},
	}
	rand.Shuffle(len(services), func(i, j int) { services[i], services[j] = services[j], services[i] })
	destinations := map[string]*waypoint.Destination{
		"web.shop": {Namespace: "shop", Hostname: "web.shop", Subsets: []*waypoint.Subset{{Name: "v2", Labels: map[string]string{"version": "v2"}}}},
		"db.shop":  {Namespace: "shop", Hostname: "db.shop"}, "any.shop": {Namespace: "shop", Hostname: "any.shop"},
		"*.example.com": {Namespace: "shop", Hostname: "*.example.com", Resolution: waypoint.Destination_DYNAMIC},
		"range.shop":    {Namespace: "shop", Hostname: "range.shop", Resolution: waypoint.Destination_ORIGINAL},
	}
	addresses := map[string]*workload.Service{}
	for host, ip := range map[string]string{"web.shop": "10.96.0.1", "db.shop": "10.96.0.2", "any.shop": "fd00::3", "*.example.com": "240.0.0.1", "range.shop": "172.16.0.0"} {
		addresses[host] = &workload.Service{Namespace: "shop", Hostname: host, Canonical: true, Addresses: []*workload.NetworkAddress{{Address: netip.MustParseAddr(ip).AsSlice()}}}
	}
	addresses["range.shop"].Addresses[0].Length = proto.Uint32(12)
	// An address in another network is not one of ours.
	addresses["db.shop"].Addresses = append(addresses["db.shop"].Addresses, &workload.NetworkAddress{Network: "far", Address: netip.MustParseAddr("10.96.0.9").AsSlice()})
	pods := samplePods()
	e := &Env{
		Gateway: &waypoint.Gateway{Namespace: "shop", Name: "waypoint", Services: true, Workloads: true, TrustDomains: []string{"cluster.local", "old.local"}},
		Options: Options{
			NodeID: "waypoint~10.0.0.9~waypoint-0.shop~shop.svc.cluster.local", NodeCluster: "waypoint.shop", Namespace: "shop", Pod: "waypoint-0",
			Workload: "waypoint", ServiceAccount: "waypoint", XDSSocket: "/run/xds", SDSSocket: "/run/sds", Node: "n1", Region: "r1", Zone: "z1",
		},
		Services:     func() []*waypoint.Service { return services },
		Destinations: func() []*waypoint.Destination { return nil },
		Destination:  func(_, host string) *waypoint.Destination { return destinations[host] },
		Address:      func(_, host string) *workload.Service { return addresses[host] },
		Endpoints: func(ns, host string) []*workload.Workload {
			var out []*workload.Workload
			for _, w := range pods {
				if _, ok := w.GetServices()[mesh.ServiceName(ns, host)]; ok {
					out = append(out, w)
				}
			}
			return out
		},
		Workloads:    func() []*workload.Workload { return pods },
		VirtualHosts: func() []*waypoint.VirtualHost { return nil },
	}
	e.Service = func(_, host string) *waypoint.Service {
		for _, s := range services {
			if s.GetHostname() == host {
				return s
			}
		}
		return nil
	}
	return e
}

// samplePods are two in the mesh, in different places, and one that is not.
func samplePods() []*workload.Workload {
	pod := func(name, ip, account string) *workload.Workload {
		return &workload.Workload{
			Uid: name, Name: name, Namespace: "shop", ServiceAccount: account, WorkloadName: name, CanonicalName: "web", CanonicalRevision: "v1",
			Addresses: [][]byte{netip.MustParseAddr(ip).AsSlice()}, TunnelProtocol: workload.TunnelProtocol_HBONE,
			Locality: &workload.Locality{Region: "r1", Zone: "z1"}, Node: "n1",
			Services: map[string]*workload.PortList{"shop/web.shop": {Ports: []*workload.Port{{ServicePort: 80, TargetPort: 8080}, {ServicePort: 81, TargetPort: 8081}}}},
		}
	}
	one, two, outside := pod("one", "10.0.0.1", "web"), pod("two", "10.0.0.2", "web"), pod("outside", "10.0.0.3", "")
	two.Locality, two.Capacity = &workload.Locality{Region: "r2"}, wrapperspb.UInt32(3)
	outside.TunnelProtocol = workload.TunnelProtocol_NONE
	pods := []*workload.Workload{one, two, outside}
	rand.Shuffle(len(pods), func(i, j int) { pods[i], pods[j] = pods[j], pods[i] })
	return pods
}

// messages makes one list of many.
func messages[T proto.Message](lists ...[]T) []proto.Message {
	var out []proto.Message
	for _, l := range lists {
		for _, m := range l {
			out = append(out, m)
		}
	}
	return out
}

// unfiltered leaves out of chains the HTTP filters, whose list has tests of its own.
func unfiltered(t *testing.T, chains []*listenerv3.FilterChain) []*listenerv3.FilterChain {
	t.Helper()
	for _, c := range chains {
		for _, f := range c.GetFilters() {
			m := new(hcmv3.HttpConnectionManager)
			if f.GetTypedConfig().MessageIs(m) {
				if err := f.GetTypedConfig().UnmarshalTo(m); err != nil {
					t.Fatal(err)
				}
				m.HttpFilters, m.EarlyHeaderMutationExtensions = nil, nil
				f.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: toAny(m)}
			}
		}
	}
	return chains
}

// TestChainGolden shows all of the chain for one gateway, and that it is the same whatever order facts come in.
func TestChainGolden(t *testing.T) {
	for name, expand := range map[string]func(*Env) ([]proto.Message, []Problem){
		"bootstrap": func(e *Env) ([]proto.Message, []Problem) {
			b, err := Bootstrap(e.Options)
			if err != nil {
				t.Fatal(err)
			}
			return []proto.Message{b}, nil
		},
		"listeners": func(e *Env) ([]proto.Message, []Problem) {
			l, p := Listeners(e)
			return messages(l), p
		},
		"chains": func(e *Env) ([]proto.Message, []Problem) {
			c, p := ServiceChains(e, e.Service("shop", "any.shop"))
			return messages(unfiltered(t, c)), p
		},
		"pods": func(e *Env) ([]proto.Message, []Problem) {
			c, p := GatewayChains(e)
			for _, chain := range c { // the managers are like those of chains
				chain.Filters = chain.GetFilters()[:1]
			}
			r, q := GatewayRoutes(e)
			for _, config := range r {
				config.VirtualHosts[0].TypedPerFilterConfig = nil
			}
			return append(messages(c), messages(r)...), append(p, q...)
		},
		"dynamic": func(e *Env) ([]proto.Message, []Problem) {
			c, p := ServiceChains(e, e.Service("shop", "*.example.com"))
			d, q := Clusters(e, e.Destination("shop", "*.example.com"))
			return append(messages(unfiltered(t, c)), messages(d)...), append(p, q...)
		},
		"clusters": func(e *Env) ([]proto.Message, []Problem) {
			c, p := Clusters(e, e.Destination("shop", "web.shop"))
			return messages(StaticClusters(e), c), p
		},
		"endpoints": func(e *Env) ([]proto.Message, []Problem) {
			return messages(Assignments(e, e.Destination("shop", "web.shop"))), nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			made, problems := expand(sampleEnv())
			file := filepath.Join("testdata", "chain", name+".out.json")
			golden(t, file, inOrder(t, made, problems))
			for range 10 {
				again, p := expand(sampleEnv())
				if string(inOrder(t, again, p)) != string(inOrder(t, made, problems)) {
					t.Fatal("depends on the order of facts")
				}
			}
		})
	}
}

func TestBootstrapNeeds(t *testing.T) {
	good := Options{NodeID: "n", XDSSocket: "/x", SDSSocket: "/s"}
	if _, err := Bootstrap(good); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Options){
		"node id":     func(o *Options) { o.NodeID = "" },
		"socket":      func(o *Options) { o.XDSSocket = "" },
		"long socket": func(o *Options) { o.SDSSocket = string(make([]byte, 108)) },
	} {
		bad := good
		change(&bad)
		if _, err := Bootstrap(bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
