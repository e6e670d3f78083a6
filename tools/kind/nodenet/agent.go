package nodenet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
)

// protocol marks our routes in the kernel's table, so that we find those of an earlier run and touch no others.
const protocol = 0x4e

// Agent serves one node.
type Agent struct {
	// Node is the name of the node it runs on; Dir is the node's folder of CNI configurations.
	Node, Dir string
	Log       *slog.Logger
}

// Run keeps the node right until ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	api, err := inCluster()
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		if err := a.follow(ctx, api); err != nil && ctx.Err() == nil {
			a.Log.Warn("trying again in a second", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return nil
}

// follow lists the nodes and stays with them for one stream of changes.
func (a *Agent) follow(ctx context.Context, api *api) error {
	nodes, version, err := api.list(ctx)
	if err != nil {
		return err
	}
	var last error
	apply := func() { last = a.apply(Decide(a.Node, slices.Collect(maps.Values(nodes)))) }
	if apply(); last != nil {
		return last
	}
	return errors.Join(api.watch(ctx, nodes, version, apply), last)
}

func (a *Agent) apply(p Plan) error {
	return errors.Join(a.configure(p.Ranges), a.route(p.Routes))
}

// configure writes the CNI configuration once.
func (a *Agent) configure(ranges []netip.Prefix) error {
	path := filepath.Join(a.Dir, "10-nodenet.conflist")
	if _, err := os.Stat(path); err == nil || len(ranges) == 0 {
		return nil
	}
	text, err := Conflist(ranges)
	if err != nil {
		return err
	}
	// The name does not end in .conflist, so that nobody reads half of it.
	if err := os.WriteFile(path+".new", text, 0o644); err != nil {
		return fmt.Errorf("write the CNI configuration: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write the CNI configuration: %w", err)
	}
	a.Log.Info("the node has its CNI configuration", "ranges", ranges)
	return nil
}

// route makes our routes those of the plan.
func (a *Agent) route(want []Route) error {
	var errs []error
	wanted := map[string]bool{}
	for _, r := range want {
		dst := &net.IPNet{IP: r.Pods.Addr().AsSlice(), Mask: net.CIDRMask(r.Pods.Bits(), r.Pods.Addr().BitLen())}
		wanted[dst.String()] = true
		if err := netlink.RouteReplace(&netlink.Route{Dst: dst, Gw: r.Via.AsSlice(), Protocol: protocol}); err != nil {
			errs = append(errs, fmt.Errorf("route to %s by way of %s: %w", r.Pods, r.Via, err))
		}
	}
	have, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: protocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("list routes: %w", err))...)
	}
	for _, r := range have {
		if r.Dst == nil || wanted[r.Dst.String()] {
			continue
		}
		if err := netlink.RouteDel(&r); err != nil {
			errs = append(errs, fmt.Errorf("remove the route to %s: %w", r.Dst, err))
		}
	}
	return errors.Join(errs...)
}
