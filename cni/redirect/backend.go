package redirect

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/google/nftables"

	"github.com/ambit-mesh/ambit/api/netns"
	"github.com/ambit-mesh/ambit/cni/redirect/bpf"
)

// Backend carries a pod's rules into its network namespace.
type Backend interface {
	// Name is for logs: nftables, iptables-nft, iptables-legacy or ebpf.
	Name() string
	// Apply makes the namespace redirect as o says, whatever an earlier Apply said. IPv6 is left out where the
	// namespace has none. Traffic meets either the old rules or the new.
	Apply(ns *netns.Netns, o Options) error
	// Verify is nil if what Apply(ns, o) would do is in place, and ErrDrift with the difference otherwise.
	Verify(ns *netns.Netns, o Options) error
	// Release captures no connection any more, and keeps what those need that are captured: without the way back to the
	// proxy, an answer that is under way would be lost. Remove comes next, when they have ended. o is what was applied.
	Release(ns *netns.Netns, o Options) error
	// Remove takes everything away again, also what another back end that works by packet filters has left. What is not
	// there is no error.
	Remove(ns *netns.Netns) error
	// Forget is for a pod that is gone: it lets go of what is kept outside of the pod's namespace.
	Forget(ns *netns.Netns) error

	// drop is Remove without the routes, which all back ends share: without them, connections captured before would
	// be torn.
	drop(ns *netns.Netns) error
}

// ErrDrift says that the rules in a namespace are not those that were applied.
var ErrDrift = errors.New("rules differ from what was applied")

// Supersede applies with b and removes what any other back end left in the namespace, so that an agent started with
// another setting takes its pods over. Open connections stay open, also those that are captured already. at is where an
// agent that used BPF programs kept them.
func Supersede(b Backend, ns *netns.Netns, o Options, at bpf.Place) error {
	if err := b.Apply(ns, o); err != nil {
		return err
	}
	for _, other := range allFilters() {
		if other.Name() == b.Name() || !other.installed() {
			continue
		}
		var err error
		if _, ok := b.(*EBPF); ok {
			err = other.Release(ns, o)
		} else {
			err = other.drop(ns)
		}
		if err != nil {
			return fmt.Errorf("remove what %s left: %w", other.Name(), err)
		}
	}
	if _, ok := b.(*EBPF); ok {
		return nil
	}
	return dropLeftover(ns, at)
}

// Retire releases a pod whichever back end captured it, so that an agent started with another setting lets go of pods that
// were about to leave. Remove with any back end comes next.
func Retire(b Backend, ns *netns.Netns, o Options, at bpf.Place) error {
	var errs []error
	for _, f := range allFilters() {
		if f.installed() && mayHave(ns, f) {
			errs = append(errs, f.Release(ns, o))
		}
	}
	if _, ok := b.(*EBPF); ok {
		return errors.Join(append(errs, b.Release(ns, o))...)
	}
	return errors.Join(append(errs, dropLeftover(ns, at))...)
}

// dropLeftover takes a namespace from BPF programs that an earlier agent left.
func dropLeftover(ns *netns.Netns, at bpf.Place) error {
	old, err := bpf.Leftover(at)
	if old == nil || err != nil {
		return err
	}
	return errors.Join(dropSteering(old, ns), old.Close())
}

// Clear removes what an earlier agent that used BPF programs left on the machine, once Supersede has taken all its pods.
func Clear(at bpf.Place) error { return bpf.Clear(at) }

// filters are the back ends that work by conntrack and NAT.
type filters interface {
	Backend
	installed() bool
}

func allFilters() []filters {
	return []filters{NFTables{}, IPTables{Variant: "nft"}, IPTables{Variant: "legacy"}}
}

// retired are a pod's rules without those that capture. What is left keeps address translation at work, and brings the
// app's answers to the proxy.
func retired(o Options) []Rule {
	return slices.DeleteFunc(PodRules(o), func(r Rule) bool { return r.Do.Verb == ToPort })
}

// dropFilters removes what any of them, the one in use or an earlier agent's, has in a pod.
func dropFilters(ns *netns.Netns) error {
	var errs []error
	for _, f := range allFilters() {
		if f.installed() && mayHave(ns, f) {
			errs = append(errs, f.drop(ns))
		}
	}
	return errors.Join(errs...)
}

// mayHave spares pods that never had a packet filter of ours the binaries, and kernels without one the question.
func mayHave(ns *netns.Netns, f filters) bool {
	there := false
	err := ns.Do(func() (err error) {
		switch f.Name() {
		case "nftables":
			there, err = NFTables{}.there()
		case "iptables-nft":
			there, err = hasIPTChains()
		default:
			var names []byte
			names, err = os.ReadFile("/proc/thread-self/net/ip_tables_names")
			there = len(names) > 0
		}
		return err
	})
	return err == nil && there
}

// hasIPTChains looks for what iptables-nft calls our chains, in the calling thread's namespace.
func hasIPTChains() (bool, error) {
	c, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("open netfilter netlink: %w", err)
	}
	chains, err := c.ListChains()
	if err != nil {
		return false, fmt.Errorf("list nftables chains: %w", err)
	}
	return slices.ContainsFunc(chains, func(ch *nftables.Chain) bool {
		return ch.Name == iptChain(Prerouting) || ch.Name == iptChain(Output)
	}), nil
}
