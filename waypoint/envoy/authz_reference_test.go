package envoy_test

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// A second opinion on AuthorizationPolicy, written from its documentation and without a look at Envoy: it evaluates one
// request the slow and obvious way.

// visit is one request, with all that a policy may ask about.
type visit struct {
	trustDomain, namespace, account string
	ip                              string
	xff                             string // what the client says it is, "" for nothing
	host, method, path              string
	headers                         map[string]string
	token                           map[string]any // claims; nil without a token
	vip                             string
	port                            uint32
}

func (v visit) principal() string {
	return v.trustDomain + "/ns/" + v.namespace + "/sa/" + v.account
}

var referenceDomains = []string{"cluster.local", "old.example"}

// permitted is the verdict of all policies together.
func permitted(v visit, policies []*waypoint.Authorization) bool {
	allows, allowed := false, false
	for _, p := range policies {
		if p.GetDryRun() {
			continue
		}
		hit := slices.ContainsFunc(p.GetRules(), func(r *waypoint.AuthorizationRule) bool { return v.fits(r) })
		switch p.GetAction() {
		case waypoint.Authorization_DENY:
			if hit {
				return false
			}
		case waypoint.Authorization_ALLOW:
			allows, allowed = true, allowed || hit
		}
	}
	return allowed || !allows
}

func (v visit) fits(r *waypoint.AuthorizationRule) bool {
	source := len(r.GetFrom()) == 0 || slices.ContainsFunc(r.GetFrom(), v.comesFrom)
	operation := len(r.GetTo()) == 0 || slices.ContainsFunc(r.GetTo(), v.does)
	if !source || !operation {
		return false
	}
	for _, c := range r.GetWhen() {
		if len(c.GetValues()) > 0 && !v.attribute(c.GetKey(), c.GetValues()) {
			return false
		}
		if len(c.GetNotValues()) > 0 && v.attribute(c.GetKey(), c.GetNotValues()) {
			return false
		}
	}
	return true
}

// both is "any of these if there are any, and none of those".
func both[V any](these, those []V, is func(V) bool) bool {
	return (len(these) == 0 || slices.ContainsFunc(these, is)) && !slices.ContainsFunc(those, is)
}

func text(value string) func(*waypoint.StringMatch) bool {
	return func(m *waypoint.StringMatch) bool { return textIs(value, m, false) }
}

func textIs(value string, m *waypoint.StringMatch, fold bool) bool {
	lower := func(s string) string {
		if fold {
			return strings.ToLower(s)
		}
		return s
	}
	value = lower(value)
	switch k := m.GetKind().(type) {
	case *waypoint.StringMatch_Exact:
		return value == lower(k.Exact)
	case *waypoint.StringMatch_Prefix:
		return strings.HasPrefix(value, lower(k.Prefix))
	case *waypoint.StringMatch_Suffix:
		return strings.HasSuffix(value, lower(k.Suffix))
	case *waypoint.StringMatch_Present:
		return value != ""
	}
	return false
}

func (v visit) comesFrom(s *waypoint.Source) bool {
	in := func(ip string) func(string) bool {
		return func(block string) bool { return contains(block, ip) }
	}
	account := func(s string) bool { return s == v.namespace+"/"+v.account }
	return both(s.GetPrincipals(), s.GetNotPrincipals(), v.isPrincipal) &&
		both(s.GetNamespaces(), s.GetNotNamespaces(), text(v.namespace)) &&
		both(s.GetTrustDomains(), s.GetNotTrustDomains(), text(v.trustDomain)) &&
		both(s.GetServiceAccounts(), s.GetNotServiceAccounts(), account) &&
		both(s.GetRequestPrincipals(), s.GetNotRequestPrincipals(), v.isRequestPrincipal) &&
		both(s.GetIpBlocks(), s.GetNotIpBlocks(), in(v.ip)) &&
		both(s.GetRemoteIpBlocks(), s.GetNotRemoteIpBlocks(), in(v.remote()))
}

func (v visit) remote() string {
	if v.xff != "" {
		return v.xff
	}
	return v.ip
}

func contains(block, ip string) bool {
	a := netip.MustParseAddr(ip)
	if p, err := netip.ParsePrefix(block); err == nil {
		return p.Contains(a)
	}
	return netip.MustParseAddr(block) == a
}

// isPrincipal takes a principal of one of our trust domains for the same of the others.
func (v visit) isPrincipal(m *waypoint.StringMatch) bool {
	if text(v.principal())(m) {
		return true
	}
	value := m.GetExact() + m.GetPrefix()
	domain, _, whole := strings.Cut(value, "/")
	if !whole || !slices.Contains(referenceDomains, domain) {
		return false
	}
	v.trustDomain = domain
	return text(v.principal())(m)
}

func (v visit) isRequestPrincipal(m *waypoint.StringMatch) bool {
	iss, _ := v.token["iss"].(string)
	sub, _ := v.token["sub"].(string)
	return iss != "" && sub != "" && text(iss+"/"+sub)(m)
}

func (v visit) does(o *waypoint.Operation) bool {
	host := func(m *waypoint.StringMatch) bool { return textIs(v.host, m, true) }
	port := func(p uint32) bool { return p == v.port }
	path := func(m *waypoint.StringMatch) bool { return text(v.path)(m) }
	like := func(t string) bool { return template(t, v.path) }
	paths := len(o.GetPaths())+len(o.GetPathTemplates()) == 0 ||
		slices.ContainsFunc(o.GetPaths(), path) || slices.ContainsFunc(o.GetPathTemplates(), like)
	notPaths := slices.ContainsFunc(o.GetNotPaths(), path) || slices.ContainsFunc(o.GetNotPathTemplates(), like)
	return both(o.GetHosts(), o.GetNotHosts(), host) && both(o.GetPorts(), o.GetNotPorts(), port) &&
		both(o.GetMethods(), o.GetNotMethods(), text(v.method)) && paths && !notPaths
}

// template compares segment by segment; {**} stands for what is left.
func template(t, path string) bool {
	switch {
	case t == "":
		return path == ""
	case strings.HasPrefix(t, "{**}"):
		for i := range len(path) + 1 {
			if template(t[4:], path[i:]) {
				return true
			}
		}
		return false
	case strings.HasPrefix(t, "{*}"):
		end := strings.IndexByte(path+"/", '/')
		return end > 0 && template(t[3:], path[end:])
	}
	return path != "" && t[0] == path[0] && template(t[1:], path[1:])
}

func (v visit) attribute(key string, values []*waypoint.StringMatch) bool {
	one := func(value string) bool { return slices.ContainsFunc(values, text(value)) }
	block := func(ip string) bool {
		return slices.ContainsFunc(values, func(m *waypoint.StringMatch) bool { return contains(m.GetExact(), ip) })
	}
	switch key {
	case "source.ip":
		return block(v.ip)
	case "remote.ip":
		return block(v.remote())
	case "source.namespace":
		return one(v.namespace)
	case "source.principal":
		return slices.ContainsFunc(values, v.isPrincipal)
	case "source.serviceAccount":
		return one(v.namespace + "/" + v.account)
	case "destination.ip":
		return block(v.vip)
	case "destination.port":
		return one(strconv.Itoa(int(v.port)))
	case "request.auth.principal":
		return slices.ContainsFunc(values, v.isRequestPrincipal)
	case "request.auth.audiences":
		return claimIs(v.token["aud"], values)
	case "request.auth.presenter":
		return claimIs(v.token["azp"], values)
	}
	if name, ok := strings.CutPrefix(key, "request.headers["); ok {
		value, there := v.headers[strings.TrimSuffix(name, "]")]
		return there && one(value)
	}
	path := strings.Split(strings.TrimSuffix(strings.TrimPrefix(key, "request.auth.claims["), "]"), "][")
	var at any = v.token
	for _, p := range path {
		m, _ := at.(map[string]any)
		at = m[p]
	}
	return claimIs(at, values)
}

// claimIs is true for a text, or a list with a text, that one of the values fits.
func claimIs(claim any, values []*waypoint.StringMatch) bool {
	switch c := claim.(type) {
	case string:
		return slices.ContainsFunc(values, text(c))
	case []string:
		return slices.ContainsFunc(c, func(s string) bool { return claimIs(s, values) })
	}
	return false
}
