package explain

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
)

// toPod is a walk to a pod that was addressed by its own IP: the Gateway's policies hold, routes do not.
func (w *walk) toPod() {
	pod := w.podAt()
	if pod == nil || !w.env.Gateway.GetWorkloads() {
		w.unserved("the pod at " + w.req.Destination.String())
		return
	}
	if !w.permitted([]*waypoint.Policies{w.env.Gateway.GetPolicies()}) {
		return
	}
	w.step("route", Pass, "", "a pod addressed by its own IP: no routes, on to the pod")
	w.answer.Backends = []Backend{{
		Namespace: pod.GetNamespace(), Port: w.req.Port, Percent: 100,
		Endpoints: []Endpoint{{Workload: pod.GetNamespace() + "/" + pod.GetName(), Address: w.req.Destination.String(), Healthy: true}},
	}}
}

func (w *walk) podAt() *workload.Workload {
	if w.env.Workloads == nil || !w.req.Destination.IsValid() {
		return nil
	}
	at := w.req.Destination.Unmap().AsSlice()
	for _, wl := range w.env.Workloads() {
		if slices.ContainsFunc(wl.GetAddresses(), func(a []byte) bool { return slices.Equal(a, at) }) {
			return wl
		}
	}
	return nil
}

// atEdge is a walk of a client outside the mesh: its listener, the host it asks for, then as behind a service.
func (w *walk) atEdge() {
	var listeners []*waypoint.Listener
	for _, l := range w.env.Gateway.GetListeners() {
		if l.GetPort() == w.req.Port {
			listeners = append(listeners, l)
		}
	}
	if len(listeners) == 0 {
		w.deny("listener", "", fmt.Sprintf("the gateway does not listen on port %d", w.req.Port), 0)
		return
	}
	l, host := w.hostOf(listeners)
	if l != nil && l.GetRefused() != "" {
		w.deny("listener", "listener "+l.GetName(), l.GetRefused(), 0)
		return
	}
	if host == nil {
		w.deny("listener", "", "no route of any listener of this port is for "+w.req.Authority, 404)
		return
	}
	w.step("listener", Pass, "listener "+l.GetName(), "takes it, as host "+cmp.Or(host.GetHostname(), "*"))
	all := []*waypoint.Policies{w.env.Gateway.GetPolicies(), host.GetPolicies()}
	w.req.TCP = l.GetProtocol() != waypoint.Listener_HTTP && l.GetProtocol() != waypoint.Listener_HTTPS
	switch {
	case !w.permitted(all):
	case w.req.TCP:
		w.stream(host.GetStream(), nil, true)
	default:
		w.route(host.GetHttp(), nil, true)
	}
}

// hostOf is the most specific host that is meant, and its listener. Gateway API, Listener.hostname.
func (w *walk) hostOf(listeners []*waypoint.Listener) (l *waypoint.Listener, best *waypoint.VirtualHost) {
	name := w.req.Authority
	if h, _, err := net.SplitHostPort(name); err == nil {
		name = h
	}
	l = listeners[0]
	for _, candidate := range listeners {
		for _, h := range w.env.VirtualHosts() {
			if h.GetListener() == candidate.GetName() && named(h.GetHostname(), name) && (best == nil || specificity(h) > specificity(best)) {
				l, best = candidate, h
			}
		}
	}
	return l, best
}

func named(pattern, name string) bool {
	pattern, name = strings.ToLower(pattern), strings.ToLower(name)
	suffix, wild := strings.CutPrefix(pattern, "*")
	return pattern == "" || pattern == name || wild && strings.HasSuffix(name, suffix)
}

// specificity: a whole name comes before any with a wildcard, longer ones before shorter ones.
func specificity(h *waypoint.VirtualHost) int {
	name := h.GetHostname()
	if name != "" && !strings.HasPrefix(name, "*") {
		return 1000 + len(name)
	}
	return len(name)
}
