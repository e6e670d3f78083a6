package envoy

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	inputsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	ipv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/input_matchers/ip/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Builders of the matcher that finds a connection's filter chain.

type onMatch = xdsmatcherv3.Matcher_OnMatch

func matcherInput(name string, config proto.Message) *xdscorev3.TypedExtensionConfig {
	return &xdscorev3.TypedExtensionConfig{Name: name, TypedConfig: toAny(config)}
}

// toChain ends in the filter chain of that name. A name without a chain closes the connection.
func toChain(name string) *onMatch {
	// There is one of these for each port of each service, so the StringValue is encoded by hand: field 1, a string.
	value := make([]byte, 0, len(name)+4)
	if name != "" {
		value = protowire.AppendString(protowire.AppendTag(value, 1, protowire.BytesType), name)
	}
	return &onMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{Action: &xdscorev3.TypedExtensionConfig{
		Name: "chain", TypedConfig: &anypb.Any{TypeUrl: "type.googleapis.com/google.protobuf.StringValue", Value: value},
	}}}
}

func toMatcher(m *xdsmatcherv3.Matcher) *onMatch {
	return &onMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Matcher{Matcher: m}}
}

// lookUp looks a value up. An empty map is not permitted (matcher.proto), so that nothing to look up is just otherwise.
func lookUp(input *xdscorev3.TypedExtensionConfig, cases map[string]*onMatch, otherwise *onMatch) *onMatch {
	if len(cases) == 0 {
		return otherwise
	}
	return toMatcher(&xdsmatcherv3.Matcher{
		MatcherType: &xdsmatcherv3.Matcher_MatcherTree_{MatcherTree: &xdsmatcherv3.Matcher_MatcherTree{
			Input: input,
			TreeType: &xdsmatcherv3.Matcher_MatcherTree_ExactMatchMap{
				ExactMatchMap: &xdsmatcherv3.Matcher_MatcherTree_MatchMap{Map: cases},
			},
		}},
		OnNoMatch: otherwise,
	})
}

// byDestination finds the longest prefix the destination address is in.
func byDestination(ranges map[netip.Prefix]*onMatch, otherwise *onMatch) *onMatch {
	if len(ranges) == 0 {
		return otherwise
	}
	trie := &xdsmatcherv3.IPMatcher{}
	for _, prefix := range slices.SortedFunc(maps.Keys(ranges), netip.Prefix.Compare) {
		trie.RangeMatchers = append(trie.RangeMatchers, &xdsmatcherv3.IPMatcher_IPRangeMatcher{
			Ranges:  []*xdscorev3.CidrRange{{AddressPrefix: prefix.Addr().String(), PrefixLen: wrapperspb.UInt32(uint32(prefix.Bits()))}},
			OnMatch: ranges[prefix],
		})
	}
	return toMatcher(&xdsmatcherv3.Matcher{
		MatcherType: &xdsmatcherv3.Matcher_MatcherTree_{MatcherTree: &xdsmatcherv3.Matcher_MatcherTree{
			Input:    matcherInput("ip", &inputsv3.DestinationIPInput{}),
			TreeType: &xdsmatcherv3.Matcher_MatcherTree_CustomMatch{CustomMatch: matcherInput("ip", trie)},
		}},
		OnNoMatch: otherwise,
	})
}

// byProtocol tells HTTP, seen by the http_inspector listener filter, from all else.
func byProtocol(http, other *onMatch) *onMatch {
	return lookUp(matcherInput("application-protocol", &inputsv3.ApplicationProtocolInput{}), map[string]*onMatch{
		// The input quotes its values, Envoy source/common/network/matching/inputs.cc.
		"'h2c'":      http,
		"'http/1.1'": http,
		"'http/1.0'": http,
	}, other)
}

// portInput is the port a connection was opened to. One can be shared by many matchers.
func portInput() *xdscorev3.TypedExtensionConfig {
	return matcherInput("port", &inputsv3.DestinationPortInput{})
}

func byAuthority(names map[string]*onMatch, otherwise *onMatch) *onMatch {
	return lookUp(matcherInput("authority", &inputsv3.FilterStateInput{Key: stateAuthority}), names, otherwise)
}

type predicate = xdsmatcherv3.Matcher_MatcherList_Predicate

// firstOf tries streams in order; next gives each its way.
func firstOf(streams []streamRoute, next func(int) *onMatch, otherwise *onMatch) *onMatch {
	list := &xdsmatcherv3.Matcher_MatcherList{}
	for i, s := range streams {
		p := s.predicate()
		if p == nil { // takes all: nothing after it is ever reached
			otherwise = next(i)
			break
		}
		list.Matchers = append(list.Matchers, &xdsmatcherv3.Matcher_MatcherList_FieldMatcher{Predicate: p, OnMatch: next(i)})
	}
	if len(list.Matchers) == 0 {
		return otherwise
	}
	return toMatcher(&xdsmatcherv3.Matcher{
		MatcherType: &xdsmatcherv3.Matcher_MatcherList_{MatcherList: list},
		OnNoMatch:   otherwise,
	})
}

// predicate is nil when every connection fits.
func (s streamRoute) predicate() *predicate {
	var all []*predicate
	var names []*predicate
	for _, name := range s.sni {
		if name == "*" {
			names = nil
			break
		}
		names = append(names, nameIs(name))
	}
	if p := anyOf(names); p != nil {
		all = append(all, p)
	}
	if p := destinationIn(s.destinations); p != nil {
		all = append(all, p)
	}
	switch len(all) {
	case 0:
		return nil
	case 1:
		return all[0]
	}
	return &predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_AndMatcher{
		AndMatcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: all},
	}}
}

func anyOf(some []*predicate) *predicate {
	switch len(some) {
	case 0:
		return nil
	case 1:
		return some[0]
	}
	return &predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_OrMatcher{
		OrMatcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: some},
	}}
}

// nameIs compares the server name a TLS client asked for. "*.example.com" is any name below example.com.
func nameIs(name string) *predicate {
	match := &xdsmatcherv3.StringMatcher{MatchPattern: &xdsmatcherv3.StringMatcher_Exact{Exact: strings.ToLower(name)}}
	if suffix, ok := strings.CutPrefix(name, "*"); ok {
		match.MatchPattern = &xdsmatcherv3.StringMatcher_Suffix{Suffix: strings.ToLower(suffix)}
	}
	return &predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{
		SinglePredicate: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
			Input:   matcherInput("sni", &inputsv3.ServerNameInput{}),
			Matcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{ValueMatch: match},
		},
	}}
}

func destinationIn(prefixes []string) *predicate {
	ip := &ipv3.Ip{StatPrefix: "destination"}
	for _, text := range prefixes {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			a, err := netip.ParseAddr(text)
			if err != nil {
				continue
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		ip.CidrRanges = append(ip.CidrRanges, &corev3.CidrRange{
			AddressPrefix: p.Addr().String(), PrefixLen: wrapperspb.UInt32(uint32(p.Bits())),
		})
	}
	if len(prefixes) == 0 {
		return nil
	}
	if len(ip.CidrRanges) == 0 { // nothing that can be read: no destination
		ip.CidrRanges = []*corev3.CidrRange{{AddressPrefix: "0.0.0.0", PrefixLen: wrapperspb.UInt32(32)}}
	}
	return &predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{
		SinglePredicate: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
			Input:   matcherInput("ip", &inputsv3.DestinationIPInput{}),
			Matcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_CustomMatch{CustomMatch: matcherInput("ip", ip)},
		},
	}}
}
