package redirect

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/ambit-mesh/ambit/api/mesh"
)

func iptChain(c Chain) string {
	if c == Prerouting {
		return "ISTIO_PRERT"
	}
	return "ISTIO_" + strings.ToUpper(string(c))
}

func iptHook(c Chain) string { return strings.ToUpper(string(c)) }

// IPTText is the rules of one family as input of iptables-restore --noflush: each of our chains is emptied and filled in
// one go. jumps says which jumps from the built-in chains are there already; they must not be added twice. Rules are
// spelled as iptables-save prints them, so that reading back compares line by line.
func IPTText(rules []Rule, f Family, jumps map[string]bool) string {
	var b strings.Builder
	tables, chains := chainsOf(rules)
	for _, t := range tables {
		fmt.Fprintf(&b, "*%s\n", t)
		for _, c := range chains[t] {
			fmt.Fprintf(&b, ":%s - [0:0]\n", iptChain(c))
		}
		for _, c := range chains[t] {
			if !jumps[jumpKey(t, c)] {
				fmt.Fprintf(&b, "%s\n", iptJump(c))
			}
		}
		for _, c := range chains[t] {
			for _, line := range iptRules(rules, t, c, f) {
				fmt.Fprintf(&b, "%s\n", line)
			}
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

func jumpKey(t Table, c Chain) string { return string(t) + " " + iptJump(c) }
func iptJump(c Chain) string          { return fmt.Sprintf("-A %s -j %s", iptHook(c), iptChain(c)) }

func iptRules(rules []Rule, t Table, c Chain, f Family) []string {
	var out []string
	for _, r := range rules {
		if r.Table == t && r.Chain == c && (r.Family == Both || r.Family == f) {
			out = append(out, "-A "+iptChain(c)+" "+iptRule(r))
		}
	}
	return out
}

func iptRule(r Rule) string {
	var w []string
	add := func(not bool, format string, args ...any) {
		if not {
			w = append(w, "!")
		}
		w = append(w, fmt.Sprintf(format, args...))
	}
	prefix := func(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
	if r.Src.Set {
		add(r.Src.Not, "-s %s", prefix(r.Src.Value))
	}
	if r.Dst.Set {
		add(r.Dst.Not, "-d %s", prefix(r.Dst.Value))
	}
	if r.In.Set {
		add(r.In.Not, "-i %s", r.In.Value)
	}
	if r.Out.Set {
		add(r.Out.Not, "-o %s", r.Out.Value)
	}
	if r.Proto != "" {
		add(false, "-p %s", r.Proto)
	}
	if r.SrcPort.Set || r.DstPort.Set || r.SYN {
		add(false, "-m %s", r.Proto)
	}
	if r.SrcPort.Set {
		add(r.SrcPort.Not, "--sport %d", r.SrcPort.Value)
	}
	if r.DstPort.Set {
		add(r.DstPort.Not, "--dport %d", r.DstPort.Value)
	}
	if r.SYN {
		add(false, "--tcp-flags FIN,SYN,RST,ACK SYN")
	}
	if r.Mark.Set {
		add(false, "-m mark")
		add(r.Mark.Not, "--mark %#x/%#x", r.Mark.Value, mesh.MarkMask)
	}
	if r.ConnMark.Set {
		add(false, "-m connmark")
		add(r.ConnMark.Not, "--mark %#x/%#x", r.ConnMark.Value, mesh.MarkMask)
	}
	add(false, "%s", iptAction(r.Do))
	return strings.Join(w, " ")
}

func iptAction(a Action) string {
	switch a.Verb {
	case Accept:
		return "-j ACCEPT"
	case Return:
		return "-j RETURN"
	case ToPort:
		return fmt.Sprintf("-j REDIRECT --to-ports %d", a.Port)
	case MarkConn:
		return fmt.Sprintf("-j CONNMARK --set-xmark %#x/%#x", mesh.MarkConn, mesh.MarkMask)
	case RestoreMark:
		return "-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff"
	case Zone1:
		return "-j CT --zone 1"
	default:
		// The rules of the node's own namespace are spelled by probeLines.
		panic("redirect: no iptables form of " + string(a.Verb))
	}
}
