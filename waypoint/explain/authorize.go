package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// peer is who a certificate says the other side is.
type peer struct {
	known                               bool
	trustDomain, namespace, account, id string // id is written without spiffe://
}

func parsePeer(uri string) peer {
	id, ok := strings.CutPrefix(uri, "spiffe://")
	parts := strings.Split(id, "/")
	if !ok || len(parts) != 5 || parts[1] != "ns" || parts[3] != "sa" {
		return peer{}
	}
	return peer{true, parts[0], parts[2], parts[4], id}
}

// custom names the external authorizers that are asked.
func (w *walk) custom(all []*waypoint.Policies) bool {
	for _, p := range each(all, waypoint.Authorization_CUSTOM) {
		if p.GetDryRun() {
			w.step("policy", Pass, policyName(p), "is a dry run, which asks nobody")
			continue
		}
		rule, ok := w.anyRule(p)
		if ok && p.GetBroken() != "" {
			return w.deny("policy", ruleName(p, rule), "matches, and nobody can be asked: "+p.GetBroken(), 403)
		}
		if ok {
			w.step("policy", Open, ruleName(p, rule), "asks the external authorizer "+strconv.Quote(p.GetAuthorizer().GetName())+", whose answer decides")
		}
	}
	return true
}

// authorize evaluates DENY, then ALLOW policies. Istio AuthorizationPolicy, order of actions.
func (w *walk) authorize(all []*waypoint.Policies) bool {
	for _, p := range each(all, waypoint.Authorization_AUDIT) {
		if rule, ok := w.anyRule(p); ok {
			w.step("policy", Pass, ruleName(p, rule), "is audited")
		}
	}
	for _, p := range each(all, waypoint.Authorization_DENY) {
		if p.GetBroken() != "" && !p.GetDryRun() {
			return w.deny("policy", policyName(p), p.GetBroken(), 403)
		}
		rule, ok := w.anyRule(p)
		switch {
		case ok && p.GetDryRun():
			w.step("policy", Pass, ruleName(p, rule), "would deny, if it was no dry run")
		case ok:
			return w.deny("policy", ruleName(p, rule), "matches, and denies", 403)
		}
	}
	var asked []string
	for _, p := range each(all, waypoint.Authorization_ALLOW) {
		rule, ok := w.anyRule(p)
		switch {
		case p.GetDryRun():
			w.step("policy", Pass, policyName(p), fmt.Sprintf("is a dry run; it would allow this: %t", ok))
		case p.GetBroken() != "":
			return w.deny("policy", policyName(p), p.GetBroken(), 403)
		case ok:
			w.step("policy", Pass, ruleName(p, rule), "matches, and allows")
			return true
		default:
			asked = append(asked, policyName(p))
		}
	}
	if len(asked) > 0 {
		return w.deny("policy", strings.Join(asked, ", "), "ALLOW policies exist, and none of their rules matches", 403)
	}
	return true
}

// extensions finds those that cannot be carried out and may not be left out. What the others do is theirs to know.
func (w *walk) extensions(all []*waypoint.Policies) bool {
	for _, ps := range all {
		for _, x := range ps.GetExtensions() {
			if x.GetBroken() != "" && !x.GetFailOpen() {
				return w.deny("policy", x.GetNamespace()+"/"+x.GetName(), x.GetBroken(), 503)
			}
		}
	}
	return true
}

// each lists the policies of one action.
func each(all []*waypoint.Policies, action waypoint.Authorization_Action) []*waypoint.Authorization {
	var out []*waypoint.Authorization
	for _, ps := range all {
		for _, p := range ps.GetAuthorization() {
			if p.GetAction() == action {
				out = append(out, p)
			}
		}
	}
	return out
}

func policyName(p *waypoint.Authorization) string {
	return "AuthorizationPolicy " + p.GetNamespace() + "/" + p.GetName()
}

func ruleName(p *waypoint.Authorization, rule int) string {
	return fmt.Sprintf("%s rule %d", policyName(p), rule)
}

// anyRule finds the first rule that matches.
func (w *walk) anyRule(p *waypoint.Authorization) (int, bool) {
	for i, r := range p.GetRules() {
		if w.ruleMatches(r, p.GetAction() != waypoint.Authorization_ALLOW) {
			return i, true
		}
	}
	return 0, false
}

// ruleMatches: one of from, one of to, all of when. What a connection without requests cannot be asked makes a rule that
// allows match nothing, and is left out of a rule that denies.
func (w *walk) ruleMatches(r *waypoint.AuthorizationRule, denies bool) bool {
	if w.req.TCP && needsRequest(r) {
		if !denies {
			return false
		}
		r = withoutRequest(r)
	}
	if len(r.GetFrom()) > 0 && !slices.ContainsFunc(r.GetFrom(), w.sourceMatches) {
		return false
	}
	if len(r.GetTo()) > 0 && !slices.ContainsFunc(r.GetTo(), w.operationMatches) {
		return false
	}
	return !slices.ContainsFunc(r.GetWhen(), func(c *waypoint.Condition) bool { return !w.conditionMatches(c) })
}

func (w *walk) sourceMatches(s *waypoint.Source) bool {
	p := w.peer
	principals := requestPrincipals(w.tokens)
	account := p.namespace + "/" + p.account
	switch {
	case len(s.GetPrincipals()) > 0 && !w.isPrincipal(s.GetPrincipals()), w.isPrincipal(s.GetNotPrincipals()),
		!asked(s.GetNamespaces(), s.GetNotNamespaces(), p.namespace, p.known),
		!asked(s.GetTrustDomains(), s.GetNotTrustDomains(), p.trustDomain, p.known),
		len(s.GetServiceAccounts()) > 0 && !slices.Contains(s.GetServiceAccounts(), account),
		slices.Contains(s.GetNotServiceAccounts(), account),
		len(s.GetIpBlocks()) > 0 && !within(s.GetIpBlocks(), w.req.Client),
		within(s.GetNotIpBlocks(), w.req.Client),
		len(s.GetRemoteIpBlocks()) > 0 && !within(s.GetRemoteIpBlocks(), w.remote()),
		within(s.GetNotRemoteIpBlocks(), w.remote()),
		!listAsked(s.GetRequestPrincipals(), s.GetNotRequestPrincipals(), principals):
		return false
	}
	return true
}

// isPrincipal compares the peer's id as it is, and in each of our trust domains if its own is one of them.
// Istio pilot/pkg/security/trustdomain ReplaceTrustDomainAliases.
func (w *walk) isPrincipal(ms []*waypoint.StringMatch) bool {
	if !w.peer.known {
		return false
	}
	ids := []string{w.peer.id}
	domains := w.env.Gateway.GetTrustDomains()
	if rest, ok := strings.CutPrefix(w.peer.id, w.peer.trustDomain); ok && slices.Contains(domains, w.peer.trustDomain) {
		for _, d := range domains {
			ids = append(ids, d+rest)
		}
	}
	return slices.ContainsFunc(ids, func(id string) bool { return anyMatches(ms, id) })
}

// listAsked is asked for something that may have several values.
func listAsked(want, not []*waypoint.StringMatch, values []string) bool {
	has := func(ms []*waypoint.StringMatch) bool {
		return slices.ContainsFunc(values, func(v string) bool { return anyMatches(ms, v) })
	}
	return (len(want) == 0 || has(want)) && !has(not)
}

func (w *walk) operationMatches(o *waypoint.Operation) bool {
	r := &w.req
	host := func(ms []*waypoint.StringMatch) bool {
		return slices.ContainsFunc(ms, func(m *waypoint.StringMatch) bool { return matches(m, r.Authority, true) })
	}
	p := r.path()
	path := func(ms []*waypoint.StringMatch, templates []string) bool {
		return anyMatches(ms, p) || slices.ContainsFunc(templates, func(t string) bool { return fits(t, p) })
	}
	switch {
	case len(o.GetPorts()) > 0 && !slices.Contains(o.GetPorts(), r.Port), slices.Contains(o.GetNotPorts(), r.Port),
		len(o.GetHosts()) > 0 && !host(o.GetHosts()), host(o.GetNotHosts()),
		!asked(o.GetMethods(), o.GetNotMethods(), r.Method, !r.TCP),
		len(o.GetPaths())+len(o.GetPathTemplates()) > 0 && !path(o.GetPaths(), o.GetPathTemplates()),
		path(o.GetNotPaths(), o.GetNotPathTemplates()):
		return false
	}
	return true
}

func (w *walk) conditionMatches(c *waypoint.Condition) bool {
	values := w.attribute(c.GetKey())
	if ip, ok := w.addressOf(c.GetKey()); ok {
		in := func(ms []*waypoint.StringMatch) bool {
			return slices.ContainsFunc(ms, func(m *waypoint.StringMatch) bool { return within([]string{m.GetExact()}, ip) })
		}
		return (len(c.GetValues()) == 0 || in(c.GetValues())) && !in(c.GetNotValues())
	}
	return listAsked(c.GetValues(), c.GetNotValues(), values)
}

func (w *walk) addressOf(key string) (netip.Addr, bool) {
	switch key {
	case "source.ip":
		return w.req.Client, true
	case "remote.ip":
		return w.remote(), true
	case "destination.ip":
		return w.req.Destination, true
	}
	return netip.Addr{}, false
}

// remote is the client that X-Forwarded-For leads to. Behind a gateway its last entry is the gateway's; at the edge only
// the entries of trusted proxies count. Envoy, use_remote_address and xff_num_trusted_hops.
func (w *walk) remote() netip.Addr {
	v, ok := w.req.header("x-forwarded-for")
	if !ok || w.req.TCP {
		return w.req.Client
	}
	entries := strings.Split(v, ",")
	at := len(entries) - 1
	if w.env.Gateway.GetKind() == waypoint.Gateway_EDGE {
		trusted := int(w.env.Gateway.GetMesh().GetTrustedProxies())
		if at = len(entries) - trusted; trusted == 0 || at < 0 {
			return w.req.Client
		}
	}
	if a, err := netip.ParseAddr(strings.TrimSpace(entries[at])); err == nil {
		return a.Unmap()
	}
	return w.req.Client
}

// attribute is the values of a key of when. Istio Authorization Policy Conditions.
func (w *walk) attribute(key string) []string {
	if name, ok := inBrackets(key, "request.headers"); ok && len(name) == 1 {
		if v, has := w.req.header(name[0]); has {
			return []string{v}
		}
		return nil
	}
	if path, ok := inBrackets(key, "request.auth.claims"); ok {
		return w.claim(path)
	}
	if !w.peer.known && strings.HasPrefix(key, "source.") {
		return nil
	}
	switch key {
	case "source.namespace":
		return []string{w.peer.namespace}
	case "source.principal":
		return []string{w.peer.id}
	case "source.serviceAccount":
		return []string{w.peer.namespace + "/" + w.peer.account}
	case "source.trustDomain":
		return []string{w.peer.trustDomain}
	case "request.auth.principal":
		return requestPrincipals(w.tokens)
	case "request.auth.audiences":
		return w.claim([]string{"aud"})
	case "request.auth.presenter":
		return w.claim([]string{"azp"})
	case "destination.port":
		return []string{strconv.Itoa(int(w.req.Port))}
	case "connection.sni":
		return []string{w.req.SNI}
	}
	return nil
}

// inBrackets takes apart a key like request.auth.claims[a][b].
func inBrackets(key, head string) ([]string, bool) {
	rest, ok := strings.CutPrefix(key, head+"[")
	rest, closed := strings.CutSuffix(rest, "]")
	if !ok || !closed {
		return nil, false
	}
	return strings.Split(rest, "]["), true
}

// needsRequest reports whether a rule asks for something only a request has.
func needsRequest(r *waypoint.AuthorizationRule) bool {
	return slices.ContainsFunc(r.GetFrom(), sourceNeedsRequest) || slices.ContainsFunc(r.GetTo(), operationNeedsRequest) ||
		slices.ContainsFunc(r.GetWhen(), conditionNeedsRequest)
}

func sourceNeedsRequest(s *waypoint.Source) bool {
	return len(s.GetRequestPrincipals())+len(s.GetNotRequestPrincipals())+len(s.GetRemoteIpBlocks())+len(s.GetNotRemoteIpBlocks()) > 0
}

func operationNeedsRequest(o *waypoint.Operation) bool {
	return len(o.GetHosts())+len(o.GetNotHosts())+len(o.GetMethods())+len(o.GetNotMethods())+len(o.GetPaths())+len(o.GetNotPaths())+
		len(o.GetPathTemplates())+len(o.GetNotPathTemplates()) > 0
}

func conditionNeedsRequest(c *waypoint.Condition) bool {
	return strings.HasPrefix(c.GetKey(), "request.")
}

// withoutRequest is what remains of a rule that denies. An operation that is about requests alone remains as every one.
func withoutRequest(r *waypoint.AuthorizationRule) *waypoint.AuthorizationRule {
	out := &waypoint.AuthorizationRule{}
	for _, s := range r.GetFrom() {
		out.From = append(out.From, &waypoint.Source{
			Principals: s.GetPrincipals(), NotPrincipals: s.GetNotPrincipals(), Namespaces: s.GetNamespaces(), NotNamespaces: s.GetNotNamespaces(),
			ServiceAccounts: s.GetServiceAccounts(), NotServiceAccounts: s.GetNotServiceAccounts(), IpBlocks: s.GetIpBlocks(), NotIpBlocks: s.GetNotIpBlocks(),
			TrustDomains: s.GetTrustDomains(), NotTrustDomains: s.GetNotTrustDomains(),
		})
	}
	for _, o := range r.GetTo() {
		out.To = append(out.To, &waypoint.Operation{Ports: o.GetPorts(), NotPorts: o.GetNotPorts()})
	}
	for _, c := range r.GetWhen() {
		if !conditionNeedsRequest(c) {
			out.When = append(out.When, c)
		}
	}
	return out
}
