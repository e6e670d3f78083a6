// Package gateway reads what a waypoint or gateway shows of itself: the facts it was told, as services, routes and
// backends, and what its Envoy made of them.
//
// It decodes and arranges; it asks nobody and prints nothing. Start reading at Facts and Routes, then envoy.go.
package gateway

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
)

// Facts is what a proxy was told by the control plane.
type Facts struct {
	Gateway      *waypoint.Gateway
	Services     []*waypoint.Service
	Destinations []*waypoint.Destination
	VirtualHosts []*waypoint.VirtualHost
	Addresses    []*workload.Service
	Workloads    []*workload.Workload
}

// ReadFacts decodes the answer of a proxy's /facts.
func ReadFacts(r io.Reader) (*Facts, error) {
	var in struct {
		Gateway                                                    json.RawMessage
		Services, Destinations, VirtualHosts, Addresses, Workloads []json.RawMessage
	}
	if err := json.NewDecoder(r).Decode(&in); err != nil {
		return nil, fmt.Errorf("decode facts: %w", err)
	}
	f := &Facts{}
	if len(in.Gateway) > 0 && string(in.Gateway) != "null" {
		f.Gateway = &waypoint.Gateway{}
		if err := unmarshal(in.Gateway, f.Gateway); err != nil {
			return nil, err
		}
	}
	for _, err := range []error{
		list(in.Services, &f.Services), list(in.Destinations, &f.Destinations), list(in.VirtualHosts, &f.VirtualHosts),
		list(in.Addresses, &f.Addresses), list(in.Workloads, &f.Workloads),
	} {
		if err != nil {
			return nil, err
		}
	}
	return f, nil
}

// list decodes one kind of fact. P is *T.
func list[T any, P interface {
	*T
	proto.Message
}](in []json.RawMessage, out *[]P) error {
	for _, raw := range in {
		m := P(new(T))
		if err := unmarshal(raw, m); err != nil {
			return err
		}
		*out = append(*out, m)
	}
	return nil
}

func unmarshal(raw []byte, m proto.Message) error {
	// A newer proxy may tell more than this version knows.
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, m); err != nil {
		return fmt.Errorf("decode facts: %w", err)
	}
	return nil
}

// Route is one rule of one port of a service, for people.
type Route struct {
	Service  string `json:"service"`
	Port     uint32 `json:"port"`
	Match    string `json:"match"`
	Action   string `json:"action"`
	From     string `json:"from"`
	Policies string `json:"policies"`
}

// Routes reads as services, then routes, then backends. keep may be nil.
func (f *Facts) Routes(keep func(service string) bool) []Route {
	var out []Route
	suffix := ".svc." + f.Gateway.GetMesh().GetClusterDomain()
	short := func(r Route) Route { // the cluster's own services are known by namespace
		r.Service, r.Action = strings.ReplaceAll(r.Service, suffix, ""), strings.ReplaceAll(r.Action, suffix, "")
		return r
	}
	for _, s := range f.Services {
		if keep != nil && !keep(s.GetHostname()) {
			continue
		}
		all := policies(f.Gateway.GetPolicies(), s.GetPolicies())
		for _, p := range s.GetPorts() {
			base := Route{Service: s.GetHostname(), Port: p.GetNumber(), Policies: all}
			for _, r := range rules(base, p, s.GetHostname()) {
				out = append(out, short(r))
			}
		}
	}
	for _, h := range f.VirtualHosts {
		if keep != nil && !keep(h.GetHostname()) {
			continue
		}
		name := h.GetHostname()
		if name == "" {
			name = "*"
		}
		base := Route{Service: name, Port: f.listenerPort(h.GetListener()), Policies: policies(f.Gateway.GetPolicies(), h.GetPolicies())}
		for _, r := range rules(base, &waypoint.ServicePort{Http: h.GetHttp(), Stream: h.GetStream(), Routed: true}, "") {
			out = append(out, short(r))
		}
	}
	return out
}

func (f *Facts) listenerPort(name string) uint32 {
	for _, l := range f.Gateway.GetListeners() {
		if l.GetName() == name {
			return l.GetPort()
		}
	}
	return 0
}

// rules are the routes of one port, and what becomes of everything else.
func rules(base Route, p *waypoint.ServicePort, self string) []Route {
	var out []Route
	add := func(match, action, from string) {
		r := base
		r.Match, r.Action, r.From = match, action, from
		out = append(out, r)
	}
	rest := true
	for _, r := range p.GetHttp() {
		matches := []string{}
		for _, m := range r.GetMatches() {
			matches = append(matches, matchText(m))
		}
		if len(matches) == 0 {
			matches = []string{"*"}
		}
		rest = rest && !slices.Contains(matches, "*")
		add(strings.Join(matches, " | "), actionText(r), originText(r.GetOrigin()))
	}
	for _, r := range p.GetStream() {
		match := "*"
		if len(r.GetSni()) > 0 {
			match = "sni " + strings.Join(r.GetSni(), ",")
		} else {
			rest = false
		}
		action := backendsText(r.GetBackends())
		if r.GetBroken() != "" {
			action = "refused: " + r.GetBroken()
		}
		add(match, action, originText(r.GetOrigin()))
	}
	switch {
	case !rest:
	case p.GetRouted() && len(p.GetHttp()) == 0 && len(p.GetStream()) > 0:
		add("(else)", "closed", "")
	case p.GetRouted():
		add("(else)", "404", "")
	default:
		add("*", self, "")
	}
	return out
}

func originText(o *waypoint.Origin) string {
	if o.GetKind() == "" {
		return ""
	}
	return fmt.Sprintf("%s %s/%s", o.GetKind(), o.GetNamespace(), o.GetName())
}

// policies names what is asked before a route is.
func policies(all ...*waypoint.Policies) string {
	var out []string
	for _, p := range all {
		for _, a := range p.GetAuthorization() {
			text := fmt.Sprintf("%s %s/%s", a.GetAction(), a.GetNamespace(), a.GetName())
			switch {
			case a.GetBroken() != "":
				text += " (refuses: " + a.GetBroken() + ")"
			case a.GetDryRun():
				text += " (dry run)"
			}
			out = append(out, text)
		}
		for _, a := range p.GetAuthentication() {
			out = append(out, fmt.Sprintf("JWT %s/%s", a.GetNamespace(), a.GetName()))
		}
		for _, l := range p.GetRateLimits() {
			out = append(out, fmt.Sprintf("LIMIT %s/%s", l.GetNamespace(), l.GetName()))
		}
		for _, x := range p.GetExtensions() {
			out = append(out, fmt.Sprintf("EXTENSION %s/%s", x.GetNamespace(), x.GetName()))
		}
	}
	return strings.Join(out, ", ")
}

func matchText(m *waypoint.HTTPMatch) string {
	var out []string
	add := func(s string) { out = append(out, s) }
	switch k := m.GetPath().GetKind().(type) {
	case *waypoint.PathMatch_Exact:
		add("=" + k.Exact)
	case *waypoint.PathMatch_Prefix:
		add(k.Prefix + "*")
	case *waypoint.PathMatch_Segments:
		add(strings.TrimRight(k.Segments, "/") + "/*")
	case *waypoint.PathMatch_Regex:
		add("~" + k.Regex)
	}
	for name, v := range map[string]*waypoint.StringMatch{"method": m.GetMethod(), "scheme": m.GetScheme(), "authority": m.GetAuthority()} {
		if v != nil {
			add(name + stringText(v, false))
		}
	}
	slices.Sort(out)
	for _, h := range m.GetHeaders() {
		add("header " + h.GetName() + stringText(h.GetValue(), h.GetInvert()))
	}
	for _, q := range m.GetQuery() {
		add("query " + q.GetName() + stringText(q.GetValue(), q.GetInvert()))
	}
	for _, c := range m.GetClaims() {
		add("claim " + strings.Join(c.GetPath(), ".") + stringText(c.GetValue(), c.GetInvert()))
	}
	if ns := m.GetSourceNamespaces(); len(ns) > 0 {
		add("from " + strings.Join(ns, ","))
	}
	if len(out) == 0 {
		return "*"
	}
	return strings.Join(out, " ")
}

func stringText(m *waypoint.StringMatch, invert bool) string {
	eq := "="
	if invert {
		eq = "≠"
	}
	switch k := m.GetKind().(type) {
	case *waypoint.StringMatch_Exact:
		return eq + k.Exact
	case *waypoint.StringMatch_Prefix:
		return eq + k.Prefix + "*"
	case *waypoint.StringMatch_Suffix:
		return eq + "*" + k.Suffix
	case *waypoint.StringMatch_Regex:
		return eq + "~" + k.Regex
	}
	if invert {
		return " absent"
	}
	return " present"
}

func actionText(r *waypoint.HTTPRule) string {
	var out string
	switch a := r.GetAction().(type) {
	case *waypoint.HTTPRule_Forward:
		out = backendsText(a.Forward.GetBackends())
	case *waypoint.HTTPRule_Redirect:
		out = redirectText(a.Redirect)
	case *waypoint.HTTPRule_Direct:
		out = fmt.Sprintf("answer %d", a.Direct.GetStatus())
	}
	if r.GetBroken() != "" {
		return "refused: " + r.GetBroken()
	}
	if w := r.GetRewrite(); w != nil {
		out += rewriteText(w)
	}
	if f := r.GetFault(); f != nil {
		if p := f.GetDelayPerMillion(); p > 0 {
			out += fmt.Sprintf(", delay %s of %v%%", f.GetDelay().AsDuration(), float64(p)/10_000)
		}
		if p := f.GetAbortPerMillion(); p > 0 {
			out += fmt.Sprintf(", abort %d of %v%%", f.GetAbortStatus(), float64(p)/10_000)
		}
	}
	for _, m := range r.GetMirrors() {
		out += ", mirror " + backendText(m.GetTo())
	}
	if t := r.GetTimeout(); t != nil {
		out += ", timeout " + t.AsDuration().String()
	}
	if t := r.GetRetry(); t != nil {
		out += fmt.Sprintf(", retries %d", t.GetAttempts())
	}
	return out
}

// backendsText lists backends with their shares.
func backendsText(backends []*waypoint.Backend) string {
	total := uint32(0)
	for _, b := range backends {
		total += b.GetWeight()
	}
	var out []string
	for _, b := range backends {
		text := backendText(b)
		if len(backends) > 1 && total > 0 {
			text = fmt.Sprintf("%.4g%% %s", 100*float64(b.GetWeight())/float64(total), text)
		}
		if b.GetBroken() != "" {
			text += " (refused: " + b.GetBroken() + ")"
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

func backendText(b *waypoint.Backend) string {
	text := cmp.Or(b.GetHostname(), "nothing")
	if b.GetPort() != 0 { // unknown when the backend was not found
		text += fmt.Sprintf(":%d", b.GetPort())
	}
	if b.GetSubset() != "" {
		text += "/" + b.GetSubset()
	}
	return text
}
