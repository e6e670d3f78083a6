package supervisor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/e2e/lab/fabric"
	"github.com/ambit-mesh/ambit/e2e/lab/resource"
	"github.com/ambit-mesh/ambit/e2e/lab/wire"
)

// fail breaks something on purpose. Everything but a crash stays broken until heal.
func (s *Supervisor) fail(f wire.Fault) error {
	f, host, err := s.target(f)
	if err != nil {
		return err
	}
	switch f.Kind {
	case "link":
		err = fabric.SetLink(s.plan, host, false)
	case "node":
		err = s.failNode(host)
	default:
		for _, d := range s.daemonsOf(f.Kind, f.Host) {
			d.kill(!f.Restart)
		}
	}
	if err == nil && !f.Restart && !slices.Contains(s.faults, f) {
		s.faults = append(s.faults, f)
	}
	return err
}

// target completes a fault and checks that there is such a thing.
func (s *Supervisor) target(f wire.Fault) (wire.Fault, fabric.Host, error) {
	kinds := []string{"node", "link", "ztunnel", "cni", "ca", "control"}
	if !slices.Contains(kinds, f.Kind) {
		return f, fabric.Host{}, fmt.Errorf("%q cannot be broken: one of %s", f.Kind, strings.Join(kinds, ", "))
	}
	if f.Host == "" && (f.Kind == "ca" || f.Kind == "control") {
		f.Host = fabric.ControlHost
	}
	host, ok := s.plan.Host(f.Host)
	if !ok || f.Host == fabric.ControlHost && f.Kind == "node" {
		return f, host, fmt.Errorf("%s %q: there is no such host, they are node1 to node%d", f.Kind, f.Host, len(s.nodes))
	}
	if f.Kind != "node" && f.Kind != "link" && len(s.daemonsOf(f.Kind, f.Host)) == 0 {
		return f, host, fmt.Errorf("no %s runs on %s", f.Kind, f.Host)
	}
	return f, host, nil
}

func (s *Supervisor) daemonsOf(kind, host string) []*daemon {
	var list []*daemon
	for _, d := range s.daemons {
		if (kind == "" || d.spec.Kind == kind) && d.spec.Host == host {
			list = append(list, d)
		}
	}
	return list
}

// failNode is a power cut: the node's link, daemons and pods go at once.
func (s *Supervisor) failNode(host fabric.Host) error {
	n := s.node(host.Name)
	if n.failed {
		return nil
	}
	if err := fabric.SetLink(s.plan, host, false); err != nil {
		return err
	}
	n.failed = true
	for _, d := range s.daemonsOf("", host.Name) {
		d.kill(true)
	}
	for _, p := range s.pods {
		if p.node == n && p.kubelet != nil {
			p.kubelet.fail()
		}
	}
	return s.nodeChanged(n)
}

// nodeChanged writes the node's condition, and its pods', whose readiness follows from it.
func (s *Supervisor) nodeChanged(n *node) error {
	k := resource.Key{Kind: "Node", Name: n.host.Name}
	o := s.objects[k].object.Clone()
	o["status"] = s.nodeObject(n)["status"]
	s.dirty = true
	for _, p := range s.pods {
		if p.node == n {
			if err := s.writePod(p); err != nil {
				return err
			}
		}
	}
	return s.put(o)
}

// heal repairs one fault, or all for a fault without a kind.
func (s *Supervisor) heal(f wire.Fault) ([]wire.Fault, error) {
	var healed []wire.Fault
	for _, broken := range slices.Clone(s.faults) {
		if f.Kind != "" && f.Kind != broken.Kind || f.Host != "" && f.Host != broken.Host {
			continue
		}
		s.faults = slices.DeleteFunc(s.faults, func(g wire.Fault) bool { return g == broken })
		if err := s.healOne(broken); err != nil {
			return healed, err
		}
		healed = append(healed, broken)
	}
	if len(healed) == 0 && f.Kind != "" {
		return nil, fmt.Errorf("%s %s is not broken", f.Kind, f.Host)
	}
	return healed, nil
}

func (s *Supervisor) healOne(f wire.Fault) error {
	host, _ := s.plan.Host(f.Host)
	n := s.node(f.Host)
	if n != nil && n.failed && f.Kind != "node" {
		// The rest of the node is still dead.
		return nil
	}
	switch f.Kind {
	case "link":
		return fabric.SetLink(s.plan, host, true)
	case "node":
		n.failed = false
		if !slices.Contains(s.faults, wire.Fault{Kind: "link", Host: f.Host}) {
			if err := fabric.SetLink(s.plan, host, true); err != nil {
				return err
			}
		}
		for _, d := range s.daemonsOf("", host.Name) {
			if !slices.Contains(s.faults, wire.Fault{Kind: d.spec.Kind, Host: f.Host}) {
				d.release()
			}
		}
		for _, p := range s.pods {
			if p.node == n && p.kubelet != nil {
				p.kubelet.heal()
			}
		}
		return s.nodeChanged(n)
	}
	for _, d := range s.daemonsOf(f.Kind, f.Host) {
		d.release()
	}
	return nil
}

// endAll ends pods and daemons without ceremony. It runs when nothing else uses the objects any more.
func (s *Supervisor) endAll() {
	for _, p := range s.pods {
		if p.kubelet != nil {
			p.kubelet.fail()
			p.kubelet.end(0)
			p.kubelet.hurryUp()
		}
	}
	for _, d := range s.daemons {
		d.kill(true)
		close(d.stop)
	}
}
