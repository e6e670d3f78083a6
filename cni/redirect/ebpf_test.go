package redirect

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/cni/redirect/bpf"
)

// Connections are opened under one back end, those the proxy opens as the client included, and go on under another.
func TestSwitchKeepsConnections(t *testing.T) {
	all := backends(t)
	for _, before := range all {
		for _, after := range all {
			_, from := before.(*EBPF)
			if _, to := after.(*EBPF); from == to {
				continue // packet filters share what matters here: address translation and its marks
			}
			t.Run(before.Name()+" to "+after.Name(), func(t *testing.T) { switchUnder(t, before, after) })
		}
	}
}

func switchUnder(t *testing.T, before, after Backend) {
	w := newWire(t)
	w.servers()
	o := Options{IPv6: true, DNS: true}
	open := map[string]*conversation{}
	port := uint16(20000)
	dial := func(when string) {
		t.Helper()
		// As the proxy does it: not from the range that clients choose from.
		port++
		for _, c := range []struct {
			name          string
			pod           bool
			local, remote netip.AddrPort
			mark          int
			want          string
		}{
			{"out v4", true, nobody, on(node4, 8080), 0, "outbound"}, {"out v6", true, nobody, on(node6, 8080), 0, "outbound"},
			{"in v4", false, nobody, on(pod4, 8080), 0, "inbound"}, {"in v6", false, nobody, on(pod6, 8080), 0, "inbound"},
			{"app v4", true, on(node4, port), on(pod4, 8080), mesh.MarkProxy, "app"}, {"app v6", true, on(node6, port), on(pod6, 8080), mesh.MarkProxy, "app"},
		} {
			from := w.node
			if c.pod {
				from = w.pod
			}
			conv, err := w.dial(from, c.local, c.remote, c.mark)
			if err != nil {
				t.Fatal(when, c.name, err)
			}
			if got := conv.ask("hi"); !strings.HasPrefix(got, c.want+" ") {
				t.Errorf("%s: %s reached %q, want %q", when, c.name, got, c.want)
			}
			open[when+" "+c.name] = conv
		}
	}
	alive := func(when string) {
		t.Helper()
		for name, c := range open {
			if got := c.ask(when); !strings.Contains(got, " "+when+" ") {
				t.Errorf("%s: connection %q: %s", when, name, got)
			}
		}
	}
	if err := before.Apply(w.pod, o); err != nil {
		t.Fatal(err)
	}
	dial("before")
	if err := Supersede(after, w.pod, o, left(before)); err != nil {
		t.Fatal(err)
	}
	alive("switched")
	if err := after.Verify(w.pod, o); err != nil {
		t.Error(err)
	}
	dial("after")
	alive("later")
	if err := Supersede(before, w.pod, o, left(after)); err != nil {
		t.Fatal(err)
	}
	alive("back")
	dial("again")
}

// left is where a back end keeps its programs, if it has any.
func left(b Backend) bpf.Place {
	if e, ok := b.(*EBPF); ok {
		return e.programs.Place()
	}
	return bpf.Place{}
}

// An agent that ends leaves its pods captured; the next one takes them over, and lets them go.
func TestProgramsOutliveTheAgent(t *testing.T) {
	if ebpfBackend(t) == nil {
		t.Skip("the kernel cannot")
	}
	at := place(t)
	o := Options{IPv6: true, DNS: true}
	w := newWire(t)
	w.servers()
	for round := range 2 {
		b, err := NewEBPF(at)
		if err != nil {
			t.Fatal(err)
		}
		if round == 0 {
			err = b.Apply(w.pod, o)
		} else {
			err = b.Verify(w.pod, o)
		}
		if err := errors.Join(err, b.Close()); err != nil {
			t.Fatal(round, err)
		}
		for _, a := range []netip.Addr{node4, node6} {
			if got := w.reaches(w.pod, nobody, on(a, 8080), 0); !strings.HasPrefix(got, "outbound ") {
				t.Errorf("round %d: without an agent a connection reached %q", round, got)
			}
		}
	}
	if err := Clear(at); err == nil {
		t.Error("programs that a pod needs were cleared away")
	}
	if got := w.reaches(w.node, nobody, on(pod4, 8080), 0); !strings.HasPrefix(got, "inbound ") {
		t.Errorf("reached %q after a refused Clear", got)
	}
	if err := Supersede(NFTables{}, w.pod, o, at); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Clear(at); err != nil {
			t.Error(err)
		}
	}
	if entries, err := os.ReadDir(filepath.Join(at.Dir, "v1")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left: %v %v", entries, err)
	}
}

// Without the proxy nothing gets in or out by TCP, and what listens later is found, in whatever order.
func TestFailsClosed(t *testing.T) {
	b := ebpfBackend(t)
	if b == nil {
		t.Skip("the kernel cannot")
	}
	w := newWire(t)
	w.serve(w.pod, "app", 8080)
	w.serve(w.node, "peer", 8080)
	if err := b.Apply(w.pod, Options{IPv6: true, DNS: true}); err != nil {
		t.Fatal(err)
	}
	w.serve(w.pod, "hbone", mesh.PortHBONE) // not the one it is about
	for name, got := range map[string]string{
		"out v4": w.reaches(w.pod, nobody, on(node4, 8080), 0), "out v6": w.reaches(w.pod, nobody, on(node6, 8080), 0),
		"in v4": w.reaches(w.node, nobody, on(pod4, 8080), 0), "in v6": w.reaches(w.node, nobody, on(pod6, 8080), 0),
	} {
		if !strings.Contains(got, "refused") && !strings.Contains(got, "timeout") {
			t.Errorf("%s: reached %q without a proxy", name, got)
		}
	}
	// Somebody in the pod takes the proxy's port; without its mark that is worth nothing.
	ln, err := w.pod.Listen(context.Background(), "tcp", on(netip.IPv4Unspecified(), mesh.PortOutbound), func(_, _ string, rc syscall.RawConn) (err error) {
		cerr := rc.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
		return errors.Join(err, cerr)
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := w.reaches(w.pod, nobody, on(node4, 8080), 0); !strings.Contains(got, "refused") && !strings.Contains(got, "timeout") {
		t.Errorf("reached %q by a listener that is not the proxy's", got)
	}
	ln.Close()
	w.serve(w.pod, "outbound", mesh.PortOutbound)
	w.serve(w.pod, "inbound", mesh.PortInboundPlaintext)
	for name, c := range map[string]struct{ got, want string }{
		"out v4": {w.reaches(w.pod, nobody, on(node4, 8080), 0), "outbound"}, "out v6": {w.reaches(w.pod, nobody, on(node6, 8080), 0), "outbound"},
		"in v4": {w.reaches(w.node, nobody, on(pod4, 8080), 0), "inbound"}, "in v6": {w.reaches(w.node, nobody, on(pod6, 8080), 0), "inbound"},
	} {
		if !strings.HasPrefix(c.got, c.want+" ") {
			t.Errorf("%s: reached %q, want %q", name, c.got, c.want)
		}
	}
}

// An app without privileges can bind its sockets to a device; that must not lead it past the proxy.
func TestBoundToADevice(t *testing.T) {
	b := ebpfBackend(t)
	if b == nil {
		t.Skip("the kernel cannot")
	}
	w := newWire(t)
	w.servers()
	if err := b.Apply(w.pod, Options{IPv6: true, DNS: true}); err != nil {
		t.Fatal(err)
	}
	for _, a := range []netip.Addr{node4, node6} {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		c, err := w.pod.Dial(ctx, "tcp", nobody, on(a, 8080), func(_, _ string, rc syscall.RawConn) (err error) {
			cerr := rc.Control(func(fd uintptr) { err = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "eth0") })
			return errors.Join(err, cerr)
		})
		if err != nil {
			continue // closed is good enough
		}
		c.SetDeadline(time.Now().Add(3 * time.Second))
		fmt.Fprintln(c, "hi")
		buf := make([]byte, 64)
		n, _ := c.Read(buf)
		c.Close()
		if !strings.HasPrefix(string(buf[:n]), "outbound ") {
			t.Errorf("%s reached %q", a, buf[:n])
		}
	}
}

func TestDetectByName(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	if _, err := Detect("ebpf", bpf.Place{Dir: t.TempDir()}, log); err == nil || !strings.Contains(err.Error(), "BPF file system") && !strings.Contains(err.Error(), "kernel lacks") {
		t.Errorf("a folder on a disk: %v", err)
	}
	if _, err := Detect("ebpf", bpf.Place{}, log); err == nil {
		t.Error("no folder at all was accepted")
	}
	if ebpfBackend(t) == nil {
		t.Skip("the kernel cannot")
	}
	if b, err := Detect("ebpf", place(t), log); err != nil || b.Name() != "ebpf" {
		t.Errorf("%v %v", b, err)
	}
}
