package envoy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// edgeChains are the filter chains of one port. Envoy refuses a port on which two chains take the same connections, so
// what a chain takes is given to the first that asks for it.
func (e *Env) edgeChains(port edgePort) ([]*listenerv3.FilterChain, []Problem) {
	b := &chainBuilder{env: e, taken: map[string]string{}}
	listeners := slices.Clone(port.listeners)
	slices.SortStableFunc(listeners, func(a, b *waypoint.Listener) int { return specificity(b.GetHostname()) - specificity(a.GetHostname()) })
	for _, l := range listeners {
		if l.GetRefused() != "" {
			b.problem("listener " + l.GetName() + " is not served: " + l.GetRefused())
			continue
		}
		switch l.GetProtocol() {
		case waypoint.Listener_HTTP:
			b.http(l)
		case waypoint.Listener_HTTPS:
			b.https(l)
		case waypoint.Listener_TLS:
			b.streams(l, true)
		case waypoint.Listener_TLS_PASSTHROUGH, waypoint.Listener_TCP:
			b.streams(l, false)
		}
	}
	return b.chains, b.problems
}

type chainBuilder struct {
	env      *Env
	chains   []*listenerv3.FilterChain
	problems []Problem
	// taken is what chains take by now, and the listener that has it.
	taken map[string]string
}

func (b *chainBuilder) problem(text string) {
	b.problems = append(b.problems, Problem{Object: b.env.gatewayObject(), Text: text})
}

// take claims server names and prefixes for a listener; nil: all were somebody else's.
func (b *chainBuilder) take(l *waypoint.Listener, names, prefixes []string) *listenerv3.FilterChainMatch {
	match := &listenerv3.FilterChainMatch{}
	if isTLS(l.GetProtocol()) {
		match.TransportProtocol = "tls"
	}
	if len(names) == 0 {
		names = []string{""}
	}
	if len(prefixes) == 0 {
		prefixes = []string{""}
	}
	free := 0
	for _, name := range names {
		name = strings.ToLower(name)
		if name == "*" {
			name = ""
		}
		open := slices.DeleteFunc(slices.Clone(prefixes), func(p string) bool {
			_, taken := b.taken[match.TransportProtocol+" "+name+" "+p]
			return taken
		})
		// A chain takes every name with every prefix: partly is not possible.
		if len(open) < len(prefixes) {
			other := b.taken[match.TransportProtocol+" "+name+" "+prefixes[0]]
			b.problem(fmt.Sprintf("listener %s: %q on port %d belongs to listener %s already", l.GetName(), name, l.GetPort(), other))
			continue
		}
		for _, p := range prefixes {
			b.taken[match.TransportProtocol+" "+name+" "+p] = l.GetName()
		}
		free++
		if name != "" {
			match.ServerNames = append(match.ServerNames, name)
		}
	}
	for _, p := range prefixes {
		if prefix, err := netip.ParsePrefix(p); err == nil {
			match.PrefixRanges = append(match.PrefixRanges, &corev3.CidrRange{
				AddressPrefix: prefix.Addr().String(), PrefixLen: wrapperspb.UInt32(uint32(prefix.Bits())),
			})
		}
	}
	if free == 0 {
		return nil
	}
	return match
}

// http is one chain for all plain HTTP listeners of a port.
func (b *chainBuilder) http(l *waypoint.Listener) {
	if _, taken := b.taken["  "]; taken {
		return
	}
	b.taken["  "] = l.GetName()
	b.chains = append(b.chains, &listenerv3.FilterChain{
		Name:    edgeName(portText(l.GetPort()), "http"),
		Filters: []*listenerv3.Filter{b.manager(l)},
	})
}

func (b *chainBuilder) manager(l *waypoint.Listener) *listenerv3.Filter {
	t := target{key: "edge/" + l.GetName(), edge: true, policies: policies(b.env.Gateway.GetPolicies())}
	m, problems := b.env.httpManager(t, edgeRoutesName(l))
	b.problems = append(b.problems, problems...)
	m.StatPrefix = "edge"
	// Clients are anybody: bound what they can hold on to. Envoy docs configuration/best_practices/edge.
	m.RequestHeadersTimeout = seconds(10)
	m.CommonHttpProtocolOptions = &corev3.HttpProtocolOptions{
		IdleTimeout: seconds(3600),
	}
	m.Http2ProtocolOptions = &corev3.Http2ProtocolOptions{
		MaxConcurrentStreams:        uint32Value(100),
		InitialStreamWindowSize:     uint32Value(64 << 10),
		InitialConnectionWindowSize: uint32Value(1 << 20),
	}
	m.HttpProtocolOptions = &corev3.Http1ProtocolOptions{AcceptHttp_10: true}
	m.ServerHeaderTransformation = hcmv3.HttpConnectionManager_OVERWRITE
	return networkFilter("envoy.filters.network.http_connection_manager", m)
}

// https is a chain for the server names of one listener.
func (b *chainBuilder) https(l *waypoint.Listener) {
	socket, err := b.env.edgeTLS(l, "h2", "http/1.1")
	if err != nil {
		b.problem("listener " + l.GetName() + " is not served: " + err.Error())
		return
	}
	match := b.take(l, serverNames(l.GetHostname()), nil)
	if match == nil {
		return
	}
	b.chains = append(b.chains, &listenerv3.FilterChain{
		Name:                          edgeRoutesName(l),
		FilterChainMatch:              match,
		TransportSocket:               socket,
		TransportSocketConnectTimeout: seconds(10),
		Filters:                       []*listenerv3.Filter{b.manager(l)},
	})
}

func serverNames(hostname string) []string {
	if hostname == "" || hostname == "*" {
		return nil
	}
	return []string{hostname}
}

// streams are the chains of a TCP or TLS listener: one for each way a connection can go, with or without terminating it.
func (b *chainBuilder) streams(l *waypoint.Listener, terminate bool) {
	var socket *corev3.TransportSocket
	if terminate {
		var err error
		if socket, err = b.env.edgeTLS(l); err != nil {
			b.problem("listener " + l.GetName() + " is not served: " + err.Error())
			return
		}
	}
	for _, h := range b.env.hostsOf(l) {
		routes, problems := b.env.streamRoutes(h.GetStream(), nil)
		b.problems = append(b.problems, problems...)
		for i, s := range routes {
			names := s.sni
			if len(names) == 0 {
				names = serverNames(h.GetHostname())
			}
			if l.GetProtocol() == waypoint.Listener_TCP {
				names = nil
			}
			match := b.take(l, names, s.destinations)
			if match == nil {
				continue
			}
			name := edgeName(portText(l.GetPort()), l.GetName(), hostDomain(h), strconv.Itoa(i))
			chain, problems := b.env.tcpChain(b.env.edgeTarget(h), name, s.proxy, nil)
			b.problems = append(b.problems, problems...)
			chain.FilterChainMatch, chain.TransportSocket = match, socket
			b.chains = append(b.chains, chain)
		}
	}
}
