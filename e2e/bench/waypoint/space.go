package main

import (
	"fmt"
	"net"
	"os/exec"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/api/mesh"
)

// nodesPort is where the stand-ins for node proxies listen. The waypoint has the mesh's port on all addresses.
const nodesPort = mesh.PortHBONE + 10000

// prepareSpace makes all of 10.0.0.0/8 addresses of this network namespace, and what is sent to pods' node proxies come to
// ours.
func prepareSpace() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	_, ten, err := net.ParseCIDR("10.0.0.0/8")
	if err != nil {
		return err
	}
	err = netlink.RouteAdd(&netlink.Route{
		LinkIndex: lo.Attrs().Index, Dst: ten, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
	})
	if err != nil {
		return fmt.Errorf("make 10.0.0.0/8 local: %w", err)
	}
	nft := exec.Command("nft", "-f", "-")
	nft.Stdin = strings.NewReader(fmt.Sprintf(`table ip bench {
  chain output {
    type nat hook output priority -100;
    ip daddr 10.128.0.0/9 tcp dport %d redirect to :%d
  }
}
`, mesh.PortHBONE, nodesPort))
	if out, err := nft.CombinedOutput(); err != nil {
		return fmt.Errorf("redirect pods' node proxies: %w\n%s", err, out)
	}
	return nil
}
