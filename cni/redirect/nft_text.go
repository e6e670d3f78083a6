package redirect

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"

	"github.com/ambit-mesh/ambit/api/mesh"
)

// nft names. Istio's agent uses the same, so either takes over cleanly what the other left.
const (
	nftTablePrefix = "istio-ambient-"
	// ProbeSetIPv4 and ProbeSetIPv6 hold the addresses of the node's enrolled pods.
	ProbeSetIPv4 = "istio-inpod-probes-v4"
	ProbeSetIPv6 = "istio-inpod-probes-v6"
)

func nftTable(t Table) string { return nftTablePrefix + string(t) }
func nftChain(c Chain) string { return "istio-" + string(c) }

// nftHook is how a base chain hangs in the kernel.
type nftHook struct {
	kind     string
	priority int
}

// hookOf follows Istio: below the priorities of ordinary nat, mangle and raw rules by nothing, so that order of creation
// decides. The mangle output chain is of type route because it changes marks that routing looks at.
func hookOf(t Table, c Chain) nftHook {
	switch {
	case t == NAT && c == Postrouting:
		return nftHook{"nat", 100 - 1} // before anybody's masquerading
	case t == NAT:
		return nftHook{"nat", -100}
	case t == Mangle && c == Output:
		return nftHook{"route", -150}
	case t == Mangle:
		return nftHook{"filter", -150}
	default:
		return nftHook{"filter", -300}
	}
}

// chainsOf lists the chains of each table, in the order they are made. A pod's nat and mangle tables always have both
// hooks; others only what the rules use.
func chainsOf(rules []Rule) (tables []Table, chains map[Table][]Chain) {
	chains = map[Table][]Chain{}
	for _, t := range []Table{Mangle, NAT, Raw} {
		for _, c := range []Chain{Prerouting, Output, Postrouting} {
			for _, r := range rules {
				if r.Table == t && r.Chain == c {
					chains[t] = append(chains[t], c)
					break
				}
			}
		}
		if len(chains[t]) > 0 {
			tables = append(tables, t)
		}
	}
	return tables, chains
}

// NFTText is the rules as a script for nft -f, to read and to compare; the back end itself speaks netlink.
func NFTText(rules []Rule) string {
	var b strings.Builder
	tables, chains := chainsOf(rules)
	stamp := stampOf(rules)
	for _, t := range tables {
		fmt.Fprintf(&b, "add table inet %s\nflush table inet %s\n", nftTable(t), nftTable(t))
		if t == NAT && rulesUseSets(rules) {
			fmt.Fprintf(&b, "add set inet %s %s { type ipv4_addr; }\n", nftTable(t), ProbeSetIPv4)
			fmt.Fprintf(&b, "add set inet %s %s { type ipv6_addr; }\n", nftTable(t), ProbeSetIPv6)
		}
		for _, c := range chains[t] {
			h := hookOf(t, c)
			fmt.Fprintf(&b, "add chain inet %s %s { type %s hook %s priority %d; policy accept; }\n", nftTable(t), c, h.kind, c, h.priority)
			fmt.Fprintf(&b, "add chain inet %s %s\n", nftTable(t), nftChain(c))
			fmt.Fprintf(&b, "add rule inet %s %s jump %s comment %q\n", nftTable(t), c, nftChain(c), stamp.jump())
			n := 0
			for _, r := range rules {
				if r.Table == t && r.Chain == c {
					fmt.Fprintf(&b, "add rule inet %s %s %s comment %q\n", nftTable(t), nftChain(c), nftRule(r), stamp.rule(n))
					n++
				}
			}
		}
	}
	return b.String()
}

func rulesUseSets(rules []Rule) bool {
	for _, r := range rules {
		if r.ProbedPod {
			return true
		}
	}
	return false
}

// stamp marks each rule with the set it belongs to and its place, so that drift shows when rules are read back.
type stamp string

func stampOf(rules []Rule) stamp {
	h := sha256.New()
	for _, r := range rules {
		fmt.Fprintf(h, "%s %s %s\n", r.Table, r.Chain, nftRule(r))
	}
	return stamp(hex.EncodeToString(h.Sum(nil)[:4]))
}

func (s stamp) jump() string      { return "ambit " + string(s) + " jump" }
func (s stamp) rule(n int) string { return fmt.Sprintf("ambit %s %d", string(s), n) }

func op(not bool) string {
	if not {
		return "!= "
	}
	return ""
}

// nftRule writes the conditions in the order nftExprs encodes them.
func nftRule(r Rule) string {
	var w []string
	add := func(format string, args ...any) { w = append(w, fmt.Sprintf(format, args...)) }
	ip, nfproto := "ip", "ipv4"
	if r.Family == IPv6 {
		ip, nfproto = "ip6", "ipv6"
	}
	if r.In.Set {
		add("iifname %s%q", op(r.In.Not), r.In.Value)
	}
	if r.Family != Both {
		add("meta nfproto %s", nfproto)
	}
	for _, a := range []struct {
		word string
		cond Cond[netip.Addr]
	}{{"saddr", r.Src}, {"daddr", r.Dst}} {
		if a.cond.Set {
			add("%s %s %s%s", ip, a.word, op(a.cond.Not), a.cond.Value)
		}
	}
	if r.ProbedPod {
		add("%s daddr @%s", ip, probeSet(r.Family))
	}
	if r.Out.Set {
		add("oifname %s%q", op(r.Out.Not), r.Out.Value)
	}
	if r.Proto != "" {
		add("meta l4proto %s", r.Proto)
	}
	if r.SrcPort.Set {
		add("%s sport %s%d", r.Proto, op(r.SrcPort.Not), r.SrcPort.Value)
	}
	if r.DstPort.Set {
		add("%s dport %s%d", r.Proto, op(r.DstPort.Not), r.DstPort.Value)
	}
	if r.SYN {
		add("tcp flags & (fin | syn | rst | ack) == syn")
	}
	for _, m := range []struct {
		word string
		cond Cond[uint32]
	}{{"meta mark", r.Mark}, {"ct mark", r.ConnMark}} {
		if m.cond.Set {
			eq := "=="
			if m.cond.Not {
				eq = "!="
			}
			add("%s & %#x %s %#x", m.word, mesh.MarkMask, eq, m.cond.Value)
		}
	}
	if r.SocketUser.Set {
		add("meta skuid %s%d", op(r.SocketUser.Not), r.SocketUser.Value)
	}
	add("%s", nftAction(r, ip))
	return strings.Join(w, " ")
}

func probeSet(f Family) string {
	if f == IPv6 {
		return ProbeSetIPv6
	}
	return ProbeSetIPv4
}

func nftAction(r Rule, ip string) string {
	switch r.Do.Verb {
	case ToPort:
		return fmt.Sprintf("redirect to :%d", r.Do.Port)
	case MarkConn:
		return fmt.Sprintf("ct mark set ct mark & %#x | %#x", ^uint32(mesh.MarkMask), mesh.MarkConn)
	case RestoreMark:
		return "meta mark set ct mark"
	case Zone1:
		return "ct zone set 1"
	case ProbeAddress:
		return fmt.Sprintf("snat %s to %s", ip, r.Do.Addr)
	default:
		return string(r.Do.Verb)
	}
}
