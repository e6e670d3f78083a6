package explain

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/waypoint/envoy"
)

// limit names the rate limits that count the request.
func (w *walk) limit(all []*waypoint.Policies) bool {
	for _, ps := range all {
		for _, l := range ps.GetRateLimits() {
			for i, r := range l.GetRules() {
				counts := len(r.GetMatches()) == 0 || slices.ContainsFunc(r.GetMatches(), func(m *waypoint.HTTPMatch) bool { ok, _ := w.requestMatches(m); return ok })
				if counts {
					w.step("rate limit", Open, fmt.Sprintf("LocalRateLimitPolicy %s/%s rule %d", l.GetNamespace(), l.GetName(), i),
						fmt.Sprintf("counts it: %d in %s and instance; beyond that the answer is %d", r.GetRequests(), r.GetPer().AsDuration(), cmp.Or(r.GetStatus(), 429)))
				}
			}
		}
	}
	return true
}

// route finds the rule that is carried out. Without any, requests go to self, unless routes are meant to be there.
func (w *walk) route(rules []*waypoint.HTTPRule, self *waypoint.Backend, routed bool) {
	if len(rules) == 0 && !routed {
		w.step("route", Pass, "", "no route speaks of this port: to the service itself")
		w.forward("", []*waypoint.Backend{self})
		return
	}
	for _, r := range rules {
		ok := len(r.GetMatches()) == 0
		for _, m := range r.GetMatches() {
			if ok, _ = w.requestMatches(m); ok {
				break
			}
		}
		if ok {
			w.carryOut(r)
			return
		}
	}
	w.deny("route", "", "there are routes for this port, and none matches", 404)
}

func (w *walk) carryOut(r *waypoint.HTTPRule) {
	object := originName(r.GetOrigin())
	if r.GetBroken() != "" {
		w.deny("route", object, r.GetBroken(), int(cmp.Or(r.GetBrokenStatus(), 500)))
		return
	}
	if f := r.GetFault(); f != nil {
		w.fault(object, f)
	}
	if t := r.GetTimeout(); t != nil && t.AsDuration() > 0 {
		w.step("route", Pass, object, "the answer has to come within "+t.AsDuration().String())
	}
	for _, m := range r.GetMirrors() {
		w.step("route", Pass, object, "is mirrored to "+backendName(m.GetTo()))
	}
	switch a := r.GetAction().(type) {
	case *waypoint.HTTPRule_Redirect:
		w.step("route", Pass, object, "is redirected")
		w.answer.Status = int(cmp.Or(a.Redirect.GetStatus(), 301))
	case *waypoint.HTTPRule_Direct:
		w.step("route", Pass, object, "is answered by the proxy")
		w.answer.Status = int(a.Direct.GetStatus())
	case *waypoint.HTTPRule_Forward:
		w.step("route", Pass, object, "matches")
		backends := a.Forward.GetBackends()
		// A VirtualService leaves the weight of an only destination out.
		if len(backends) == 1 && backends[0].GetWeight() == 0 && r.GetOrigin().GetKind() == "VirtualService" {
			backends = []*waypoint.Backend{proto.CloneOf(backends[0])}
			backends[0].Weight = 1
		}
		w.forward(object, backends)
	default:
		w.deny("route", object, "the rule names no backend", 500)
	}
}

func (w *walk) fault(object string, f *waypoint.Fault) {
	if p := f.GetDelayPerMillion(); p > 0 {
		w.step("fault", Open, object, fmt.Sprintf("%v%% of requests wait %s", percent(p), f.GetDelay().AsDuration()))
	}
	switch p := f.GetAbortPerMillion(); {
	case p >= 1_000_000:
		w.deny("fault", object, "every request is aborted", int(cmp.Or(f.GetAbortStatus(), 200)))
	case p > 0:
		w.step("fault", Open, object, fmt.Sprintf("%v%% of requests are aborted with status %d", percent(p), f.GetAbortStatus()))
	}
}

func percent(perMillion uint32) float64 { return float64(perMillion) / 10_000 }

// stream finds the rule for a connection. What no rule is about goes to self, unless routes are meant to be there.
func (w *walk) stream(rules []*waypoint.StreamRule, self *waypoint.Backend, routed bool) {
	for _, r := range rules {
		if !sniMatches(r.GetSni(), w.req.SNI) || len(r.GetDestinations()) > 0 && !within(r.GetDestinations(), w.req.Destination) {
			continue
		}
		if r.GetBroken() != "" {
			w.deny("route", originName(r.GetOrigin()), r.GetBroken(), 0)
			return
		}
		w.step("route", Pass, originName(r.GetOrigin()), "matches")
		w.forward(originName(r.GetOrigin()), r.GetBackends())
		return
	}
	if routed {
		w.deny("route", "", "there are routes for this port, and none matches", 0)
		return
	}
	w.step("route", Pass, "", "no route speaks of this connection: to the service itself")
	w.forward("", []*waypoint.Backend{self})
}

func sniMatches(want []string, sni string) bool {
	return len(want) == 0 || slices.ContainsFunc(want, func(v string) bool {
		suffix, wild := strings.CutPrefix(v, "*")
		return v == sni || wild && strings.HasSuffix(sni, suffix)
	})
}

// forward lists where shares of the traffic go, and whether anything can answer there.
func (w *walk) forward(object string, backends []*waypoint.Backend) {
	total := uint32(0)
	for _, b := range backends {
		total += b.GetWeight()
	}
	if total == 0 {
		w.deny("backend", object, "no backend has any weight", 500)
		return
	}
	usable := false
	for _, b := range backends {
		if b.GetWeight() == 0 {
			continue
		}
		out := Backend{
			Namespace: b.GetNamespace(), Hostname: b.GetHostname(), Port: b.GetPort(), Subset: b.GetSubset(), Broken: b.GetBroken(),
			Percent: 100 * float64(b.GetWeight()) / float64(total),
		}
		if b.GetPort() == 0 && b.GetBroken() == "" {
			out.Port = w.req.Port
		}
		if out.Broken == "" {
			out.Via, out.Endpoints, out.Broken = w.endpoints(b)
		}
		usable = usable || out.Broken == ""
		w.answer.Backends = append(w.answer.Backends, out)
	}
	if !usable {
		// A reference that leads nowhere is the route's fault; a service without endpoints is its own.
		first, status, text := w.answer.Backends[0], 500, w.answer.Backends[0].Broken
		if !unresolved(backends, first) {
			status, text = 503, first.String()+": "+text
		}
		w.deny("backend", object, text, status)
	}
}

// unresolved reports whether a backend was broken from the start.
func unresolved(all []*waypoint.Backend, b Backend) bool {
	return slices.ContainsFunc(all, func(o *waypoint.Backend) bool { return o.GetBroken() != "" && o.GetBroken() == b.Broken })
}

// endpoints are the workloads behind a backend, or those of the waypoint it is behind; problem says why none of them can
// be used.
func (w *walk) endpoints(b *waypoint.Backend) (via string, out []Endpoint, problem string) {
	d := w.env.Destination(b.GetNamespace(), b.GetHostname())
	if d == nil {
		return "", nil, "this proxy does not know " + b.GetNamespace() + "/" + b.GetHostname() + " yet"
	}
	if through, ok := w.env.Detour(d); ok {
		via = through.GetNamespace() + "/" + through.GetHostname()
		out, problem = ready(w.env.Endpoints(through.GetNamespace(), through.GetHostname()), nil)
		return via, out, problem
	}
	if why := envoy.TLSProblem(d, cmp.Or(b.GetPort(), w.req.Port), b.GetSubset()); why != "" {
		return "", nil, why
	}
	if d.GetResolution() == waypoint.Destination_ORIGINAL || d.GetResolution() == waypoint.Destination_DYNAMIC {
		return "", []Endpoint{{Workload: b.GetHostname(), Healthy: true}}, ""
	}
	var labels map[string]string
	if b.GetSubset() != "" {
		i := slices.IndexFunc(d.GetSubsets(), func(s *waypoint.Subset) bool { return s.GetName() == b.GetSubset() })
		if i < 0 {
			return "", nil, "there is no subset " + strconv.Quote(b.GetSubset())
		}
		labels = d.GetSubsets()[i].GetLabels()
	}
	out, problem = ready(w.env.Endpoints(b.GetNamespace(), b.GetHostname()), labels)
	if d.GetResolution() == waypoint.Destination_DNS {
		problem = ""
	}
	if problem == "" {
		problem = w.ejected(b, out)
	}
	return "", out, problem
}

// ejected marks the endpoints that Envoy has taken out, and says so when none is left. With none left it uses all of them
// only if a minHealthPercent says so.
func (w *walk) ejected(b *waypoint.Backend, out []Endpoint) string {
	b = proto.CloneOf(b)
	b.Port = cmp.Or(b.GetPort(), w.req.Port)
	gone := w.req.Ejected[w.env.ClusterFor(b, w.req.TCP)]
	left := len(out)
	for i := range out {
		if a, err := netip.ParseAddr(out[i].Address); err == nil && slices.Contains(gone, a) {
			out[i].Healthy, out[i].Ejected = false, true
		}
		if !out[i].Healthy {
			left--
		}
	}
	if left > 0 || len(gone) == 0 || w.env.Panics(b) {
		return ""
	}
	return fmt.Sprintf("all %d endpoints failed and are out for now (outlierDetection)", len(out))
}

// ready lists the workloads with some labels.
func ready(all []*workload.Workload, labels map[string]string) (out []Endpoint, problem string) {
	healthy := 0
	for _, wl := range all {
		if !has(wl, labels) {
			continue
		}
		ok := wl.GetStatus() == workload.WorkloadStatus_HEALTHY
		if ok {
			healthy++
		}
		out = append(out, Endpoint{Workload: wl.GetNamespace() + "/" + wl.GetName(), Address: addressOf(wl), Healthy: ok})
	}
	switch {
	case len(out) == 0:
		problem = "there is no endpoint"
	case healthy == 0:
		problem = "no endpoint is healthy"
	}
	return out, problem
}

func addressOf(wl *workload.Workload) string {
	for _, raw := range wl.GetAddresses() {
		if a, ok := netip.AddrFromSlice(raw); ok {
			return a.Unmap().String()
		}
	}
	return wl.GetHostname()
}

// has reports whether a workload carries the labels of a subset.
func has(wl *workload.Workload, labels map[string]string) bool {
	if len(labels) == 0 {
		return true
	}
	got := &waypoint.Labels{}
	for _, x := range wl.GetExtensions() {
		if x.GetConfig().MessageIs(got) {
			_ = x.GetConfig().UnmarshalTo(got) // what cannot be read has no labels
		}
	}
	for k, v := range labels {
		if got.GetLabels()[k] != v {
			return false
		}
	}
	return true
}

func backendName(b *waypoint.Backend) string {
	return Backend{Namespace: b.GetNamespace(), Hostname: b.GetHostname(), Port: b.GetPort(), Subset: b.GetSubset()}.String()
}

// String is namespace/hostname:port, and the subset.
func (b Backend) String() string {
	name := fmt.Sprintf("%s/%s:%d", b.Namespace, b.Hostname, b.Port)
	if b.Subset != "" {
		name += " subset " + b.Subset
	}
	return name
}

func originName(o *waypoint.Origin) string {
	if o.GetKind() == "" {
		return ""
	}
	name := fmt.Sprintf("%s %s/%s rule %d", o.GetKind(), o.GetNamespace(), o.GetName(), o.GetRule())
	if o.GetRuleName() != "" {
		name += " (" + o.GetRuleName() + ")"
	}
	return name
}
