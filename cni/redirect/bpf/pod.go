package bpf

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ambit-mesh/ambit/api/netns"
)

// Pod is what the programs are told of a pod.
type Pod struct {
	IPv6, DNS, BypassInbound bool
	// Probe4 and Probe6 are where the node's probes come from.
	Probe4, Probe6 netip.Addr
	// Own are the pod's addresses. What it says to itself is not captured.
	Own []netip.Addr
}

// ErrAway says that a pod is not captured as it should be.
var ErrAway = errors.New("BPF redirection is not in place")

// address, podValue and ownKey are struct address, struct pod and struct own of programs/redirect.c.
type address [16]byte

type podValue struct {
	Flags  uint32
	Probe4 address
	Probe6 address
}

type ownKey struct {
	Netns   uint64
	Address address
}

const (
	flagIPv6 = 1 << iota
	flagDNS
	flagBypass
)

func (p Pod) value() podValue {
	v := podValue{Probe4: p.Probe4.As16(), Probe6: p.Probe6.As16()}
	for flag, on := range map[uint32]bool{flagIPv6: p.IPv6, flagDNS: p.DNS, flagBypass: p.BypassInbound} {
		if on {
			v.Flags |= flag
		}
	}
	return v
}

// Cookie is the kernel's name of a network namespace, never used twice while the machine runs.
func Cookie(ns *netns.Netns) (cookie uint64, err error) {
	err = ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("cookie of network namespace %s: %w", ns.ID(), err)
	}
	return cookie, nil
}

// Enter captures a pod, or changes how it is captured. Listeners of the proxy that are open already are found.
func (p *Programs) Enter(ns *netns.Netns, pod Pod) error {
	cookie, err := Cookie(ns)
	if err != nil {
		return err
	}
	stale, err := p.setOwn(cookie, pod.Own)
	if err != nil {
		return err
	}
	if err := p.steer(ns, cookie); err != nil {
		return err
	}
	if err := p.adoptListeners(ns); err != nil {
		return err
	}
	// From here on the app's new connections take the way that was laid above.
	if err := p.maps[redirectMapPods].Put(cookie, pod.value()); err != nil {
		return fmt.Errorf("BPF map of pods: %w", err)
	}
	return p.disown(stale)
}

// setOwn adds the pod's addresses and returns those that are not its any more.
func (p *Programs) setOwn(cookie uint64, addrs []netip.Addr) (stale []ownKey, err error) {
	there, err := p.own(cookie)
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		key := ownKey{cookie, a.WithZone("").As16()}
		if there[key] {
			delete(there, key)
			continue
		}
		if err := p.maps[redirectMapAddresses].Put(key, uint8(1)); err != nil {
			return nil, fmt.Errorf("BPF map of pods' addresses: %w", err)
		}
	}
	for key := range there {
		stale = append(stale, key)
	}
	return stale, nil
}

// own reads a pod's addresses back.
func (p *Programs) own(cookie uint64) (map[ownKey]bool, error) {
	out := map[ownKey]bool{}
	var key ownKey
	var value uint8
	all := p.maps[redirectMapAddresses].Iterate()
	for all.Next(&key, &value) {
		if key.Netns == cookie {
			out[key] = true
		}
	}
	// Aborted: others changed the map so much meanwhile that it began anew too often. Those seen are there.
	if err := all.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return nil, fmt.Errorf("BPF map of pods' addresses: %w", err)
	}
	return out, nil
}

func (p *Programs) disown(keys []ownKey) error {
	for _, key := range keys {
		if err := p.maps[redirectMapAddresses].Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("BPF map of pods' addresses: %w", err)
		}
	}
	return nil
}

// steer hangs the program of that name into the namespace, or replaces the one that hangs there.
func (p *Programs) steer(ns *netns.Netns, cookie uint64) error {
	spec := p.spec.Copy()
	if err := spec.Variables[redirectVarSelf].Set(cookie); err != nil {
		return fmt.Errorf("BPF program %s: %w", redirectProgSteer, err)
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{
		redirectMapPods: p.maps[redirectMapPods], redirectMapAddresses: p.maps[redirectMapAddresses], redirectMapListeners: p.maps[redirectMapListeners],
	}})
	if err != nil {
		return fmt.Errorf("load BPF program %s: %w", redirectProgSteer, err)
	}
	defer c.Close()
	program, pin := c.Programs[redirectProgSteer], p.place.pod(cookie)
	old, err := link.LoadPinnedLink(pin, nil)
	switch {
	case err == nil:
		err = errors.Join(old.Update(program), old.Close())
	case errors.Is(err, fs.ErrNotExist):
		var l *link.NetNsLink
		if l, err = link.AttachNetNs(int(ns.File().Fd()), program); err == nil {
			err = errors.Join(l.Pin(pin), l.Close())
		}
	}
	if err != nil {
		return fmt.Errorf("attach BPF program %s to network namespace %s: %w", redirectProgSteer, ns.ID(), err)
	}
	return nil
}

// adoptListeners runs the iterator inside the namespace, whose sockets are the ones it sees.
func (p *Programs) adoptListeners(ns *netns.Netns) error {
	it, err := link.AttachIter(link.IterOptions{Program: p.adopt})
	if err != nil {
		return fmt.Errorf("look for the proxy's listeners by BPF: %w", err)
	}
	defer it.Close()
	err = ns.Do(func() error {
		r, err := it.Open()
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, r)
		return errors.Join(err, r.Close())
	})
	if err != nil {
		return fmt.Errorf("look for the proxy's listeners by BPF: %w", err)
	}
	return nil
}

// Check is nil if the pod is captured as Enter would do it, and ErrAway with the difference otherwise. Listeners that
// are missing in the map are put there.
func (p *Programs) Check(ns *netns.Netns, pod Pod) error {
	cookie, err := Cookie(ns)
	if err != nil {
		return err
	}
	if err := p.Verify(); err != nil {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	var got podValue
	if err := p.maps[redirectMapPods].Lookup(cookie, &got); errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("%w: the pod is not in the map of pods", ErrAway)
	} else if err != nil {
		return fmt.Errorf("BPF map of pods: %w", err)
	}
	if want := pod.value(); got != want {
		return fmt.Errorf("%w: the map of pods has %+v, want %+v", ErrAway, got, want)
	}
	there, err := p.own(cookie)
	if err != nil {
		return err
	}
	for _, a := range pod.Own {
		key := ownKey{cookie, a.WithZone("").As16()}
		if !there[key] {
			return fmt.Errorf("%w: address %s is new", ErrAway, a)
		}
		delete(there, key)
	}
	if len(there) > 0 {
		return fmt.Errorf("%w: %d addresses are not the pod's any more", ErrAway, len(there))
	}
	l, err := link.LoadPinnedLink(p.place.pod(cookie), nil)
	if err != nil {
		return fmt.Errorf("%w: program %s: %w", ErrAway, redirectProgSteer, err)
	}
	defer l.Close()
	if ino, err := inode(l); err != nil || uint64(ino) != ns.ID().Ino {
		return errors.Join(fmt.Errorf("%w: program %s hangs in another namespace", ErrAway, redirectProgSteer), err)
	}
	return p.adoptListeners(ns)
}

// Leave lets a pod go. One that is not captured is no error.
func (p *Programs) Leave(ns *netns.Netns) error {
	cookie, err := Cookie(ns)
	if err != nil {
		return err
	}
	return p.forget(cookie)
}

func (p *Programs) forget(cookie uint64) error {
	// New connections first; those on their way are still steered.
	if err := p.maps[redirectMapPods].Delete(cookie); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("BPF map of pods: %w", err)
	}
	if err := os.Remove(p.place.pod(cookie)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("BPF link of a pod: %w", err)
	}
	keys, err := p.own(cookie)
	if err != nil {
		return err
	}
	var stale []ownKey
	for key := range keys {
		stale = append(stale, key)
	}
	return p.disown(stale)
}
