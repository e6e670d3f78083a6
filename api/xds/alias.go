package xds

import (
	"net/netip"
	"slices"
	"strings"
)

// address is a name of the form "network/ip" or "network/ip/prefix-length". The network may be empty.
type address struct {
	network string
	prefix  netip.Prefix
	single  bool // one address, written without a length
}

// parseAddress tells such names from workload uids and "namespace/hostname".
func parseAddress(name string) (address, bool) {
	network, rest, found := strings.Cut(name, "/")
	if !found {
		return address{}, false
	}
	if ip, err := netip.ParseAddr(rest); err == nil && ip.Zone() == "" {
		ip = ip.Unmap()
		return address{network: network, prefix: netip.PrefixFrom(ip, ip.BitLen()), single: true}, true
	}
	if p, err := netip.ParsePrefix(rest); err == nil && !p.Addr().Is4In6() {
		return address{network: network, prefix: p.Masked()}, true
	}
	return address{}, false
}

// String spells the address the one way used as a key, so that differently written IPv6 addresses meet.
func (a address) String() string {
	if a.single {
		return a.network + "/" + a.prefix.Addr().String()
	}
	return a.network + "/" + a.prefix.String()
}

// canonicalAlias returns the key of a name: addresses in one spelling, everything else as it is.
func canonicalAlias(name string) string {
	if a, ok := parseAddress(name); ok {
		return a.String()
	}
	return name
}

// aliasIndex finds entries by address. Nearly every address has one holder, hence the two maps.
type aliasIndex struct {
	first map[string]*entry
	more  map[string][]*entry
	// lengths counts the prefixes of each length, so that a lookup tries only lengths that occur.
	lengths map[string]*prefixLengths
}

type prefixLengths struct {
	v4 [33]int32
	v6 [129]int32
}

func (l *prefixLengths) of(a netip.Addr) []int32 {
	if a.Is4() {
		return l.v4[:]
	}
	return l.v6[:]
}

func newAliasIndex() aliasIndex {
	return aliasIndex{first: make(map[string]*entry), more: make(map[string][]*entry), lengths: make(map[string]*prefixLengths)}
}

func (x *aliasIndex) add(alias string, e *entry) {
	key, isAddr := alias, false
	a, ok := parseAddress(alias)
	if ok {
		isAddr = !a.single
		if s := a.String(); s != alias { // keep the producer's string when it is already canonical
			key = s
		}
	}
	if isAddr {
		l := x.lengths[a.network]
		if l == nil {
			l = new(prefixLengths)
			x.lengths[a.network] = l
		}
		l.of(a.prefix.Addr())[a.prefix.Bits()]++
	}
	if x.first[key] == nil {
		x.first[key] = e
		return
	}
	x.more[key] = append(x.more[key], e)
}

func (x *aliasIndex) remove(alias string, e *entry) {
	a, ok := parseAddress(alias)
	key := alias
	if ok {
		key = a.String()
		if !a.single {
			x.lengths[a.network].of(a.prefix.Addr())[a.prefix.Bits()]--
		}
	}
	more := x.more[key]
	if x.first[key] != e {
		if i := slices.Index(more, e); i >= 0 {
			more = slices.Delete(more, i, i+1)
		}
	} else if len(more) > 0 {
		x.first[key] = more[0]
		more = slices.Delete(more, 0, 1)
	} else {
		delete(x.first, key)
	}
	if len(more) == 0 {
		delete(x.more, key)
	} else {
		x.more[key] = more
	}
}

// lookup returns who answers to the name: exact holders first; for an address nobody holds, the most specific prefix around it.
func (x *aliasIndex) lookup(name string) []*entry {
	a, ok := parseAddress(name)
	if !ok {
		return x.holders(name)
	}
	if found := x.holders(a.String()); found != nil {
		return found
	}
	l := x.lengths[a.network]
	if l == nil || !a.single {
		return nil
	}
	counts := l.of(a.prefix.Addr())
	for bits := len(counts) - 1; bits >= 0; bits-- {
		if counts[bits] == 0 {
			continue
		}
		around := address{network: a.network, prefix: netip.PrefixFrom(a.prefix.Addr(), bits).Masked()}
		if found := x.holders(around.String()); found != nil {
			return found
		}
	}
	return nil
}

func (x *aliasIndex) holders(key string) []*entry {
	e := x.first[key]
	if e == nil {
		return nil
	}
	return append([]*entry{e}, x.more[key]...)
}

// groupIndex finds the entries that belong to a node or to a service.
type groupIndex map[string]map[*entry]struct{}

func (g groupIndex) add(key string, e *entry) {
	set := g[key]
	if set == nil {
		set = make(map[*entry]struct{})
		g[key] = set
	}
	set[e] = struct{}{}
}

func (g groupIndex) remove(key string, e *entry) {
	delete(g[key], e)
	if len(g[key]) == 0 {
		delete(g, key)
	}
}
