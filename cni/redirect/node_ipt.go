package redirect

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// iptProbes marks probes by the programs of iptables: one rule for each address, so that nothing else (ipset) is needed. A
// change writes the chain anew, at once for each family.
type iptProbes struct{ by IPTables }

func (p iptProbes) name() string { return p.by.Name() }

func (p iptProbes) apply(o NodeOptions) error {
	have, err := p.read()
	if err != nil {
		return err
	}
	return p.write(o, have)
}

func (p iptProbes) change(o NodeOptions, _, next map[netip.Addr]string) error {
	return p.write(o, next)
}

func (p iptProbes) write(o NodeOptions, addrs map[netip.Addr]string) error {
	for _, f := range iptFamilies(o.IPv6) {
		there, err := p.by.save(f)
		if err != nil {
			return err
		}
		chain, jump := iptChain(Postrouting), iptJump(Postrouting)
		lines := []string{"*" + string(NAT), ":" + chain + " - [0:0]"}
		if !slices.Contains(there[NAT], jump) {
			lines = append(lines, jump)
		}
		lines = append(append(lines, probeLines(o, f, addrs)...), "COMMIT", "")
		if err := p.by.restore(f, strings.Join(lines, "\n")); err != nil {
			return err
		}
	}
	return nil
}

// probeLines are NodeRules of a family for these addresses, spelled as iptables-save prints them. The pod's UID is in a
// comment, for the next agent.
func probeLines(o NodeOptions, f Family, addrs map[netip.Addr]string) []string {
	var out []string
	for _, r := range NodeRules(o) {
		for _, a := range slices.SortedFunc(maps.Keys(addrs), netip.Addr.Compare) {
			if r.Family == f && a.Is4() == (f == IPv4) {
				out = append(out, fmt.Sprintf("-A %s -d %s -p %s -m owner --uid-owner %d -m comment --comment %s -j SNAT --to-source %s",
					iptChain(r.Chain), netip.PrefixFrom(a, a.BitLen()), r.Proto, r.SocketUser.Value, plain(addrs[a]), r.Do.Addr))
			}
		}
	}
	return out
}

// plain is a comment that needs no quotes, and cannot be anything but a comment.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '_'
	}, "uid-"+clipComment(s))
}

func (p iptProbes) verify(o NodeOptions) error {
	for _, f := range iptFamilies(o.IPv6) {
		there, err := p.by.save(f)
		if err != nil {
			return err
		}
		chain := iptChain(Postrouting)
		if !slices.Contains(there[NAT], iptJump(Postrouting)) {
			return fmt.Errorf("%w: %s table %s: no jump to %s", ErrDrift, p.by.binary(f), NAT, chain)
		}
		got := there.chain(NAT, chain)
		if want := probeLines(o, f, probeAddrs(got)); !slices.Equal(got, want) {
			return fmt.Errorf("%w: %s table %s chain %s: has %q, want %q", ErrDrift, p.by.binary(f), NAT, chain, got, want)
		}
	}
	return nil
}

func (p iptProbes) read() (map[netip.Addr]string, error) {
	have := map[netip.Addr]string{}
	for _, f := range iptFamilies(true) {
		there, err := p.by.save(f)
		if err != nil && f == IPv4 {
			return nil, err
		}
		maps.Copy(have, probeAddrs(there.chain(NAT, iptChain(Postrouting))))
	}
	return have, nil
}

// probeAddrs reads back what probeLines wrote.
func probeAddrs(lines []string) map[netip.Addr]string {
	out := map[netip.Addr]string{}
	for _, line := range lines {
		words := strings.Fields(line)
		after := func(flag string) string {
			if i := slices.Index(words, flag); i >= 0 && i+1 < len(words) {
				return words[i+1]
			}
			return ""
		}
		if to, err := netip.ParsePrefix(after("-d")); err == nil {
			out[to.Addr()] = strings.TrimPrefix(after("--comment"), "uid-")
		}
	}
	return out
}

func (p iptProbes) remove() error {
	for _, f := range iptFamilies(true) {
		there, err := p.by.save(f)
		if err != nil {
			if f == IPv4 {
				return err
			}
			continue
		}
		chain := iptChain(Postrouting)
		if !slices.ContainsFunc(there[NAT], func(line string) bool { return strings.HasPrefix(line, ":"+chain+" ") }) {
			continue
		}
		lines := []string{"*" + string(NAT)}
		if jump := iptJump(Postrouting); slices.Contains(there[NAT], jump) {
			lines = append(lines, "-D"+strings.TrimPrefix(jump, "-A"))
		}
		lines = append(lines, "-F "+chain, "-X "+chain, "COMMIT", "")
		if err := p.by.restore(f, strings.Join(lines, "\n")); err != nil {
			return err
		}
	}
	return nil
}
