package redirect

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/api/netns"
)

// IPTables drives the iptables binaries of the node: the fallback where the kernel has no nf_tables.
type IPTables struct {
	// Variant is "nft" or "legacy".
	Variant string
}

// iptLimit bounds one run of a binary, lock included.
const iptLimit = 10 * time.Second

// Name is "iptables-nft" or "iptables-legacy".
func (b IPTables) Name() string { return "iptables-" + b.Variant }

// installed reports whether the binaries are there.
func (b IPTables) installed() bool {
	_, err := exec.LookPath(b.binary(IPv4) + "-restore")
	return err == nil
}

// Apply implements Backend.
func (b IPTables) Apply(ns *netns.Netns, o Options) error {
	err := inPod(ns, o, func(o Options, lo int) error {
		if err := applyRoutes(o.IPv6, lo); err != nil {
			return err
		}
		rules := PodRules(o)
		for _, f := range iptFamilies(o.IPv6) {
			there, err := b.save(f)
			if err != nil {
				return err
			}
			if err := b.restore(f, IPTText(rules, f, there.jumps())+there.leftovers(rules)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("apply redirection rules: %w", err)
	}
	return nil
}

// Verify implements Backend.
func (b IPTables) Verify(ns *netns.Netns, o Options) error {
	err := inPod(ns, o, func(o Options, _ int) error {
		if err := verifyRoutes(o.IPv6); err != nil {
			return err
		}
		rules := PodRules(o)
		tables, chains := chainsOf(rules)
		for _, f := range iptFamilies(o.IPv6) {
			there, err := b.save(f)
			if err != nil {
				return err
			}
			for _, t := range tables {
				for _, c := range chains[t] {
					if !slices.Contains(there[t], iptJump(c)) {
						return fmt.Errorf("%w: %s table %s: no jump to %s", ErrDrift, b.binary(f), t, iptChain(c))
					}
					got := there.chain(t, iptChain(c))
					if want := iptRules(rules, t, c, f); !slices.Equal(got, want) {
						return fmt.Errorf("%w: %s table %s chain %s: has %q, want %q", ErrDrift, b.binary(f), t, iptChain(c), got, want)
					}
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("verify redirection rules: %w", err)
	}
	return nil
}

// Remove implements Backend.
func (b IPTables) Remove(ns *netns.Netns) error {
	return errors.Join(b.drop(ns), removeRoutesIn(ns), dropFilters(ns))
}

// Forget implements Backend.
func (IPTables) Forget(*netns.Netns) error { return nil }

func (b IPTables) drop(ns *netns.Netns) error {
	err := inPod(ns, Options{IPv6: true}, func(o Options, _ int) error {
		for _, f := range iptFamilies(o.IPv6) {
			there, err := b.save(f)
			if err != nil {
				return err
			}
			if text := there.leftovers(nil); text != "" {
				if err := b.restore(f, text); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("remove redirection rules: %w", err)
	}
	return nil
}

// Release implements Backend.
func (b IPTables) Release(ns *netns.Netns, o Options) error {
	err := inPod(ns, o, func(o Options, _ int) error {
		for _, f := range iptFamilies(o.IPv6) {
			there, err := b.save(f)
			if err != nil {
				return err
			}
			if there.leftovers(nil) == "" {
				continue
			}
			if err := b.restore(f, IPTText(retired(o), f, there.jumps())); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("retire redirection rules: %w", err)
	}
	return nil
}

func iptFamilies(ipv6 bool) []Family {
	if ipv6 {
		return []Family{IPv4, IPv6}
	}
	return []Family{IPv4}
}

func (b IPTables) binary(f Family) string {
	if f == IPv6 {
		return "ip6tables-" + b.Variant
	}
	return "iptables-" + b.Variant
}

// saved is what iptables-save printed, by table: declarations and rules.
type saved map[Table][]string

// save and restore run in the calling thread's namespace: a child is born where its thread is.
func (b IPTables) save(f Family) (saved, error) {
	out, err := run(b.binary(f)+"-save", "")
	if err != nil {
		return nil, err
	}
	return parseSave(out), nil
}

func (b IPTables) restore(f Family, text string) error {
	args := []string{"--noflush"}
	if b.Variant == "legacy" {
		// The lock is a file the whole node shares; others hold it for moments.
		args = append(args, "-w", "5")
	}
	_, err := run(b.binary(f)+"-restore", text, args...)
	return err
}

func run(name, stdin string, args ...string) (string, error) {
	// The caller has no deadline to pass: a namespace is entered for as long as this takes.
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("run %s: %w", name, err)
	}
	timer := time.AfterFunc(iptLimit, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	timer.Stop()
	if err != nil {
		return "", fmt.Errorf("run %s: %w: %s", name, err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

func parseSave(text string) saved {
	s := saved{}
	var table Table
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "*"):
			table = Table(line[1:])
		case strings.HasPrefix(line, "-A "), strings.HasPrefix(line, ":"):
			s[table] = append(s[table], line)
		}
	}
	return s
}

func (s saved) chain(t Table, chain string) []string {
	var out []string
	for _, line := range s[t] {
		if strings.HasPrefix(line, "-A "+chain+" ") {
			out = append(out, line)
		}
	}
	return out
}

// jumps says which of our jumps are there.
func (s saved) jumps() map[string]bool {
	out := map[string]bool{}
	for t, lines := range s {
		for _, line := range lines {
			out[string(t)+" "+line] = true
		}
	}
	return out
}

// leftovers is the input of iptables-restore that removes our chains that rules do not use.
func (s saved) leftovers(rules []Rule) string {
	_, used := chainsOf(rules)
	var b strings.Builder
	for _, t := range []Table{Mangle, NAT, Raw} {
		var jumps, flush, drop []string
		for _, c := range []Chain{Prerouting, Output} {
			if slices.Contains(used[t], c) {
				continue
			}
			for _, line := range s[t] {
				if line == iptJump(c) {
					jumps = append(jumps, "-D"+strings.TrimPrefix(line, "-A"))
				}
				if strings.HasPrefix(line, ":"+iptChain(c)+" ") {
					flush = append(flush, "-F "+iptChain(c))
					drop = append(drop, "-X "+iptChain(c))
				}
			}
		}
		if lines := slices.Concat(jumps, flush, drop); len(lines) > 0 {
			fmt.Fprintf(&b, "*%s\n%s\nCOMMIT\n", t, strings.Join(lines, "\n"))
		}
	}
	return b.String()
}
