package model

import (
	"slices"

	"github.com/ambit-mesh/ambit/api/workload"
)

// A guard is kept by the node proxy of the pod that has it. A pod outside the mesh has no such proxy: whoever goes around
// the waypoint reaches it. The services concerned say so.

// noteOutside keeps account of the services whose guards a workload cannot keep; w is nil when it is gone. Endpoints that
// are not ready do not count: a pod is captured while it starts.
func (m *Model) noteOutside(s *source, w *workload.Workload) {
	var now []*slot
	if w != nil && w.TunnelProtocol != workload.TunnelProtocol_HBONE && w.Status == workload.WorkloadStatus_HEALTHY {
		for name := range w.Services {
			if c := m.slotNamed(name); c != nil && c.winner != nil && c.ns == s.ns && c.watch.guard != nil && !c.watch.guard.Open {
				now = append(now, c)
			}
		}
	}
	for _, c := range s.outside {
		if !slices.Contains(now, c) {
			delete(c.outside, s)
			m.tellOutside(c)
		}
	}
	for _, c := range now {
		if !c.outside.has(s) {
			if c.outside == nil {
				c.outside = set[*source]{}
			}
			c.outside.add(s)
			m.tellOutside(c)
		}
	}
	s.outside = now
}

func (m *Model) tellOutside(c *slot) {
	if c.winner != nil {
		m.dirty.reports.add(c.winner)
	}
}

// outside counts the endpoints of a service that do not guard it, and names one.
func (s *service) outside() (n int, example string) {
	for _, c := range s.won() {
		for src := range c.outside {
			n++
			if k := src.key().String(); example == "" || k < example {
				example = k
			}
		}
	}
	return n, example
}
