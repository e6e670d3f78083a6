package redirect

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/netns"
)

// route is the policy route that brings packets marked mesh.MarkConn, the app's answers to the proxy, to loopback
// although they are addressed to a client elsewhere. The functions below work in the calling thread's namespace.
type route struct {
	family int
	bits   int
}

func routesOf(ipv6 bool) []route {
	out := []route{{unix.AF_INET, 32}}
	if ipv6 {
		out = append(out, route{unix.AF_INET6, 128})
	}
	return out
}

// applyRoutes, verifyRoutes and removeRoutes do it for each family of a pod.
func applyRoutes(ipv6 bool, lo int) error { return applyRoutesFrom(ipv6, lo, nil) }

// applyRoutesFrom gives connections that are marked before they have an address one of sources, which go by family.
func applyRoutesFrom(ipv6 bool, lo int, sources map[int]netip.Addr) error {
	for _, r := range routesOf(ipv6) {
		if err := r.apply(lo, sources[r.family]); err != nil {
			return err
		}
	}
	return nil
}

func verifyRoutes(ipv6 bool) error {
	for _, r := range routesOf(ipv6) {
		if err := r.verify(); err != nil {
			return err
		}
	}
	return nil
}

// removeRoutesIn is removeRoutes for a namespace the caller is not in.
func removeRoutesIn(ns *netns.Netns) error {
	err := inPod(ns, Options{IPv6: true}, func(o Options, lo int) error { return removeRoutes(o.IPv6, lo) })
	if err != nil {
		return fmt.Errorf("remove redirection routes: %w", err)
	}
	return nil
}

func removeRoutes(ipv6 bool, lo int) error {
	for _, r := range routesOf(ipv6) {
		if err := r.remove(lo); err != nil {
			return err
		}
	}
	return nil
}

func (r route) rule() *netlink.Rule {
	rule := netlink.NewRule()
	mask := uint32(mesh.MarkMask)
	rule.Family, rule.Priority, rule.Table = r.family, mesh.RulePriority, mesh.RouteTable
	rule.Mark, rule.Mask = mesh.MarkConn, &mask
	return rule
}

func (r route) route(loopback int) *netlink.Route {
	return &netlink.Route{
		LinkIndex: loopback, Table: mesh.RouteTable, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST,
		Dst: &net.IPNet{IP: make(net.IP, r.bits/8), Mask: net.CIDRMask(0, r.bits)},
	}
}

// loopback brings the interface up, because a route over one that is down is refused.
func loopback() (int, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return 0, fmt.Errorf("find the loopback interface: %w", err)
	}
	if lo.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(lo); err != nil {
			return 0, fmt.Errorf("bring the loopback interface up: %w", err)
		}
	}
	return lo.Attrs().Index, nil
}

func (r route) apply(lo int, source netip.Addr) error {
	ok, err := r.ruleThere()
	if err != nil {
		return err
	}
	if !ok {
		if err := netlink.RuleAdd(r.rule()); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("add ip rule for mark %#x: %w", mesh.MarkConn, err)
		}
	}
	if !source.IsValid() {
		// What is marked before it has an address would lose its source while another back end is taken over.
		if there, err := r.routeThere(); there || err != nil {
			return err
		}
	}
	route := r.route(lo)
	route.Src = source.AsSlice()
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("add the local route of table %d: %w", mesh.RouteTable, err)
	}
	return nil
}

func (r route) ruleThere() (bool, error) {
	rules, err := netlink.RuleListFiltered(r.family, r.rule(), netlink.RT_FILTER_TABLE|netlink.RT_FILTER_MARK|netlink.RT_FILTER_PRIORITY)
	if err != nil {
		return false, fmt.Errorf("list ip rules: %w", err)
	}
	return len(rules) > 0, nil
}

func (r route) routeThere() (bool, error) {
	routes, err := netlink.RouteListFiltered(r.family, &netlink.Route{Table: mesh.RouteTable, Type: unix.RTN_LOCAL}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
	if err != nil {
		return false, fmt.Errorf("list routes of table %d: %w", mesh.RouteTable, err)
	}
	return len(routes) > 0, nil
}

func (r route) verify() error {
	ok, err := r.ruleThere()
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%w: ip rule for mark %#x is missing", ErrDrift, mesh.MarkConn)
	}
	if ok, err = r.routeThere(); err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%w: local route of table %d is missing", ErrDrift, mesh.RouteTable)
	}
	return nil
}

func (r route) remove(lo int) error {
	// Something that was restarted many times may have left the rule more than once.
	for range 16 {
		err := netlink.RuleDel(r.rule())
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAFNOSUPPORT) {
			break
		}
		if err != nil {
			return fmt.Errorf("remove ip rule for mark %#x: %w", mesh.MarkConn, err)
		}
	}
	if err := netlink.RouteDel(r.route(lo)); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("remove the local route of table %d: %w", mesh.RouteTable, err)
	}
	return nil
}
