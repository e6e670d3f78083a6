package redirect

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/ambit-mesh/ambit/api/netns"
	"github.com/ambit-mesh/ambit/cni/redirect/bpf"
)

// Detect finds a back end the kernel and the installed binaries can carry, by trying in a namespace of its own. want is
// "auto" (or empty), "nftables", "iptables" or "ebpf". at is where BPF programs go, should it come to that.
func Detect(want string, at bpf.Place, log *slog.Logger) (Backend, error) {
	attempts, err := attemptsFor(want, at)
	if err != nil {
		return nil, err
	}
	scratch, err := netns.Make()
	if err != nil {
		return nil, fmt.Errorf("probe the kernel's packet filter: %w", err)
	}
	defer scratch.Close()
	var problems []error
	for _, a := range attempts {
		b, err := a.make()
		if err == nil {
			err = attempt(b, scratch)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", a.name, err))
			continue
		}
		if len(problems) > 0 {
			log.Warn("preferred redirection is not available here", "using", b.Name(), "err", errors.Join(problems...))
		}
		return b, nil
	}
	err = errors.Join(problems...)
	if want == "ebpf" {
		return nil, fmt.Errorf("this node cannot redirect traffic by BPF programs: choose nftables or iptables: %w", err)
	}
	return nil, fmt.Errorf("no way to redirect traffic on this node; the kernel needs nf_tables with nat and conntrack (CONFIG_NF_TABLES, CONFIG_NFT_NAT, CONFIG_NFT_REDIR, CONFIG_NFT_CT) or the iptables binaries: %w", err)
}

// try is one way to redirect that may work.
type try struct {
	name string
	make func() (Backend, error)
}

func attemptsFor(want string, at bpf.Place) ([]try, error) {
	simple := func(b Backend) try { return try{b.Name(), func() (Backend, error) { return b, nil }} }
	nft := simple(NFTables{})
	iptNFT, iptLegacy := simple(IPTables{Variant: "nft"}), simple(IPTables{Variant: "legacy"})
	ebpf := try{"ebpf", func() (Backend, error) {
		b, err := NewEBPF(at)
		if err != nil {
			return nil, err
		}
		return b, nil
	}}
	switch want {
	case "", "auto":
		return []try{nft, iptNFT, iptLegacy, ebpf}, nil
	case "nftables":
		return []try{nft}, nil
	case "iptables":
		return []try{iptNFT, iptLegacy}, nil
	case "ebpf":
		return []try{ebpf}, nil
	default:
		return nil, fmt.Errorf("unknown redirection back end %q: want auto, nftables, iptables or ebpf", want)
	}
}

// attempt captures nobody and lets go of him again.
func attempt(b Backend, scratch *netns.Netns) error {
	if err := b.Apply(scratch, Options{IPv6: true, DNS: true}); err != nil {
		return err
	}
	return b.Remove(scratch)
}
