package model

import (
	"cmp"
	"slices"

	"github.com/ambit-mesh/ambit/api/security"
	"github.com/ambit-mesh/ambit/control/object"
)

// elsewhere is a clause that matches what any of the matches does, and what goes to another port.
func elsewhere(ports portSet, matches ...*security.Match) *security.Clause {
	c := &security.Clause{Matches: matches}
	switch {
	case ports.all:
	case ports.complement:
		c.Matches = append(c.Matches, &security.Match{DestinationPorts: ports.list})
	default:
		c.Matches = append(c.Matches, &security.Match{NotDestinationPorts: ports.list})
	}
	if len(c.Matches) == 0 {
		// Everybody is admitted everywhere. A clause must have a match, and this one never holds.
		c.Matches = []*security.Match{{}}
	}
	return c
}

// portSet is ports, or all but some.
type portSet struct {
	all, complement bool
	list            []uint32
}

func (p portSet) none() bool { return !p.all && !p.complement && len(p.list) == 0 }

// portRange is ports from first to last.
type portRange struct{ first, last int }

const lastPort = 65535

// portsOf are the TCP ports of a rule. ok is false when they cannot be told to a node proxy.
func portsOf(in []object.NetworkPort, named map[string]uint16) (ports portSet, ok bool) {
	ports, ranges, ok := rangesOf(in, named)
	for _, r := range ranges {
		for q := r.first; q <= r.last; q++ {
			ports.list = append(ports.list, uint32(q))
		}
	}
	return ports, ok
}

// rangesOf are the ports of a rule, or those that it leaves out, as ranges. What it costs depends on the entries, not on how
// many ports they stand for: anybody may write thousands of rules.
func rangesOf(in []object.NetworkPort, named map[string]uint16) (ports portSet, ranges []portRange, ok bool) {
	if len(in) == 0 {
		return portSet{all: true}, nil, true
	}
	for _, p := range in {
		first, last := p.Port, max(p.Port, p.End)
		switch {
		case p.Protocol != object.TCP:
			continue
		case p.Name != "":
			first, last = named[p.Name], named[p.Name]
			if first == 0 {
				continue // the pod has no port of that name
			}
		case first == 0:
			return portSet{all: true}, nil, true
		}
		ranges = append(ranges, portRange{int(first), int(last)})
	}
	ranges = merged(ranges)
	n := 0
	for _, r := range ranges {
		n += r.last - r.first + 1
	}
	switch rest := lastPort - n; {
	case rest == 0:
		return portSet{all: true}, nil, true
	case n <= maxPorts:
		return portSet{}, ranges, true
	case rest <= maxPorts:
		return portSet{complement: true}, gaps(ranges), true
	}
	return portSet{}, nil, false
}

// merged are the same ports in order, each once.
func merged(ranges []portRange) []portRange {
	slices.SortFunc(ranges, func(a, b portRange) int { return cmp.Compare(a.first, b.first) })
	var out []portRange
	for _, r := range ranges {
		if n := len(out); n > 0 && r.first <= out[n-1].last+1 {
			out[n-1].last = max(out[n-1].last, r.last)
			continue
		}
		out = append(out, r)
	}
	return out
}

// gaps are the ports between merged ranges.
func gaps(ranges []portRange) []portRange {
	var out []portRange
	next := 1
	for _, r := range append(ranges, portRange{lastPort + 1, 0}) {
		if next < r.first {
			out = append(out, portRange{next, r.first - 1})
		}
		next = r.last + 1
	}
	return out
}

// size is how much of a policy clauses are.
func size(clauses []*security.Clause) int {
	n := len(clauses)
	for _, c := range clauses {
		for _, m := range c.Matches {
			n += len(m.SourceIps) + len(m.NotSourceIps) + len(m.DestinationPorts) + len(m.NotDestinationPorts) +
				len(m.NotNamespaces) + len(m.NotServiceAccounts)
		}
	}
	return n
}
