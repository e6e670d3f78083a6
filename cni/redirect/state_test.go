package redirect

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/netns"
	"github.com/ambit-mesh/ambit/api/netns/netnstest"
	"github.com/ambit-mesh/ambit/cni/redirect/bpf"
)

func TestVerifyAndRemove(t *testing.T) {
	eachBackend(t, func(t *testing.T, b Backend) {
		ns := netnstest.Make(t)
		for name, o := range cases() {
			if _, ok := b.(*EBPF); ok && len(o.VirtualInterfaces) > 0 {
				continue // refused, see TestBypassAndInterfaces
			}
			if err := b.Verify(ns, o); !errors.Is(err, ErrDrift) {
				t.Errorf("%s: verify before apply: %v", name, err)
			}
			for range 2 {
				if err := b.Apply(ns, o); err != nil {
					t.Fatal(name, err)
				}
				if err := b.Verify(ns, o); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			for other, oo := range cases() {
				// The IPv4 rules of iptables are a part of the dual-stack ones.
				if other != name && !(other == "ipv4" && name == "dual") {
					if err := b.Verify(ns, oo); !errors.Is(err, ErrDrift) && b.Name() == "nftables" {
						t.Errorf("%s passes for %s: %v", name, other, err)
					}
				}
			}
			for range 2 {
				if err := b.Remove(ns); err != nil {
					t.Fatal(name, err)
				}
			}
			assertEmpty(t, ns)
		}
	})
}

// assertEmpty reads everything back by other means than the back ends use.
func assertEmpty(t *testing.T, ns *netns.Netns) {
	t.Helper()
	if out := inside(t, ns, "nft", "list", "ruleset"); strings.Contains(strings.ToLower(out), "istio") {
		t.Errorf("rules are left:\n%s", out)
	}
	if err := ns.Do(func() error {
		for _, f := range []int{unix.AF_INET, unix.AF_INET6} {
			rules, err := netlink.RuleListFiltered(f, &netlink.Rule{Table: mesh.RouteTable}, netlink.RT_FILTER_TABLE)
			if err != nil || len(rules) != 0 {
				t.Errorf("ip rules are left: %v %v", rules, err)
			}
			routes, err := netlink.RouteListFiltered(f, &netlink.Route{Table: mesh.RouteTable}, netlink.RT_FILTER_TABLE)
			if err != nil || len(routes) != 0 {
				t.Errorf("routes are left: %v %v", routes, err)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// inside runs a program in the namespace; without the program there is nothing to compare.
func inside(t *testing.T, ns *netns.Netns, name string, args ...string) string {
	t.Helper()
	return insideWith(t, ns, "", name, args...)
}

func insideWith(t *testing.T, ns *netns.Netns, stdin, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		return ""
	}
	var out bytes.Buffer
	if err := ns.Do(func() error {
		cmd := exec.Command(name, args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &out
		return cmd.Run()
	}); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out.String())
	}
	return out.String()
}

// The text form and the netlink form must mean the same to the kernel.
func TestTextMeansTheSame(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs the nft binary to compare with")
	}
	for name, o := range cases() {
		byNetlink, byText := netnstest.Make(t), netnstest.Make(t)
		if err := (NFTables{}).Apply(byNetlink, o); err != nil {
			t.Fatal(err)
		}
		insideWith(t, byText, NFTText(PodRules(o)), "nft", "-f", "-")
		if diff := cmp.Diff(inside(t, byText, "nft", "list", "ruleset"), inside(t, byNetlink, "nft", "list", "ruleset")); diff != "" {
			t.Errorf("%s: by nft (-), by netlink (+):\n%s", name, diff)
		}
	}
	byNetlink, byText := netnstest.Make(t), netnstest.Make(t)
	if err := byNetlink.Do(func() error { _, err := loopback(); return err }); err != nil {
		t.Fatal(err)
	}
	if err := NewNode(byNetlink, NodeOptions{}).Apply(); err != nil {
		t.Fatal(err)
	}
	insideWith(t, byText, NFTText(NodeRules(NodeOptions{IPv6: true})), "nft", "-f", "-")
	if diff := cmp.Diff(inside(t, byText, "nft", "list", "ruleset"), inside(t, byNetlink, "nft", "list", "ruleset")); diff != "" {
		t.Errorf("node: by nft (-), by netlink (+):\n%s", diff)
	}
}

func TestDriftIsSeenAndRepaired(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs the nft binary to break things with")
	}
	o := Options{IPv6: true, DNS: true}
	for name, script := range map[string]string{
		"flushed":         "flush ruleset",
		"a chain emptied": "flush chain inet istio-ambient-nat istio-output",
		"no jump":         "flush chain inet istio-ambient-nat output",
		"a rule added":    "insert rule inet istio-ambient-nat istio-output accept",
		"other hook":      "delete table inet istio-ambient-nat; add table inet istio-ambient-nat; add chain inet istio-ambient-nat output { type filter hook output priority 0; }",
	} {
		ns := netnstest.Make(t)
		if err := (NFTables{}).Apply(ns, o); err != nil {
			t.Fatal(err)
		}
		insideWith(t, ns, strings.ReplaceAll(script, "; ", "\n"), "nft", "-f", "-")
		if err := (NFTables{}).Verify(ns, o); !errors.Is(err, ErrDrift) {
			t.Errorf("%s: %v", name, err)
		}
		if err := (NFTables{}).Apply(ns, o); err != nil {
			t.Errorf("%s: repair: %v", name, err)
		}
		if err := (NFTables{}).Verify(ns, o); err != nil {
			t.Errorf("%s: after repair: %v", name, err)
		}
	}
}

func TestSupersede(t *testing.T) {
	all := backends(t)
	o := Options{IPv6: true, DNS: true}
	for _, before := range all {
		for _, after := range all {
			ns := netnstest.Make(t)
			if err := before.Apply(ns, o); err != nil {
				t.Fatal(err)
			}
			if err := Supersede(after, ns, o, bpf.Place{}); err != nil {
				t.Errorf("%s after %s: %v", after.Name(), before.Name(), err)
			}
			if err := after.Verify(ns, o); err != nil {
				t.Errorf("%s after %s: %v", after.Name(), before.Name(), err)
			}
			if err := after.Remove(ns); err != nil {
				t.Error(err)
			}
			assertEmpty(t, ns)
			if out := inside(t, ns, "iptables-legacy-save"); strings.Contains(out, "ISTIO") {
				t.Errorf("%s after %s leaves:\n%s", after.Name(), before.Name(), out)
			}
		}
	}
}

func TestWithoutIPv6(t *testing.T) {
	eachBackend(t, func(t *testing.T, b Backend) {
		ns := netnstest.Make(t)
		if err := ns.Do(func() error {
			return os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0)
		}); err != nil {
			t.Skip("cannot switch IPv6 off in a namespace:", err)
		}
		o := Options{IPv6: true, DNS: true}
		if err := b.Apply(ns, o); err != nil {
			t.Fatal(err)
		}
		if err := b.Verify(ns, o); err != nil {
			t.Error(err)
		}
		if out := inside(t, ns, "nft", "list", "ruleset"); strings.Contains(out, "ip6 ") {
			t.Errorf("IPv6 rules in a pod without IPv6:\n%s", out)
		}
		if err := b.Remove(ns); err != nil {
			t.Error(err)
		}
		assertEmpty(t, ns)
	})
}

func TestNodeProbes(t *testing.T) {
	t.Run("nftables", func(t *testing.T) {
		nodeProbes(t, nil, func(t *testing.T, ns *netns.Netns) {
			inside(t, ns, "nft", "flush", "set", "inet", "istio-ambient-nat", ProbeSetIPv4)
		})
	})
	t.Run("iptables-legacy", func(t *testing.T) {
		legacy := IPTables{Variant: "legacy"}
		if err := legacy.Apply(netnstest.Make(t), Options{}); err != nil {
			t.Skip("the kernel lacks it:", err)
		}
		nodeProbes(t, []probeRules{noProbes{}, iptProbes{legacy}}, func(t *testing.T, ns *netns.Netns) {
			inside(t, ns, "iptables-legacy", "-t", "nat", "-F", iptChain(Postrouting))
		})
	})
}

// noProbes is a way of a kernel that lacks it.
type noProbes struct{ nftProbes }

func (noProbes) apply(NodeOptions) error { return unix.EOPNOTSUPP }

// nodeProbes tries one of ways, or what a node chooses. empty is somebody who takes the addresses of IPv4 away.
func nodeProbes(t *testing.T, ways []probeRules, empty func(*testing.T, *netns.Netns)) {
	newNode := func(ns *netns.Netns) *Node {
		n := NewNode(ns, NodeOptions{})
		if ways != nil {
			n.ways = ways
		}
		return n
	}
	w := newWire(t)
	w.servers()
	if err := (NFTables{}).Apply(w.pod, Options{IPv6: true}); err != nil {
		t.Fatal(err)
	}
	// The probe address is nobody's: answers are addressed to it and find back by connection tracking.
	if err := w.node.Do(func() error {
		link, err := netlink.LinkByName("pod")
		if err != nil {
			return err
		}
		for _, a := range []string{mesh.ProbeSourceIPv4 + "/32", mesh.ProbeSourceIPv6 + "/128"} {
			addr, err := netlink.ParseAddr(a)
			if err == nil {
				err = netlink.AddrDel(link, addr)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	n := newNode(w.node)
	reach := func(when, want string) {
		t.Helper()
		for _, a := range []netip.Addr{pod4, pod6} {
			if got := w.reaches(w.node, nobody, on(a, 8080), 0); !strings.HasPrefix(got, want+" ") {
				t.Errorf("%s: %s reached %q, want %q", when, a, got, want)
			}
		}
	}
	step := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	step(n.Apply())
	reach("no pod known", "inbound")
	step(n.Set("uid-1", []netip.Addr{pod4, pod6}))
	reach("pod known", "app")
	step(n.Set("uid-1", []netip.Addr{pod4, pod6}))

	// A successor finds the sets as they are, and prunes what it does not know.
	n = newNode(w.node)
	step(n.Apply())
	step(n.Verify())
	if diff := cmp.Diff([]string{"10.77.0.2", "fd77::2"}, texts(n.Addrs())); diff != "" {
		t.Error(diff)
	}
	reach("after a restart", "app")
	step(n.Set("uid-2", []netip.Addr{netip.MustParseAddr("10.77.0.9"), netip.MustParseAddr("::ffff:10.77.0.2")}))
	step(n.Prune(map[string]bool{"uid-2": true}))
	if diff := cmp.Diff([]string{"10.77.0.2", "10.77.0.9"}, texts(n.Addrs())); diff != "" {
		t.Error(diff)
	}
	step(n.Set("uid-2", nil))
	reach("pod gone", "inbound")

	// Somebody emptied the set behind our back.
	step(n.Set("uid-1", []netip.Addr{pod4, pod6}))
	empty(t, w.node)
	step(n.Set("uid-1", []netip.Addr{pod6}))
	step(n.Set("uid-1", []netip.Addr{pod4, pod6}))
	reach("set again", "app")
	step(n.Remove())
	step(n.Remove())
	reach("removed", "inbound")
	if err := n.Verify(); !errors.Is(err, ErrDrift) {
		t.Errorf("verify after removal: %v", err)
	}
	assertEmpty(t, w.node)
}

func TestNodeSwitchedOff(t *testing.T) {
	ns := netnstest.Make(t)
	n := NewNode(ns, NodeOptions{})
	n.Disable()
	if err := errors.Join(n.Apply(), n.Verify(), n.Set("a", []netip.Addr{pod4}), n.Prune(nil), n.Remove()); err != nil {
		t.Error(err)
	}
	assertEmpty(t, ns)
}

func texts(addrs []netip.Addr) []string {
	var out []string
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out
}

func TestDetect(t *testing.T) {
	netnstest.Make(t)
	b, err := Detect("auto", bpf.Place{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if b.Name() != "nftables" {
		t.Logf("this kernel is driven by %s", b.Name())
	}
	if _, err := Detect("pf", bpf.Place{}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("an unknown back end was accepted")
	}
}
