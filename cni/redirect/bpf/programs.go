package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Programs are loaded and hang where they belong. The methods may be called from any goroutine, but for one namespace
// one at a time.
type Programs struct {
	place Place
	spec  *ebpf.CollectionSpec // of steer, which is loaded once for each pod
	maps  map[string]*ebpf.Map
	adopt *ebpf.Program
}

// hooks are the programs at the root of control groups, in the order in which they are attached: what remembers listeners
// comes before what needs them.
var hooks = []struct {
	program string
	at      ebpf.AttachType
}{
	{redirectProgListening, ebpf.AttachCGroupSockOps},
	{redirectProgRecvmsg4, ebpf.AttachCGroupUDP4Recvmsg},
	{redirectProgRecvmsg6, ebpf.AttachCGroupUDP6Recvmsg},
	{redirectProgGetpeername4, ebpf.AttachCgroupInet4GetPeername},
	{redirectProgGetpeername6, ebpf.AttachCgroupInet6GetPeername},
	{redirectProgSendmsg4, ebpf.AttachCGroupUDP4Sendmsg},
	{redirectProgSendmsg6, ebpf.AttachCGroupUDP6Sendmsg},
	{redirectProgConnect4, ebpf.AttachCGroupInet4Connect},
	{redirectProgConnect6, ebpf.AttachCGroupInet6Connect},
}

// Open loads the programs and hangs them at the root of control groups, where they do nothing until a pod is entered.
// What an earlier agent left at the same place is taken over: its maps are kept, its programs replaced.
func Open(at Place) (*Programs, error) {
	if err := Supported(); err != nil {
		return nil, err
	}
	root, mount, err := at.cgroup()
	if err != nil {
		return nil, err
	}
	if mount != nil {
		defer mount.Close()
	}
	if err := at.prepare(); err != nil {
		return nil, err
	}
	all, err := loadRedirect()
	if err != nil {
		return nil, fmt.Errorf("read the BPF programs: %w", err)
	}
	p := &Programs{place: at, spec: only(all, redirectProgSteer)}
	shared := all.Copy()
	delete(shared.Programs, redirectProgSteer)
	delete(shared.Maps, ".rodata")
	delete(shared.Variables, redirectVarSelf)
	for _, m := range shared.Maps {
		m.Pinning = ebpf.PinByName
	}
	c, err := ebpf.NewCollectionWithOptions(shared, ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: at.maps()}})
	if err != nil {
		return nil, fmt.Errorf("load BPF programs: %w", err)
	}
	p.maps, p.adopt = c.Maps, c.Programs[redirectProgAdopt]
	for _, h := range hooks {
		if err := hang(at.link(h.program), root, h.at, c.Programs[h.program]); err != nil {
			return nil, errors.Join(fmt.Errorf("attach BPF program %s to %s: %w", h.program, root, err), p.Close())
		}
		// The link keeps it.
		c.Programs[h.program].Close()
	}
	return p, p.sweep()
}

// only is a specification with one program and what it needs.
func only(all *ebpf.CollectionSpec, program string) *ebpf.CollectionSpec {
	one := all.Copy()
	for name := range one.Programs {
		if name != program {
			delete(one.Programs, name)
		}
	}
	delete(one.Maps, redirectMapQuestions)
	return one
}

// hang attaches a program, or puts it in the place of the one that hangs there already, and pins the link.
func hang(pin, root string, at ebpf.AttachType, program *ebpf.Program) error {
	old, err := link.LoadPinnedLink(pin, nil)
	if err == nil {
		return errors.Join(old.Update(program), old.Close())
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: root, Attach: at, Program: program})
	if err != nil {
		return err
	}
	// The pin keeps it, and us no more: should the pin fail, the program must not stay.
	return errors.Join(l.Pin(pin), l.Close())
}

// sweep forgets pods whose namespaces are gone.
func (p *Programs) sweep() error {
	pods, err := podsAt(p.place)
	if err != nil {
		return err
	}
	var errs []error
	for _, cookie := range pods {
		l, err := link.LoadPinnedLink(p.place.pod(cookie), nil)
		if err != nil {
			errs = append(errs, fmt.Errorf("BPF link of a pod: %w", err))
			continue
		}
		if ino, err := inode(l); err == nil && ino == 0 {
			errs = append(errs, p.forget(cookie))
		}
		l.Close()
	}
	return errors.Join(errs...)
}

// podsAt lists the namespaces that have a link.
func podsAt(at Place) ([]uint64, error) {
	entries, err := os.ReadDir(at.pods())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for BPF links of pods: %w", err)
	}
	var out []uint64
	for _, e := range entries {
		if c, err := strconv.ParseUint(e.Name(), 16, 64); err == nil {
			out = append(out, c)
		}
	}
	return out, nil
}

// inode is that of the namespace a link hangs in, 0 when it is gone.
func inode(l link.Link) (uint32, error) {
	info, err := l.Info()
	if err != nil {
		return 0, err
	}
	ns := info.NetNs()
	if ns == nil {
		return 0, errors.New("not a link of a network namespace")
	}
	return ns.NetnsInode, nil
}

// Place is where the programs hang and are kept.
func (p *Programs) Place() Place { return p.place }

// Verify is nil if everything hangs at the root of control groups.
func (p *Programs) Verify() error {
	for _, h := range hooks {
		if _, err := os.Stat(p.place.link(h.program)); err != nil {
			return fmt.Errorf("BPF program %s: %w", h.program, err)
		}
	}
	return nil
}

// Close lets go of the programs; they stay where they are.
func (p *Programs) Close() error {
	var errs []error
	for _, m := range p.maps {
		errs = append(errs, m.Close())
	}
	return errors.Join(append(errs, p.adopt.Close())...)
}

// Leftover opens what an earlier agent left at a place, to take pods out. It is nil if there is nothing.
func Leftover(at Place) (*Programs, error) {
	p := &Programs{place: at, maps: map[string]*ebpf.Map{}}
	for _, name := range []string{redirectMapPods, redirectMapAddresses} {
		m, err := ebpf.LoadPinnedMap(filepath.Join(at.maps(), name), nil)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, p.Close()
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("BPF map %s of an earlier agent: %w", name, err), p.Close())
		}
		p.maps[name] = m
	}
	return p, nil
}

// Clear takes away what is at a place, unless a pod is still captured by it.
func Clear(at Place) error {
	p, err := Leftover(at)
	if p == nil || err != nil {
		return err
	}
	err = p.sweep()
	pods, perr := podsAt(at)
	if err = errors.Join(err, perr, p.Close()); err != nil {
		return err
	}
	if len(pods) > 0 {
		return fmt.Errorf("%d pods are still redirected by BPF programs in %s", len(pods), at.Dir)
	}
	var errs []error
	for _, h := range slices.Backward(hooks) {
		// An unpinned link that nobody holds is detached.
		if err := os.Remove(at.link(h.program)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("take BPF programs away: %w", err)
	}
	if err := os.RemoveAll(filepath.Join(at.Dir, layout)); err != nil {
		return fmt.Errorf("take BPF maps away: %w", err)
	}
	return nil
}
