package object

import "net/netip"

// NetworkPolicy is Kubernetes' own policy about connections to pods, as far as TCP can be concerned by it.
type NetworkPolicy struct {
	Meta
	// Pods are those it is about, in its namespace.
	Pods LabelSelector
	// Ingress and Egress say which direction it restricts.
	Ingress, Egress bool
	// Rules admit connections to the pods; without any, none is.
	Rules []NetworkRule
}

// Key implements Object.
func (p *NetworkPolicy) Key() Key {
	return Key{Kind: KindNetworkPolicy, Namespace: p.Namespace, Name: p.Name}
}

// NetworkRule admits what comes from any of its peers to any of its ports.
type NetworkRule struct {
	// From is empty for everybody.
	From []NetworkPeer
	// Ports is empty for all.
	Ports []NetworkPort
}

// NetworkPeer is pods or a range of addresses.
type NetworkPeer struct {
	// Pods are chosen in the namespaces that Namespaces chooses, and in the policy's own when that is nil. Both are nil for
	// a Block.
	Pods, Namespaces *LabelSelector
	Block            netip.Prefix
	Except           []netip.Prefix
}

// NetworkPort is a port by number or name, a range of ports, or, with neither, all of a protocol.
type NetworkPort struct {
	Protocol Protocol
	Port     uint16
	// End is the last port of a range; 0 without one.
	End  uint16
	Name string
}
