// Package redirect makes the kernel hand a pod's traffic to the node proxy's listeners inside the pod, and marks probes
// of the node so that they are let through.
//
// What a pod gets is decided in PodRules and NodeRules: pure functions from options to a short list of typed rules. Two
// back ends carry the list into a network namespace: NFTables speaks netlink and needs no binaries; IPTables drives
// iptables-restore where the kernel has no nf_tables. Both apply idempotently and all or nothing per table, can tell
// whether what is there is what was wanted, and remove without a trace.
//
// A third, EBPF, does the same without packet filters, by the programs of package bpf. Connections that are open stay open
// when pods change from one back end to another (Supersede).
//
// The node's own namespace (Node) is driven by nftables with all three, because what changes there is a set of addresses and
// no rule; where the kernel has no nf_tables, by iptables-legacy with a rule for each address.
//
// Redirection of TCP matches connection requests (SYN) alone: connections that were open when the pod was enrolled go on
// as they were. The marks and addresses are Istio's (istio/istio cni/pkg/iptables), so that its ztunnel works here too.
//
// It does not know which pods are enrolled or why, nor Kubernetes. It starts no goroutine of its own. Start reading at
// rules.go, then nftables.go.
package redirect
