package envoy

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	httpinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	originaldstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
)

// Listeners are the constant parts of a gateway, and the matcher that finds a connection's filter chain.
func Listeners(e *Env) ([]*listenerv3.Listener, []Problem) {
	if e.Gateway.GetKind() == waypoint.Gateway_EDGE {
		edge, problems := e.edgeListeners()
		return append(edge, e.connectOriginate()), problems
	}
	internal, problems := e.mainInternal()
	return []*listenerv3.Listener{e.connectTerminate(), internal, e.connectOriginate()}, problems
}

// mainInternal sorts connections by the address they were opened to. It knows of each service only the addresses, ports
// and names of chains, so that what users write never keeps it from being accepted.
func (e *Env) mainInternal() (*listenerv3.Listener, []Problem) {
	services := e.services()
	match := e.findChain(services)
	l := &listenerv3.Listener{
		Name:              ListenerInternal,
		ListenerSpecifier: internalListener(),
		ListenerFilters:   e.inspectors(services),
		// A client that lets the server speak first is taken for no HTTP when the inspectors have waited this long.
		ListenerFiltersTimeout:           seconds(5),
		ContinueOnListenerFiltersTimeout: true,
		FilterChainMatcher:               match.GetMatcher(),
	}
	if !e.Options.InlineChains {
		l.FcdsConfig = &listenerv3.Listener_FcdsConfig{Name: ListenerInternal, ConfigSource: fromADS()}
		return l, nil
	}
	chains, problems := GatewayChains(e)
	for _, svc := range services {
		c, p := ServiceChains(e, svc)
		chains, problems = append(chains, c...), append(problems, p...)
	}
	l.FilterChains = chains
	return l, problems
}

// services are those served here, in an order that does not depend on when they came.
func (e *Env) services() []*waypoint.Service {
	return slices.SortedFunc(slices.Values(e.Services()), func(a, b *waypoint.Service) int {
		if c := strings.Compare(a.GetNamespace(), b.GetNamespace()); c != 0 {
			return c
		}
		return strings.Compare(a.GetHostname(), b.GetHostname())
	})
}

// findChain looks for the destination address, then for the hostname the CONNECT asked for. What is neither a service
// nor a workload of this gateway goes nowhere: a waypoint never relays to an address it was not told to serve.
func (e *Env) findChain(services []*waypoint.Service) *onMatch {
	nowhere := toChain(chainBlackHole)
	names := map[string]*onMatch{}
	ports := map[netip.Prefix]map[string]*onMatch{}
	for _, svc := range services {
		for _, port := range svc.GetPorts() {
			number, way := strconv.Itoa(int(port.GetNumber())), e.portMatch(svc, port)
			claim(names, strings.ToLower(svc.GetHostname())+":"+number, way)
			for _, prefix := range e.addresses(svc) {
				if ports[prefix] == nil {
					ports[prefix] = map[string]*onMatch{}
				}
				claim(ports[prefix], number, way)
			}
		}
	}
	ranges := map[netip.Prefix]*onMatch{}
	for prefix, byNumber := range ports {
		ranges[prefix] = byPort(byNumber, nowhere)
	}
	for _, d := range e.directs() {
		way := byProtocol(toChain(d.name(kindHTTP)), toChain(d.name(kindTCP)))
		for _, a := range d.addresses {
			claim(ranges, netip.PrefixFrom(a, a.BitLen()), way)
		}
	}
	way := byDestination(ranges, byAuthority(names, nowhere))
	if way.GetMatcher() == nil { // a listener needs a matcher, not an action
		way = byAuthority(map[string]*onMatch{"nothing is served": nowhere}, nowhere)
	}
	return way
}

// claim lets the first have it: services come in a fixed order.
func claim[K comparable](m map[K]*onMatch, key K, way *onMatch) {
	if m[key] == nil {
		m[key] = way
	}
}

// portMatch picks among the chains of one port.
func (e *Env) portMatch(svc *waypoint.Service, port *waypoint.ServicePort) *onMatch {
	http := toChain(servedName(port.GetNumber(), kindHTTP, "", svc.GetHostname()))
	if kindOf(port.GetProtocol()) == kindHTTP && port.GetProtocol() != waypoint.Protocol_AUTO {
		return http
	}
	streams, _ := e.streams(svc, port)
	tcp := firstOf(streams, func(i int) *onMatch { return toChain(streamName(svc, port, i)) }, toChain(chainBlackHole))
	if port.GetProtocol() == waypoint.Protocol_AUTO {
		return byProtocol(http, tcp)
	}
	return tcp
}

// addresses are the service's virtual addresses in our network.
func (e *Env) addresses(svc *waypoint.Service) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range e.Address(svc.GetNamespace(), svc.GetHostname()).GetAddresses() {
		if p, ok := e.prefix(a); ok {
			out = append(out, p)
		}
	}
	return out
}

// prefix reads an address or range, if it is in our network.
func (e *Env) prefix(a *workload.NetworkAddress) (netip.Prefix, bool) {
	ip, ok := netip.AddrFromSlice(a.GetAddress())
	if !ok || a.GetNetwork() != e.Options.Network {
		return netip.Prefix{}, false
	}
	bits := ip.BitLen()
	if a.Length != nil {
		bits = int(a.GetLength())
	}
	p, err := ip.Prefix(bits)
	return p, err == nil
}

// inspectors find out where a connection was opened to, and what it speaks where nobody has said so. They are off on
// ports where all services have said so: a protocol in which the server speaks first would wait for its client in vain.
// Pods addressed by themselves have said nothing, but on a port that is HTTP for services looking again does no harm,
// and a port that is TCP for services is taken for TCP at pods.
func (e *Env) inspectors(services []*waypoint.Service) []*listenerv3.ListenerFilter {
	filters := []*listenerv3.ListenerFilter{listenerFilter("envoy.filters.listener.original_dst", &originaldstv3.OriginalDst{})}
	declared, names, auto := map[uint32]bool{}, false, len(e.directs()) > 0 // declared: whether TCP is among it
	open := map[uint32]bool{}                                               // ports where HTTP or a server name is looked for
	for _, svc := range services {
		for _, port := range svc.GetPorts() {
			declared[port.GetNumber()] = declared[port.GetNumber()] || kindOf(port.GetProtocol()) == kindTCP
			sni := e.readsNames(svc, port)
			names = names || sni
			auto = auto || port.GetProtocol() == waypoint.Protocol_AUTO
			if sni || port.GetProtocol() == waypoint.Protocol_AUTO {
				open[port.GetNumber()] = true
			}
		}
	}
	var quiet []uint32
	pods := len(e.directs()) > 0
	for port, tcp := range declared {
		if !open[port] && (tcp || !pods) {
			quiet = append(quiet, port)
		}
	}
	slices.Sort(quiet)
	if names {
		f := listenerFilter("envoy.filters.listener.tls_inspector", &tlsinspectorv3.TlsInspector{InitialReadBufferSize: wrapperspb.UInt32(512)})
		f.FilterDisabled = onPorts(quiet)
		filters = append(filters, f)
	}
	if auto {
		f := listenerFilter("envoy.filters.listener.http_inspector", &httpinspectorv3.HttpInspector{})
		f.FilterDisabled = onPorts(quiet)
		filters = append(filters, f)
	}
	return filters
}

// readsNames says whether a port's rules look at the server name of TLS.
func (e *Env) readsNames(svc *waypoint.Service, port *waypoint.ServicePort) bool {
	if kindOf(port.GetProtocol()) == kindHTTP && port.GetProtocol() != waypoint.Protocol_AUTO {
		return false
	}
	if d := e.Destination(svc.GetNamespace(), svc.GetHostname()); d.GetResolution() == waypoint.Destination_DYNAMIC {
		return true
	}
	return slices.ContainsFunc(port.GetStream(), func(r *waypoint.StreamRule) bool { return len(r.GetSni()) > 0 })
}

// onPorts holds for connections to one of the ports.
func onPorts(ports []uint32) *listenerv3.ListenerFilterChainMatchPredicate {
	var any []*listenerv3.ListenerFilterChainMatchPredicate
	for _, p := range ports {
		any = append(any, &listenerv3.ListenerFilterChainMatchPredicate{
			Rule: &listenerv3.ListenerFilterChainMatchPredicate_DestinationPortRange{
				DestinationPortRange: &typev3.Int32Range{Start: int32(p), End: int32(p) + 1},
			},
		})
	}
	switch len(any) {
	case 0:
		return nil
	case 1:
		return any[0]
	}
	return &listenerv3.ListenerFilterChainMatchPredicate{Rule: &listenerv3.ListenerFilterChainMatchPredicate_OrMatch{
		OrMatch: &listenerv3.ListenerFilterChainMatchPredicate_MatchSet{Rules: any},
	}}
}
