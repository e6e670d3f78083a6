package envoy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	originaldstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
)

// Listeners are the constant parts of a gateway, and the matchers that find a connection's filter chain.
func Listeners(e *Env) ([]*listenerv3.Listener, []Problem) {
	if e.Gateway.GetKind() == waypoint.Gateway_EDGE {
		edge, problems := e.edgeListeners()
		return append(edge, e.connectOriginate()), problems
	}
	services := e.services()
	internal, detect := e.mainInternal(services), e.detectListener(services)
	var problems []Problem
	if e.Options.InlineChains {
		problems = e.inline(services, internal, detect)
	}
	return []*listenerv3.Listener{e.connectTerminate(), internal, detect, e.connectOriginate()}, problems
}

// mainInternal sorts connections by the address they were opened to. It knows of each service only the addresses, ports
// and names of chains, so that what users write never keeps it from being accepted.
//
// While only its matcher changes, Envoy exchanges that alone and leaves connections be; any other change would close
// those of all services. So its listener filters never depend on services: where it must be found out what a connection
// speaks, it goes on to a second listener, see detect.go. And one chain is always in the listener itself, for Envoy
// compares no listener without any (source/common/listener_manager/listener_impl.cc, supportUpdateFilterChain).
func (e *Env) mainInternal(services []*waypoint.Service) *listenerv3.Listener {
	return e.sortingListener(ListenerInternal, e.findChain(services, false),
		listenerFilter("envoy.filters.listener.original_dst", &originaldstv3.OriginalDst{}))
}

func (e *Env) sortingListener(name string, match *onMatch, filters ...*listenerv3.ListenerFilter) *listenerv3.Listener {
	l := &listenerv3.Listener{
		Name:               name,
		ListenerSpecifier:  internalListener(),
		ListenerFilters:    filters,
		FilterChainMatcher: match.GetMatcher(),
		FilterChains:       []*listenerv3.FilterChain{blackHoleChain(), detectChain()},
	}
	if !e.Options.InlineChains {
		l.FcdsConfig = &listenerv3.Listener_FcdsConfig{Name: name, ConfigSource: fromADS()}
	}
	return l
}

// inline puts all chains into the listeners. A listener gets those of the other, too, and never picks them.
func (e *Env) inline(services []*waypoint.Service, into ...*listenerv3.Listener) []Problem {
	chains, problems := GatewayChains(e)
	for _, svc := range services {
		c, p := ServiceChains(e, svc)
		chains, problems = append(chains, c...), append(problems, p...)
	}
	for _, l := range into {
		l.FilterChains = append(l.FilterChains, chains...)
	}
	return problems
}

// services are those served here, in an order that does not depend on when they came. Where two claim one hostname or
// address the first has it: the one that the name means everywhere.
func (e *Env) services() []*waypoint.Service {
	all := e.Services()
	first, other := make([]*waypoint.Service, 0, len(all)), []*waypoint.Service(nil)
	for _, svc := range all {
		if e.Address == nil || e.Address(svc.GetNamespace(), svc.GetHostname()).GetCanonical() {
			first = append(first, svc)
		} else {
			other = append(other, svc)
		}
	}
	byName := func(a, b *waypoint.Service) int {
		return cmp.Or(strings.Compare(a.GetNamespace(), b.GetNamespace()), strings.Compare(a.GetHostname(), b.GetHostname()))
	}
	slices.SortFunc(first, byName)
	slices.SortFunc(other, byName)
	return append(first, other...)
}

// findChain looks for what the CONNECT asked for, which is an address and port or a hostname and port, and then for what range
// the address is in. What is neither a service nor a workload of this gateway goes nowhere: a waypoint never relays to an
// address it was not told to serve.
//
// All services are in the one map, for it is built anew by both ends with each service that comes. The text of an address is
// that of its sender, who has but one way to write it down (RFC 5952); any other leads nowhere.
//
// detected is for connections of which is known what they speak. Others, where it matters, are sent to be looked at.
func (e *Env) findChain(services []*waypoint.Service, detected bool) *onMatch {
	nowhere := toChain(chainBlackHole)
	names := make(map[string]*onMatch, 2*len(services))
	ports := map[netip.Prefix]map[string]*onMatch{} // of ranges
	taken := make(map[netip.Addr]bool, len(services))
	for _, svc := range services {
		var addresses []netip.Prefix
		for _, port := range svc.GetPorts() {
			look := e.mustLook(svc, port)
			if detected && !look { // never comes this way
				continue
			}
			if addresses == nil {
				addresses = e.addresses(svc)
			}
			way := toChain(chainDetect)
			if detected || !look {
				way = e.portMatch(svc, port)
			}
			number := portText(port.GetNumber())
			claim(names, strings.ToLower(svc.GetHostname())+":"+number, way)
			for _, prefix := range addresses {
				if prefix.IsSingleIP() {
					taken[prefix.Addr()] = true
					claim(names, netip.AddrPortFrom(prefix.Addr(), uint16(port.GetNumber())).String(), way)
					continue
				}
				if ports[prefix] == nil {
					ports[prefix] = map[string]*onMatch{}
				}
				claim(ports[prefix], number, way)
			}
		}
	}
	ranges := make(map[netip.Prefix]*onMatch, len(ports))
	port := portInput()
	for prefix, byNumber := range ports {
		ranges[prefix] = lookUp(port, byNumber, nowhere)
		for a := range taken { // no other port of it either
			if prefix.Contains(a) {
				claim(ranges, netip.PrefixFrom(a, a.BitLen()), nowhere)
			}
		}
	}
	closed := e.closedPorts()
	for _, d := range e.directs() {
		way := toChain(chainDetect)
		if detected {
			way = byProtocol(toChain(d.name(kindHTTP)), toChain(d.name(kindTCP)))
		}
		for _, a := range d.addresses {
			if !taken[a] {
				claim(ranges, netip.PrefixFrom(a, a.BitLen()), around(closed[a], way, nowhere))
			}
		}
	}
	keepOut(ranges, nowhere)
	way := byAuthority(names, byDestination(ranges, nowhere))
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
	http := toChain(servedName(port.GetNumber(), kindHTTP, "", e.label(svc.GetNamespace(), svc.GetHostname())))
	if kindOf(port.GetProtocol()) == kindHTTP && port.GetProtocol() != waypoint.Protocol_AUTO {
		return http
	}
	streams, _ := e.streams(svc, port)
	tcp := firstOf(streams, func(i int) *onMatch { return toChain(e.streamName(svc, port, i)) }, toChain(chainBlackHole))
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
