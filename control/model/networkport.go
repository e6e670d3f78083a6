package model

import (
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

// portsOf are the TCP ports of a rule. ok is false when they cannot be told to a node proxy.
func portsOf(in []object.NetworkPort, named map[string]uint16) (ports portSet, ok bool) {
	if len(in) == 0 {
		return portSet{all: true}, true
	}
	var is [65536]bool
	n := 0
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
			return portSet{all: true}, true
		}
		for q := int(first); q <= int(last); q++ {
			if !is[q] {
				is[q] = true
				n++
			}
		}
	}
	switch rest := 65535 - n; {
	case rest == 0:
		return portSet{all: true}, true
	case n <= maxPorts:
	case rest <= maxPorts:
		ports.complement = true
	default:
		return portSet{}, false
	}
	for q := 1; q <= 65535; q++ {
		if is[q] != ports.complement {
			ports.list = append(ports.list, uint32(q))
		}
	}
	return ports, true
}
