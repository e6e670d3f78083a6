package analyze

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/ambit-mesh/ambit/api/document"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// Node proxies stand before pods: ports of what they carry out are those of the workload, and people know those of Services.

// portLevel finds exceptions of PeerAuthentications for ports of Services.
func (w *world) portLevel() {
	each(w, func(p *object.PeerAuthentication) {
		if !p.Selector.Present {
			return
		}
		for _, exception := range p.Ports {
			if target, ok := w.servicePort(p.Key(), p.Selector, exception.Port); ok {
				w.about(status.PortUnknown, p.Key(), "spec.portLevelMtls", "%d is the port of a Service, and ports are those of the workload here", exception.Port).fix("write %d", target)
			}
		}
	})
}

// policyPorts finds AuthorizationPolicies whose ports are all of Services. With one that is of a pod, the others may be there
// to be safe.
func (w *world) policyPorts() {
	each(w, func(p *object.AuthorizationPolicy) {
		if len(p.TargetRefs) > 0 {
			return
		}
		for i, r := range p.Rules {
			for j, o := range r.To {
				w.policyPort(p, fmt.Sprintf("spec.rules[%d].to[%d].operation.ports", i, j), o.Ports)
			}
			for j, c := range r.When {
				if c.Key == "destination.port" {
					w.policyPort(p, fmt.Sprintf("spec.rules[%d].when[%d].values", i, j), c.Values)
				}
			}
		}
	})
}

func (w *world) policyPort(p *object.AuthorizationPolicy, field string, ports []string) {
	var targets []string
	for _, text := range ports {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			return
		}
		target, ok := w.servicePort(p.Key(), p.Selector, uint16(n))
		if !ok {
			return
		}
		targets = append(targets, strconv.Quote(strconv.Itoa(int(target))))
	}
	if len(targets) == 0 {
		return
	}
	what := "the rule never matches"
	if p.Action == object.Allow {
		what = "the rule allows nothing"
	}
	w.about(status.PortUnknown, p.Key(), field, "%s of a Service, and ports are those of the workload here: %s", portsAre(ports), what).
		fix("write [%s]", strings.Join(targets, ", "))
}

func portsAre(ports []string) string {
	if len(ports) == 1 {
		return ports[0] + " is the port"
	}
	return strings.Join(ports, ", ") + " are ports"
}

// servicePort reports whether a port is only that of Services before the pods a policy chooses, and what it stands for there.
func (w *world) servicePort(of object.Key, sel object.Selector, port uint16) (target uint16, ok bool) {
	known := false
	look := func(ns string, pods []*pod) {
		for _, p := range pods {
			if sel.Present && !sel.Matches(p.Labels) {
				continue
			}
			known = known || p.listens(port)
			each(w, func(s *object.Service) {
				if s.Namespace != ns || !s.Selector.Present || !s.Selector.Matches(p.Labels) {
					return
				}
				for _, q := range s.Ports {
					t := q.TargetPort
					if q.TargetName != "" {
						t, _ = p.NamedPort(q.TargetName, object.TCP)
					}
					known = known || t == port
					if q.Port == port {
						target = t
					}
				}
			})
		}
	}
	if of.Namespace != w.cfg.RootNamespace {
		look(of.Namespace, w.byLabel[of.Namespace])
	} else {
		for _, ns := range slices.Sorted(maps.Keys(w.byLabel)) {
			look(ns, w.byLabel[ns])
		}
	}
	return target, target != 0 && !known
}

// listens reports whether a pod says that it has a port.
func (p *pod) listens(port uint16) bool {
	for _, list := range []string{"containers", "initContainers"} {
		for _, c := range document.Items(p.spec, list) {
			for _, q := range document.Items(c, "ports") {
				if document.Number(q, "containerPort") == int64(port) {
					return true
				}
			}
		}
	}
	return false
}
