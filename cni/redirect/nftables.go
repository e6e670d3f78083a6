package redirect

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/api/netns"
)

// NFTables is the default back end: one netlink transaction per pod, no binaries.
type NFTables struct{}

// Name is "nftables".
func (NFTables) Name() string { return "nftables" }

func (NFTables) installed() bool { return true }

// Apply implements Backend.
func (NFTables) Apply(ns *netns.Netns, o Options) error {
	err := inPod(ns, o, func(o Options, lo int) error {
		// Routes first: a marked packet without its route would leave the pod.
		if err := applyRoutes(o.IPv6, lo); err != nil {
			return err
		}
		return load(PodRules(o), nil)
	})
	if err != nil {
		return fmt.Errorf("apply redirection rules: %w", err)
	}
	return nil
}

// Verify implements Backend.
func (NFTables) Verify(ns *netns.Netns, o Options) error {
	err := inPod(ns, o, func(o Options, _ int) error {
		if err := verifyRoutes(o.IPv6); err != nil {
			return err
		}
		return verify(PodRules(o))
	})
	if err != nil {
		return fmt.Errorf("verify redirection rules: %w", err)
	}
	return nil
}

// Remove implements Backend.
func (b NFTables) Remove(ns *netns.Netns) error {
	return errors.Join(b.drop(ns), removeRoutesIn(ns), dropFilters(ns))
}

// Forget implements Backend.
func (NFTables) Forget(*netns.Netns) error { return nil }

func (NFTables) drop(ns *netns.Netns) error {
	if err := ns.Do(func() error { return unload(Mangle, NAT, Raw) }); err != nil {
		return fmt.Errorf("remove redirection rules: %w", err)
	}
	return nil
}

// Release implements Backend.
func (b NFTables) Release(ns *netns.Netns, o Options) error {
	err := inPod(ns, o, func(o Options, _ int) error {
		there, err := b.there()
		if err != nil || !there {
			return err
		}
		return load(retired(o), nil)
	})
	if err != nil {
		return fmt.Errorf("retire redirection rules: %w", err)
	}
	return nil
}

// there says whether the calling thread's namespace has our rules.
func (NFTables) there() (bool, error) {
	c, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("open netfilter netlink: %w", err)
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("list nftables tables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == nftTable(NAT) }), nil
}

// inPod runs fn inside the namespace with IPv6 narrowed to what the namespace has.
func inPod(ns *netns.Netns, o Options, fn func(o Options, loopback int) error) error {
	var lo int
	if err := ns.Do(func() (err error) { lo, err = loopback(); return err }); err != nil {
		return err
	}
	// After the loopback interface is up, because its address is what tells.
	o.IPv6 = o.IPv6 && ns.HasIPv6()
	return ns.Do(func() error { return fn(o, lo) })
}

// load replaces all rules of the tables by these, in the calling thread's namespace. Tables the rules do not use are
// removed, except in the node's namespace (sets non-nil), where a set's elements stay.
func load(rules []Rule, sets *probeSets) error {
	err := transact(func(c *nftables.Conn) error { return put(c, rules, sets, false) })
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		// A chain of that name hangs elsewhere, left by another version: start over, still in one transaction.
		if again := transact(func(c *nftables.Conn) error { return put(c, rules, sets, true) }); again == nil {
			return nil
		}
	}
	return err
}

func transact(fn func(*nftables.Conn) error) error {
	c, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return fmt.Errorf("open netfilter netlink: %w", err)
	}
	err = fn(c)
	if err == nil {
		if err = c.Flush(); err != nil {
			err = fmt.Errorf("commit nftables transaction: %w", err)
		}
	}
	return errors.Join(err, c.CloseLasting())
}

func put(c *nftables.Conn, rules []Rule, sets *probeSets, fresh bool) error {
	tables, chains := chainsOf(rules)
	mark := stampOf(rules)
	if sets == nil {
		for _, t := range []Table{Mangle, NAT, Raw} {
			if !slices.Contains(tables, t) {
				drop(c, t)
			}
		}
	}
	for _, name := range tables {
		if fresh {
			drop(c, name)
		}
		t := c.AddTable(tableOf(name))
		c.FlushTable(t)
		if sets != nil && name == NAT {
			if err := sets.add(c, t); err != nil {
				return err
			}
		}
		for _, ch := range chains[name] {
			putChain(c, t, name, ch, rules, mark, sets)
		}
	}
	return nil
}

func putChain(c *nftables.Conn, t *nftables.Table, name Table, ch Chain, rules []Rule, mark stamp, sets *probeSets) {
	h := hookOf(name, ch)
	policy, priority := nftables.ChainPolicyAccept, nftables.ChainPriority(h.priority)
	base := c.AddChain(&nftables.Chain{
		Name: string(ch), Table: t, Type: nftables.ChainType(h.kind), Hooknum: hooknum(ch), Priority: &priority, Policy: &policy,
	})
	ours := c.AddChain(&nftables.Chain{Name: nftChain(ch), Table: t})
	c.AddRule(&nftables.Rule{
		Table: t, Chain: base, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: ours.Name}}, UserData: comment(mark.jump()),
	})
	n := 0
	for _, r := range rules {
		if r.Table != name || r.Chain != ch {
			continue
		}
		c.AddRule(&nftables.Rule{Table: t, Chain: ours, Exprs: nftExprs(r, sets.of(r.Family)), UserData: comment(mark.rule(n))})
		n++
	}
}

func tableOf(t Table) *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: nftTable(t)}
}

// drop removes a table whether or not it is there: what was just added can be deleted.
func drop(c *nftables.Conn, t Table) { c.DelTable(c.AddTable(tableOf(t))) }

func unload(tables ...Table) error {
	return transact(func(c *nftables.Conn) error {
		for _, t := range tables {
			drop(c, t)
		}
		return nil
	})
}

func hooknum(c Chain) *nftables.ChainHook {
	switch c {
	case Prerouting:
		return nftables.ChainHookPrerouting
	case Output:
		return nftables.ChainHookOutput
	default:
		return nftables.ChainHookPostrouting
	}
}

func comment(text string) []byte { return userdata.AppendString(nil, userdata.TypeComment, text) }

// verify reads the rules back and compares their stamps, in the calling thread's namespace.
func verify(rules []Rule) error {
	c, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return fmt.Errorf("open netfilter netlink: %w", err)
	}
	return errors.Join(compare(c, rules), c.CloseLasting())
}

func compare(c *nftables.Conn, rules []Rule) error {
	tables, chains := chainsOf(rules)
	mark := stampOf(rules)
	for _, name := range tables {
		for _, ch := range chains[name] {
			want := []string{}
			for _, r := range rules {
				if r.Table == name && r.Chain == ch {
					want = append(want, mark.rule(len(want)))
				}
			}
			if err := compareChain(c, name, string(ch), []string{mark.jump()}); err != nil {
				return err
			}
			if err := compareChain(c, name, nftChain(ch), want); err != nil {
				return err
			}
		}
	}
	return nil
}

func compareChain(c *nftables.Conn, name Table, chain string, want []string) error {
	t := tableOf(name)
	there, err := c.GetRules(t, &nftables.Chain{Name: chain, Table: t})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("read nftables chain %s %s: %w", t.Name, chain, err)
	}
	var got []string
	for _, r := range there {
		text, _ := userdata.GetString(r.UserData, userdata.TypeComment)
		got = append(got, text)
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("%w: chain %s of table %s has %d rules %q, want %d", ErrDrift, chain, t.Name, len(got), got, len(want))
	}
	return nil
}
