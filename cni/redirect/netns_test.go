package redirect

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/netns"
	"github.com/ambit-mesh/ambit/api/netns/netnstest"
	"github.com/ambit-mesh/ambit/cni/redirect/bpf"
)

// wire is a pod and a node joined by a veth pair, each in a namespace of its own.
type wire struct {
	t         *testing.T
	pod, node *netns.Netns
}

var (
	pod4, node4 = netip.MustParseAddr("10.77.0.2"), netip.MustParseAddr("10.77.0.1")
	pod6, node6 = netip.MustParseAddr("fd77::2"), netip.MustParseAddr("fd77::1")
)

func newWire(t *testing.T) *wire {
	t.Helper()
	w := &wire{t: t, pod: netnstest.Make(t), node: netnstest.Make(t)}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(w.node.Do(func() error {
		la := netlink.NewLinkAttrs()
		la.Name = "pod"
		veth := &netlink.Veth{LinkAttrs: la, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(w.pod.File().Fd()))}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("add veth: %w", err)
		}
		probe4, probe6 := netip.MustParseAddr(mesh.ProbeSourceIPv4), netip.MustParseAddr(mesh.ProbeSourceIPv6)
		return up("pod", netip.PrefixFrom(node4, 24), netip.PrefixFrom(node6, 64), netip.PrefixFrom(probe4, 32), netip.PrefixFrom(probe6, 128))
	}))
	must(w.pod.Do(func() error {
		if err := up("eth0", netip.PrefixFrom(pod4, 24), netip.PrefixFrom(pod6, 64)); err != nil {
			return err
		}
		for _, gw := range []netip.Addr{node4, node6} {
			if err := netlink.RouteAdd(&netlink.Route{Gw: gw.AsSlice()}); err != nil {
				return fmt.Errorf("default route: %w", err)
			}
		}
		return settled("eth0")
	}))
	return w
}

// settled waits for the address that the kernel itself gives a link when its other end is up: one that came later would be a change.
func settled(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		addrs, err := netlink.AddrList(link, netlink.FAMILY_V6)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IP.IsLinkLocalUnicast() }) {
			return nil
		}
	}
	return fmt.Errorf("%s has no address of its own", name)
}

func up(name string, addrs ...netip.Prefix) error {
	if _, err := loopback(); err != nil {
		return err
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	for _, a := range addrs {
		ip := &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ip, Flags: unix.IFA_F_NODAD}); err != nil {
			return fmt.Errorf("address %s: %w", a, err)
		}
	}
	return nil
}

// asProxy makes a listener as the node proxy makes them.
func asProxy(_, _ string, rc syscall.RawConn) error {
	var errs []error
	err := rc.Control(func(fd uintptr) {
		errs = append(errs,
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mesh.MarkProxy),
			unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1))
	})
	return errors.Join(append(errs, err)...)
}

// serve answers each line on a TCP port with the server's name, the line, and who asked.
func (w *wire) serve(ns *netns.Netns, name string, port uint16) {
	w.t.Helper()
	var control netns.Control
	if ns == w.pod && port != 8080 {
		control = asProxy
	}
	ln, err := ns.Listen(context.Background(), "tcp", netip.AddrPortFrom(netip.IPv6Unspecified(), port), control)
	if err != nil {
		w.t.Fatal(err)
	}
	done := make(chan struct{})
	w.t.Cleanup(func() { ln.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			w.t.Cleanup(func() { c.Close() })
			go func() {
				defer c.Close()
				lines := bufio.NewScanner(c)
				for lines.Scan() {
					fmt.Fprintf(c, "%s %s %s\n", name, lines.Text(), c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap())
				}
			}()
		}
	}()
}

// conversation is an open connection on which the other end can be asked who it is.
type conversation struct {
	t *testing.T
	c net.Conn
	r *bufio.Reader
}

func (c *conversation) ask(text string) string {
	c.t.Helper()
	c.c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintln(c.c, text); err != nil {
		return err.Error()
	}
	line, err := c.r.ReadString('\n')
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(line)
}

// dial opens a connection, marked and from a local address if given.
func (w *wire) dial(ns *netns.Netns, local, remote netip.AddrPort, mark int) (*conversation, error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	c, err := ns.Dial(ctx, "tcp", local, remote, func(_, _ string, rc syscall.RawConn) error {
		var errs []error
		err := rc.Control(func(fd uintptr) {
			if mark != 0 {
				errs = append(errs, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark))
			}
			if local.IsValid() && remote.Addr().Is4() {
				errs = append(errs, unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1))
			} else if local.IsValid() {
				errs = append(errs, unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1))
			}
		})
		return errors.Join(append(errs, err)...)
	})
	if err != nil {
		return nil, err
	}
	w.t.Cleanup(func() { c.Close() })
	return &conversation{w.t, c, bufio.NewReader(c)}, nil
}

// reaches opens a connection and asks who is there.
func (w *wire) reaches(ns *netns.Netns, local, remote netip.AddrPort, mark int) string {
	w.t.Helper()
	c, err := w.dial(ns, local, remote, mark)
	if err != nil {
		return err.Error()
	}
	return c.ask("hi")
}

func on(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// backends lists those this machine has the binaries for.
func backends(t *testing.T) []Backend {
	out := []Backend{NFTables{}}
	for _, v := range []string{"nft", "legacy"} {
		if _, err := exec.LookPath("iptables-" + v + "-restore"); err != nil {
			continue
		}
		b := IPTables{Variant: v}
		ns := netnstest.Make(t)
		if err := b.Apply(ns, Options{}); err != nil {
			t.Logf("not tested, kernel lacks it: %s: %v", b.Name(), err)
			continue
		}
		out = append(out, b)
	}
	if b := ebpfBackend(t); b != nil {
		out = append(out, b)
	}
	return out
}

// place is a folder for the programs of one test, in a BPF file system of its own.
func place(t *testing.T) bpf.Place {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Skip("needs a BPF file system:", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return bpf.Place{Dir: dir}
}

func ebpfBackend(t *testing.T) *EBPF {
	t.Helper()
	if err := bpf.Supported(); err != nil {
		t.Log("not tested:", err)
		return nil
	}
	b, err := NewEBPF(place(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func eachBackend(t *testing.T, fn func(t *testing.T, b Backend)) {
	for _, b := range backends(t) {
		t.Run(b.Name(), func(t *testing.T) { fn(t, b) })
	}
}

// nobody is the zero address: no local address asked for.
var nobody netip.AddrPort

func (w *wire) servers() {
	for name, port := range map[string]uint16{"outbound": mesh.PortOutbound, "inbound": mesh.PortInboundPlaintext, "hbone": mesh.PortHBONE, "dns": mesh.PortDNS, "app": 8080} {
		w.serve(w.pod, name, port)
	}
	w.serve(w.node, "peer", 8080)
	w.serve(w.node, "peer-dns", 53)
	w.serve(w.node, "peer-hbone", mesh.PortHBONE)
}

func TestWhereConnectionsGo(t *testing.T) {
	eachBackend(t, func(t *testing.T, b Backend) {
		w := newWire(t)
		w.servers()
		if err := b.Apply(w.pod, Options{IPv6: true, DNS: true}); err != nil {
			t.Fatal(err)
		}
		for _, f := range []struct {
			name                       string
			pod, node, probe, loopback netip.Addr
		}{
			{"v4", pod4, node4, netip.MustParseAddr(mesh.ProbeSourceIPv4), netip.MustParseAddr("127.0.0.1")},
			{"v6", pod6, node6, netip.MustParseAddr(mesh.ProbeSourceIPv6), netip.IPv6Loopback()},
		} {
			for _, c := range []struct {
				name          string
				from          *netns.Netns
				local, remote netip.AddrPort
				mark          int
				want          string
			}{
				{"the app calls out", w.pod, nobody, on(f.node, 8080), 0, "outbound hi " + f.pod.String()},
				{"the app calls a port of the mesh", w.pod, nobody, on(f.node, mesh.PortHBONE), 0, "outbound hi " + f.pod.String()},
				{"the app asks for a name by TCP", w.pod, nobody, on(f.node, 53), 0, "dns hi " + f.pod.String()},
				{"the proxy calls out", w.pod, nobody, on(f.node, 8080), mesh.MarkProxy, "peer hi " + f.pod.String()},
				{"the proxy asks for a name by TCP", w.pod, nobody, on(f.node, 53), mesh.MarkProxy, "peer-dns hi " + f.pod.String()},
				{"a foreign mark with the same low bits", w.pod, nobody, on(f.node, 8080), 0x5000 | mesh.MarkProxy, "peer hi " + f.pod.String()},
				{"an app with a mark of its own", w.pod, nobody, on(f.node, 8080), 0x5000, "outbound hi " + f.pod.String()},
				{"the app calls its own address", w.pod, nobody, on(f.pod, 8080), 0, "app hi " + f.pod.String()},
				{"the app calls loopback", w.pod, nobody, on(f.loopback, 8080), 0, "app hi " + f.loopback.String()},
				{"somebody calls the app", w.node, nobody, on(f.pod, 8080), 0, "inbound hi " + f.node.String()},
				{"a mesh peer calls", w.node, nobody, on(f.pod, mesh.PortHBONE), 0, "hbone hi " + f.node.String()},
				{"the node probes the app", w.node, on(f.probe, 0), on(f.pod, 8080), 0, "app hi " + f.probe.String()},
				{"the proxy calls the app as the client", w.pod, on(f.node, 39999), on(f.pod, 8080), mesh.MarkProxy, "app hi " + f.node.String()},
				{"the proxy calls the app as itself", w.pod, nobody, on(f.pod, 8080), mesh.MarkProxy, "app hi " + f.pod.String()},
			} {
				if got := w.reaches(c.from, c.local, c.remote, c.mark); got != c.want {
					t.Errorf("%s: %s: reached %q, want %q", f.name, c.name, got, c.want)
				}
			}
		}
	})
}

func TestDatagramsToPort53(t *testing.T) {
	eachBackend(t, func(t *testing.T, b Backend) {
		w := newWire(t)
		ctx := context.Background()
		echo := func(ns *netns.Netns, name string, at netip.AddrPort) {
			pc, err := ns.ListenPacket(ctx, "udp", at, nil)
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			t.Cleanup(func() { pc.Close(); <-done })
			go func() {
				defer close(done)
				buf := make([]byte, 64)
				for {
					_, from, err := pc.ReadFromUDPAddrPort(buf)
					if err != nil {
						return
					}
					_, _ = pc.WriteToUDPAddrPort([]byte(name), from)
				}
			}()
		}
		// On the loopback addresses, not the wildcard: answers have to come from where the kernel sent the question.
		echo(w.pod, "proxy", on(netip.MustParseAddr("127.0.0.1"), mesh.PortDNS))
		echo(w.pod, "proxy", on(netip.IPv6Loopback(), mesh.PortDNS))
		echo(w.node, "upstream", on(netip.IPv6Unspecified(), 53))
		echo(w.node, "other", on(netip.IPv6Unspecified(), 54))
		ask := func(remote netip.AddrPort, mark int) string {
			c, err := w.pod.Dial(ctx, "udp", nobody, remote, func(_, _ string, rc syscall.RawConn) (err error) {
				cerr := rc.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark) })
				return errors.Join(err, cerr)
			})
			if err != nil {
				return err.Error()
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(3 * time.Second))
			if _, err := c.Write([]byte("?")); err != nil {
				return err.Error()
			}
			buf := make([]byte, 64)
			n, err := c.Read(buf)
			if err != nil {
				return err.Error()
			}
			return string(buf[:n])
		}
		check := func(what string, want ...string) {
			t.Helper()
			var got []string
			for _, a := range []netip.Addr{node4, node6} {
				got = append(got, ask(on(a, 53), 0), ask(on(a, 53), mesh.MarkProxy), ask(on(a, 54), 0))
			}
			if w := append(want, want...); strings.Join(got, " ") != strings.Join(w, " ") {
				t.Errorf("%s: app, proxy, other port reach %q, want %q", what, got, w)
			}
		}
		for _, step := range []struct {
			what string
			dns  bool
			want string
		}{{"captured", true, "proxy"}, {"capture switched off", false, "upstream"}, {"and on again", true, "proxy"}} {
			if err := b.Apply(w.pod, Options{IPv6: true, DNS: step.dns}); err != nil {
				t.Fatal(err)
			}
			check(step.what, step.want, "upstream", "other")
		}
	})
}

func TestOpenConnectionsSurvive(t *testing.T) {
	eachBackend(t, func(t *testing.T, b Backend) {
		w := newWire(t)
		w.servers()
		open := map[string]*conversation{}
		for name, c := range map[string]struct {
			from   *netns.Netns
			remote netip.AddrPort
		}{
			"out v4": {w.pod, on(node4, 8080)}, "out v6": {w.pod, on(node6, 8080)}, "out DNS": {w.pod, on(node4, 53)},
			"in v4": {w.node, on(pod4, 8080)}, "in v6": {w.node, on(pod6, 8080)}, "self": {w.pod, on(pod4, 8080)},
		} {
			conv, err := w.dial(c.from, nobody, c.remote, 0)
			if err != nil {
				t.Fatal(name, err)
			}
			open[name] = conv
			conv.ask("before")
		}
		alive := func(when string) {
			t.Helper()
			for name, c := range open {
				if got := c.ask(when); !strings.Contains(got, " "+when+" ") {
					t.Errorf("%s: connection %q: %s", when, name, got)
				}
			}
		}
		o := Options{IPv6: true, DNS: true}
		for round := range 2 {
			if err := b.Apply(w.pod, o); err != nil {
				t.Fatal(err)
			}
			alive("enrolled")
			if got := w.reaches(w.pod, nobody, on(node4, 8080), 0); !strings.HasPrefix(got, "outbound") {
				t.Errorf("round %d: a new connection reached %q", round, got)
			}
			if err := b.Apply(w.pod, o); err != nil {
				t.Fatal(err)
			}
			alive("refreshed")
			if err := b.Remove(w.pod); err != nil {
				t.Fatal(err)
			}
			alive("un-enrolled")
			if got := w.reaches(w.pod, nobody, on(node4, 8080), 0); !strings.HasPrefix(got, "peer") {
				t.Errorf("round %d: after removal a new connection reached %q", round, got)
			}
			if got := w.reaches(w.node, nobody, on(pod6, 8080), 0); !strings.HasPrefix(got, "app") {
				t.Errorf("round %d: after removal a new connection reached %q", round, got)
			}
		}
	})
}

func TestBypassAndInterfaces(t *testing.T) {
	eachBackend(t, func(t *testing.T, b Backend) {
		w := newWire(t)
		w.servers()
		apply := func(o Options) {
			t.Helper()
			if err := b.Apply(w.pod, o); err != nil {
				t.Fatal(err)
			}
			if err := b.Verify(w.pod, o); err != nil {
				t.Error(err)
			}
		}
		reach := func(from *netns.Netns, to netip.AddrPort, want string) {
			t.Helper()
			if got := w.reaches(from, nobody, to, 0); !strings.HasPrefix(got, want+" ") {
				t.Errorf("reached %q, want %q", got, want)
			}
		}
		apply(Options{IPv6: true, BypassInbound: true})
		reach(w.node, on(pod4, 8080), "app")
		reach(w.node, on(pod6, 8080), "app")
		reach(w.pod, on(node4, 8080), "outbound")
		if _, ok := b.(*EBPF); ok {
			if err := b.Apply(w.pod, Options{VirtualInterfaces: []string{"eth0"}}); err == nil || !strings.Contains(err.Error(), "eth0") {
				t.Errorf("virtual interfaces, which it cannot do: %v", err)
			}
			apply(Options{IPv6: true})
			reach(w.node, on(pod4, 8080), "inbound")
			return
		}
		apply(Options{IPv6: true, VirtualInterfaces: []string{"eth0", "absent"}})
		reach(w.node, on(pod4, 8080), "outbound")
		reach(w.node, on(pod6, 8080), "outbound")
		apply(Options{IPv6: true})
		reach(w.node, on(pod4, 8080), "inbound")
	})
}
