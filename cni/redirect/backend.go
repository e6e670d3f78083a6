package redirect

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/ambit-mesh/ambit/api/netns"
)

// Backend carries a pod's rules into its network namespace.
type Backend interface {
	// Name is for logs: nftables, iptables-nft or iptables-legacy.
	Name() string
	// Apply makes the namespace redirect as o says, whatever an earlier Apply said. IPv6 is left out where the
	// namespace has none. Traffic meets either the old rules or the new.
	Apply(ns *netns.Netns, o Options) error
	// Verify is nil if what Apply(ns, o) would do is in place, and ErrDrift with the difference otherwise.
	Verify(ns *netns.Netns, o Options) error
	// Remove takes everything away again. What is not there is no error.
	Remove(ns *netns.Netns) error
}

// ErrDrift says that the rules in a namespace are not those that were applied.
var ErrDrift = errors.New("rules differ from what was applied")

// Supersede applies with b and removes what any other back end left in the namespace, so that an agent started with
// another setting takes its pods over.
func Supersede(b Backend, ns *netns.Netns, o Options) error {
	if err := b.Apply(ns, o); err != nil {
		return err
	}
	removed := false
	for _, other := range []Backend{NFTables{}, IPTables{Variant: "nft"}, IPTables{Variant: "legacy"}} {
		if other.Name() == b.Name() {
			continue
		}
		if ipt, ok := other.(IPTables); ok && !ipt.installed() {
			continue
		}
		if err := other.Remove(ns); err != nil {
			return fmt.Errorf("remove what %s left: %w", other.Name(), err)
		}
		removed = true
	}
	if !removed {
		return nil
	}
	// The routes are common to all back ends and went with the others.
	return b.Apply(ns, o)
}

// Detect finds a back end the kernel and the installed binaries can carry, by trying in a namespace of its own. want is
// "auto" (or empty), "nftables" or "iptables".
func Detect(want string, log *slog.Logger) (Backend, error) {
	scratch, err := netns.Make()
	if err != nil {
		return nil, fmt.Errorf("probe the kernel's packet filter: %w", err)
	}
	defer scratch.Close()
	var problems []error
	try := func(b Backend) bool {
		err := b.Apply(scratch, Options{IPv6: true, DNS: true})
		if err == nil {
			err = b.Remove(scratch)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", b.Name(), err))
		}
		return err == nil
	}
	var candidates []Backend
	switch want {
	case "", "auto":
		candidates = append(candidates, NFTables{}, IPTables{Variant: "nft"}, IPTables{Variant: "legacy"})
	case "nftables":
		candidates = append(candidates, NFTables{})
	case "iptables":
		candidates = append(candidates, IPTables{Variant: "nft"}, IPTables{Variant: "legacy"})
	default:
		return nil, fmt.Errorf("unknown redirection back end %q: want auto, nftables or iptables", want)
	}
	for _, b := range candidates {
		if try(b) {
			if len(problems) > 0 {
				log.Warn("preferred redirection is not available here", "using", b.Name(), "err", errors.Join(problems...))
			}
			return b, nil
		}
	}
	return nil, fmt.Errorf("no way to redirect traffic on this node; the kernel needs nf_tables with nat and conntrack (CONFIG_NF_TABLES, CONFIG_NFT_NAT, CONFIG_NFT_REDIR, CONFIG_NFT_CT) or the iptables binaries: %w", errors.Join(problems...))
}
