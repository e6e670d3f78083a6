package redirect

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/api/netns"
)

// probeSets are the two sets of enrolled pods' addresses in the node's namespace.
type probeSets struct {
	v4, v6 *nftables.Set
}

func newProbeSets() *probeSets {
	t := tableOf(NAT)
	return &probeSets{
		v4: &nftables.Set{Table: t, Name: ProbeSetIPv4, KeyType: nftables.TypeIPAddr},
		v6: &nftables.Set{Table: t, Name: ProbeSetIPv6, KeyType: nftables.TypeIP6Addr},
	}
}

func (s *probeSets) add(c *nftables.Conn, t *nftables.Table) error {
	for _, set := range []*nftables.Set{s.v4, s.v6} {
		set.Table = t
		if err := c.AddSet(set, nil); err != nil {
			return fmt.Errorf("make set %s: %w", set.Name, err)
		}
	}
	return nil
}

func (s *probeSets) of(f Family) *nftables.Set {
	switch {
	case s == nil:
		return nil
	case f == IPv6:
		return s.v6
	default:
		return s.v4
	}
}

// probeRules are a way to mark probes. Its methods work in the calling thread's namespace.
type probeRules interface {
	name() string
	// apply puts the rules in place and leaves the addresses as they are; verify is nil if they are, and ErrDrift otherwise.
	apply(o NodeOptions) error
	verify(o NodeOptions) error
	// read tells the addresses that are marked, each with the UID of its pod.
	read() (map[netip.Addr]string, error)
	// change brings the addresses from have to next in one go. It is ENOENT when have is not what is there.
	change(o NodeOptions, have, next map[netip.Addr]string) error
	remove() error
}

// Node keeps the rules of the node's own namespace, and the addresses they are about. Its methods may be called from any
// goroutine.
type Node struct {
	ns *netns.Netns
	o  NodeOptions

	mu sync.Mutex
	// Guarded by mu. ways are those to choose from, best first; by is the one that was chosen.
	ways []probeRules
	by   probeRules
	have map[netip.Addr]string // what is marked, each address with the UID of its pod
	off  bool                  // nothing is to be done
}

// NewNode prepares the node's side; Apply makes it real. ns stays the caller's.
//
// Nodes are driven by nftables whatever redirects the traffic of pods: it changes sets without touching rules. Where the
// kernel has no nf_tables the programs of iptables do it, those that know no nf_tables either.
func NewNode(ns *netns.Netns, o NodeOptions) *Node {
	return &Node{ns: ns, o: o, have: map[netip.Addr]string{}, ways: []probeRules{nftProbes{}, iptProbes{IPTables{Variant: "legacy"}}}}
}

// Way is how probes are marked: nftables or iptables-legacy, and empty before Apply.
func (n *Node) Way() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.by == nil {
		return ""
	}
	return n.by.name()
}

// Disable makes all methods do nothing, for a kernel that cannot do it: probes then reach pods like anybody's connections.
func (n *Node) Disable() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.off = true
}

// Apply puts the rules in place, keeping what the sets hold, and learns what that is. The first time it chooses the way.
func (n *Node) Apply() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.off {
		return nil
	}
	ways := n.ways
	if n.by != nil {
		ways = []probeRules{n.by}
	}
	var errs []error
	for _, way := range ways {
		err := n.ns.Do(func() error {
			err := way.apply(n.options())
			if err == nil {
				n.have, err = way.read()
			}
			return err
		})
		if err == nil {
			n.by = way
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", way.name(), err))
	}
	return fmt.Errorf("apply the node's probe rules: %w", errors.Join(errs...))
}

// options of the node as it is. A rule of a family the node does not have would do no harm, but the kernel may refuse it.
func (n *Node) options() NodeOptions {
	o := n.o
	o.IPv6 = n.ns.HasIPv6()
	return o
}

// way is the one in use, or the best before there is any.
func (n *Node) way() probeRules {
	if n.by == nil {
		return n.ways[0]
	}
	return n.by
}

// Verify is nil if the rules are in place, and ErrDrift otherwise.
func (n *Node) Verify() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.off {
		return nil
	}
	if err := n.ns.Do(func() error { return n.way().verify(n.options()) }); err != nil {
		return fmt.Errorf("verify the node's probe rules: %w", err)
	}
	return nil
}

// Read learns what the sets hold without changing anything.
func (n *Node) Read() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ns.Do(n.read)
}

// read fills have from the kernel. The caller holds mu and is inside the namespace.
func (n *Node) read() (err error) {
	n.have, err = n.way().read()
	return err
}

// Set makes the addresses of one pod exactly these; none removes the pod. An address that another pod had before is
// taken over, because addresses are reused and the newest owner is the one that lives.
func (n *Node) Set(uid string, addrs []netip.Addr) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	next := maps.Clone(n.have)
	for a, owner := range next {
		if owner == uid {
			delete(next, a)
		}
	}
	for _, a := range addrs {
		next[a.Unmap()] = uid
	}
	return n.change(next)
}

// Prune removes the addresses of all pods but these.
func (n *Node) Prune(uids map[string]bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	next := maps.Clone(n.have)
	maps.DeleteFunc(next, func(_ netip.Addr, uid string) bool { return !uids[uid] })
	return n.change(next)
}

// Addrs lists what the sets hold.
func (n *Node) Addrs() []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.SortedFunc(maps.Keys(n.have), netip.Addr.Compare)
}

// change brings the kernel from have to next. The caller holds mu.
func (n *Node) change(next map[netip.Addr]string) error {
	if n.off || maps.Equal(n.have, next) {
		return nil
	}
	err := n.ns.Do(func() error {
		err := n.way().change(n.options(), n.have, next)
		if !errors.Is(err, unix.ENOENT) {
			return err
		}
		// Somebody else changed the sets: look again, then say the difference to what is really there.
		if err := n.read(); err != nil {
			return err
		}
		return n.way().change(n.options(), n.have, next)
	})
	if err != nil {
		return fmt.Errorf("update the addresses of probed pods: %w", err)
	}
	n.have = next
	return nil
}

// Remove takes the rules and sets away.
func (n *Node) Remove() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.off {
		return nil
	}
	if err := n.ns.Do(n.way().remove); err != nil {
		return fmt.Errorf("remove the node's probe rules: %w", err)
	}
	n.have = map[netip.Addr]string{}
	return nil
}

// nftProbes marks probes by nftables: one rule for each family, and a set of addresses.
type nftProbes struct{}

func (nftProbes) name() string { return NFTables{}.Name() }

func (nftProbes) apply(o NodeOptions) error { return load(NodeRules(o), newProbeSets()) }

func (nftProbes) verify(o NodeOptions) error { return verify(NodeRules(o)) }

func (nftProbes) read() (map[netip.Addr]string, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open netfilter netlink: %w", err)
	}
	have := map[netip.Addr]string{}
	sets := newProbeSets()
	for _, set := range []*nftables.Set{sets.v4, sets.v6} {
		elements, err := c.GetSetElements(set)
		if err != nil {
			return nil, fmt.Errorf("read set %s: %w", set.Name, err)
		}
		for _, e := range elements {
			if a, ok := netip.AddrFromSlice(e.Key); ok {
				have[a] = e.Comment
			}
		}
	}
	return have, nil
}

func (nftProbes) change(_ NodeOptions, have, next map[netip.Addr]string) error {
	return transact(func(c *nftables.Conn) error { return elements(c, have, next) })
}

func (nftProbes) remove() error { return unload(NAT) }

func elements(c *nftables.Conn, have, next map[netip.Addr]string) error {
	sets := newProbeSets()
	of := func(a netip.Addr) *nftables.Set {
		if a.Is4() {
			return sets.v4
		}
		return sets.v6
	}
	for a, uid := range have {
		if next[a] != uid {
			if err := c.SetDeleteElements(of(a), []nftables.SetElement{{Key: a.AsSlice()}}); err != nil {
				return err
			}
		}
	}
	for a, uid := range next {
		if have[a] != uid {
			if err := c.SetAddElements(of(a), []nftables.SetElement{{Key: a.AsSlice(), Comment: clipComment(uid)}}); err != nil {
				return err
			}
		}
	}
	return nil
}

// clipComment keeps a pod's UID within what nftables stores beside an element.
func clipComment(s string) string { return s[:min(len(s), 120)] }
