package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"

	"github.com/ambit-mesh/ambit/api/mesh"
)

// firstKernel is the first whose iterator over TCP sockets may put a socket into a map.
const firstKernel = mesh.EBPFKernelMajor<<16 | mesh.EBPFKernelMinor<<8

// Supported is nil if the kernel has all that the programs need, and otherwise names what is missing.
func Supported() error {
	for _, need := range []struct {
		what string
		test func() error
	}{
		{"programs of control groups on connect and sendmsg (CONFIG_CGROUP_BPF)", func() error { return features.HaveProgramType(ebpf.CGroupSockAddr) }},
		{"programs that choose the listening socket, sk_lookup (Linux 5.9)", func() error { return features.HaveProgramType(ebpf.SkLookup) }},
		{"programs on socket events, sock_ops (CONFIG_CGROUP_BPF)", func() error { return features.HaveProgramType(ebpf.SockOps) }},
		{"maps of sockets, sockhash (CONFIG_BPF_STREAM_PARSER)", func() error { return features.HaveMapType(ebpf.SockHash) }},
		{"storage beside sockets (Linux 5.2)", func() error { return features.HaveMapType(ebpf.SkStorage) }},
		{"cookies of network namespaces in programs on socket events (Linux 5.15)", func() error { return features.HaveProgramHelper(ebpf.SockOps, asm.FnGetNetnsCookie) }},
		{"the kernel's type information, /sys/kernel/btf/vmlinux (CONFIG_DEBUG_INFO_BTF)", func() error { _, err := btf.LoadKernelSpec(); return err }},
		{fmt.Sprintf("an iterator over TCP sockets that may put them into maps (Linux %d.%d)", mesh.EBPFKernelMajor, mesh.EBPFKernelMinor), tcpIterator},
	} {
		if err := need.test(); err != nil {
			return fmt.Errorf("the kernel lacks %s: %w", need.what, err)
		}
	}
	return nil
}

func tcpIterator() error {
	code, err := features.LinuxVersionCode()
	if err != nil {
		return err
	}
	if code < firstKernel {
		return errors.New("this one is older")
	}
	return nil
}
