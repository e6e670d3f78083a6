package intake

import (
	"fmt"
	"slices"
	"strings"

	security "istio.io/api/security/v1beta1"
	istiotype "istio.io/api/type/v1beta1"

	"github.com/ambit-mesh/ambit/control/object"
)

func (r *reader) authorizationPolicy(m object.Meta, spec *security.AuthorizationPolicy) *object.AuthorizationPolicy {
	out := &object.AuthorizationPolicy{Meta: m}
	r.policyAction(spec, out)
	out.Selector = r.selector(spec.Selector)
	refs := spec.TargetRefs
	if spec.TargetRef != nil {
		refs = append(slices.Clone(refs), spec.TargetRef)
	}
	claims := 0
	for _, set := range []bool{spec.Selector != nil, spec.TargetRef != nil, len(spec.TargetRefs) > 0} {
		if set {
			claims++
		}
	}
	if claims > 1 {
		r.refuse(at("spec"), "selector, targetRef and targetRefs exclude each other", "keep one of them")
	}
	for i, t := range refs {
		path := at("spec", "targetRefs", i)
		if t == spec.TargetRef {
			path = at("spec", "targetRef")
		}
		out.TargetRefs = append(out.TargetRefs, r.targetRef(t, path, out.Namespace))
	}
	for i, rule := range spec.Rules {
		out.Rules = append(out.Rules, r.rule(rule, at("spec", "rules", i)))
	}
	return out
}

func (r *reader) policyAction(spec *security.AuthorizationPolicy, out *object.AuthorizationPolicy) {
	switch spec.Action {
	case security.AuthorizationPolicy_DENY:
		out.Action = object.Deny
	case security.AuthorizationPolicy_AUDIT:
		out.Action = object.Audit
	case security.AuthorizationPolicy_CUSTOM:
		out.Action = object.Custom
	}
	provider := spec.GetProvider()
	switch {
	case out.Action == object.Custom && provider.GetName() == "":
		r.refuse(at("spec", "provider"), "action CUSTOM needs the name of a provider", "write provider.name")
	case out.Action != object.Custom && provider != nil:
		r.refuse(at("spec", "provider"), "only action CUSTOM has a provider", "remove the field or write action: CUSTOM")
	}
	out.Provider = provider.GetName()
	if len(spec.Rules) == 0 && (out.Action == object.Deny || out.Action == object.Custom) {
		r.refuse(at("spec", "rules"), fmt.Sprintf("a policy with action %s and without rules never acts", out.Action), "add a rule; an empty one, - {}, stands for every request")
	}
}

func (r *reader) selector(in *istiotype.WorkloadSelector) object.Selector {
	if in == nil {
		return object.Selector{}
	}
	r.noWildcards(in.MatchLabels, at("spec", "selector", "matchLabels"))
	return object.Selector{Present: true, Labels: object.MakeLabels(in.MatchLabels)}
}

func (r *reader) targetRef(in *istiotype.PolicyTargetReference, path []any, ns string) object.TargetRef {
	if in.Kind == "" {
		r.refuse(sub(path, "kind"), "the field is missing", "write Service, ServiceEntry, Gateway or GatewayClass")
	}
	if in.Name == "" {
		r.refuse(sub(path, "name"), "the field is missing", "write the name of the object the policy is for")
	}
	if in.Namespace != "" && in.Namespace != ns {
		r.refuse(sub(path, "namespace"), "a policy cannot be for an object of another namespace", "put the policy into namespace "+clip(in.Namespace))
	}
	one := r.d.words.one
	return object.TargetRef{Group: one(in.Group), Kind: one(in.Kind), Namespace: one(in.Namespace), Name: one(in.Name)}
}

func (r *reader) rule(in *security.Rule, path []any) object.Rule {
	var out object.Rule
	for _, key := range []string{"from", "to", "when"} {
		// The difference between "from: []" and no "from" is lost in decoding, and would be one between nobody and all.
		if n := nodeAt(r.root, sub(path, key)); n != nil && kindOf(n) == list && len(n.Content) == 0 {
			r.refuse(sub(path, key), "the list is empty", "add an entry or remove the field")
		}
	}
	for i, f := range in.From {
		p := sub(path, "from", i, "source")
		if f.Source == nil {
			r.refuse(p, "the field is missing", "write source: and what is asked of it")
			continue
		}
		out.From = append(out.From, r.source(f.Source, p))
	}
	for i, t := range in.To {
		p := sub(path, "to", i, "operation")
		if t.Operation == nil {
			r.refuse(p, "the field is missing", "write operation: and what is asked of it")
			continue
		}
		out.To = append(out.To, r.operation(t.Operation, p))
	}
	for i, c := range in.When {
		out.When = append(out.When, r.condition(c, sub(path, "when", i)))
	}
	return out
}

// field is a list of values under its name.
type field struct {
	name   string
	values []string
	check  func(s string, path []any)
}

// fields checks lists of values and refuses when there is none at all.
func (r *reader) fields(path []any, what string, fs []field) {
	any := false
	for _, f := range fs {
		for i, v := range f.values {
			any = true
			p := sub(path, f.name, i)
			if v == "" {
				r.refuse(p, "the value is empty", `write a value; "*" stands for any that is not empty`)
			} else if f.check != nil {
				f.check(v, p)
			}
		}
		if n := nodeAt(r.root, sub(path, f.name)); n != nil && kindOf(n) == list && len(n.Content) == 0 {
			any = true
			r.refuse(sub(path, f.name), "the list is empty", "add a value or remove the field")
		}
	}
	if !any {
		r.refuse(path, "nothing is asked of the "+what, "name at least one field, or remove the entry")
	}
}

func (r *reader) source(in *security.Source, path []any) object.Source {
	r.fields(path, "source", []field{
		{"principals", in.Principals, r.principal}, {"notPrincipals", in.NotPrincipals, r.principal},
		{"requestPrincipals", in.RequestPrincipals, r.pattern}, {"notRequestPrincipals", in.NotRequestPrincipals, r.pattern},
		{"namespaces", in.Namespaces, r.pattern}, {"notNamespaces", in.NotNamespaces, r.pattern},
		{"serviceAccounts", in.ServiceAccounts, r.account}, {"notServiceAccounts", in.NotServiceAccounts, r.account},
		{"ipBlocks", in.IpBlocks, r.block}, {"notIpBlocks", in.NotIpBlocks, r.block},
		{"remoteIpBlocks", in.RemoteIpBlocks, r.block}, {"notRemoteIpBlocks", in.NotRemoteIpBlocks, r.block},
		{"trustDomains", in.TrustDomains, r.pattern}, {"notTrustDomains", in.NotTrustDomains, r.pattern},
	})
	if len(in.ServiceAccounts)+len(in.NotServiceAccounts) > 0 &&
		len(in.Principals)+len(in.NotPrincipals)+len(in.Namespaces)+len(in.NotNamespaces) > 0 {
		r.refuse(path, "serviceAccounts exclude principals and namespaces in the same source", "name the accounts as namespace/account and remove the other fields")
	}
	return object.Source{
		Principals: in.Principals, NotPrincipals: in.NotPrincipals,
		RequestPrincipals: in.RequestPrincipals, NotRequestPrincipals: in.NotRequestPrincipals,
		Namespaces: in.Namespaces, NotNamespaces: in.NotNamespaces,
		ServiceAccounts: in.ServiceAccounts, NotServiceAccounts: in.NotServiceAccounts,
		IPBlocks: in.IpBlocks, NotIPBlocks: in.NotIpBlocks,
		RemoteIPBlocks: in.RemoteIpBlocks, NotRemoteIPBlocks: in.NotRemoteIpBlocks,
		TrustDomains: in.TrustDomains, NotTrustDomains: in.NotTrustDomains,
	}
}

func (r *reader) operation(in *security.Operation, path []any) object.Operation {
	r.fields(path, "operation", []field{
		{"hosts", in.Hosts, r.pattern}, {"notHosts", in.NotHosts, r.pattern},
		{"ports", in.Ports, r.portText}, {"notPorts", in.NotPorts, r.portText},
		{"methods", in.Methods, r.pattern}, {"notMethods", in.NotMethods, r.pattern},
		{"paths", in.Paths, r.pathTemplate}, {"notPaths", in.NotPaths, r.pathTemplate},
	})
	return object.Operation{
		Hosts: in.Hosts, NotHosts: in.NotHosts, Ports: in.Ports, NotPorts: in.NotPorts,
		Methods: in.Methods, NotMethods: in.NotMethods, Paths: in.Paths, NotPaths: in.NotPaths,
	}
}

// pathTemplate checks paths with {*} for one segment or {**} for the rest; others are ordinary values.
// Istio pkg/config/security CheckValidPathTemplate.
func (r *reader) pathTemplate(s string, path []any) {
	if !strings.Contains(s, "{*}") && !strings.Contains(s, "{**}") {
		r.pattern(s, path)
		return
	}
	rest := false
	for segment := range strings.SplitSeq(s, "/") {
		switch {
		case rest && (segment == "{*}" || segment == "{**}"):
			r.refuse(path, fmt.Sprintf("nothing can vary after {**} in %q", clip(s)), "move {**} to the end")
			return
		case segment == "{**}":
			rest = true
		case segment == "{*}":
		case strings.ContainsAny(segment, "{}*"):
			r.refuse(path, fmt.Sprintf("%q is not a path template", clip(s)), "let {*} and {**} stand alone between slashes, without other stars and braces")
			return
		}
	}
}

// pattern warns about stars where they stand for themselves.
func (r *reader) pattern(s string, path []any) {
	inner := s
	if len(s) > 1 {
		inner = strings.TrimPrefix(s, "*")
		if inner == s {
			inner = strings.TrimSuffix(s, "*")
		}
	}
	if s != "*" && strings.Contains(inner, "*") {
		r.warn(path, fmt.Sprintf("only one star at the beginning or the end stands for any text, the others in %q stand for themselves", clip(s)), "list the values, or shorten the pattern")
	}
}

// principal checks an identity. Nothing is refused here that Istio accepts: a policy that is refused does not protect, and
// one with a name that never matches at least says so.
func (r *reader) principal(s string, path []any) {
	r.pattern(s, path)
	if rest, ok := strings.CutPrefix(s, "spiffe://"); ok {
		r.warn(path, "the identity never matches, because names stand here without spiffe://", "write "+clip(rest))
		return
	}
	if strings.Contains(s, "*") {
		return
	}
	if parts := strings.Split(s, "/"); len(parts) != 5 || parts[1] != "ns" || parts[3] != "sa" || slices.Contains(parts, "") {
		r.warn(path, fmt.Sprintf("%q is not the name of a workload's identity and probably never matches", clip(s)), "write it like cluster.local/ns/NAMESPACE/sa/ACCOUNT")
	}
}

func (r *reader) account(s string, path []any) {
	ns, sa, ok := strings.Cut(s, "/")
	if !ok {
		ns, sa = "", s
	}
	switch {
	case len(s) > 320:
		r.refuse(path, fmt.Sprintf("the value has %d characters, at most 320 are allowed", len(s)), "write account or namespace/account")
	case strings.Contains(s, "*"):
		r.refuse(path, "a star means nothing here", "name the account, or use principals or namespaces for patterns")
	case ok && !isLabel(ns), !isSubdomain(sa):
		r.refuse(path, fmt.Sprintf("%q is not the name of a service account", clip(s)), "write account or namespace/account")
	}
}

func (r *reader) block(s string, path []any) {
	p, ok := prefix(s)
	if !ok {
		problem, fix := whyNotPrefix(s)
		r.refuse(path, problem, fix)
	} else if p != p.Masked() {
		r.warn(path, fmt.Sprintf("%s has bits set beyond its length and means %s", p, p.Masked()), "write "+p.Masked().String())
	}
}

// attributes are the keys of conditions; those that end in a bracket take a name in brackets.
var attributes = []string{
	"connection.sni", "destination.ip", "destination.port", "experimental.envoy.filters.", "remote.ip", "request.auth.audiences",
	"request.auth.claims[", "request.auth.presenter", "request.auth.principal", "request.headers[", "source.ip",
	"source.namespace", "source.principal", "source.serviceAccount", "source.trustDomain",
}

func (r *reader) condition(in *security.Condition, path []any) object.Condition {
	key := in.Key
	switch {
	case key == "":
		r.refuse(sub(path, "key"), "the field is missing", "write the attribute that is asked, like source.ip")
	case !knownAttribute(key):
		fix := "write one of " + strings.Join(attributes, ", ")
		if best := nearest(key, attributes); best != "" {
			fix = fmt.Sprintf("did you mean %s?", best)
		}
		r.refuse(sub(path, "key"), fmt.Sprintf("there is no attribute %q", clip(key)), fix)
	}
	check := r.pattern
	switch key {
	case "source.ip", "remote.ip", "destination.ip":
		check = r.block
	case "destination.port":
		check = r.portText
	case "source.principal":
		check = r.principal
	case "source.serviceAccount":
		check = r.account
	}
	r.fields(path, "condition", []field{{"values", in.Values, check}, {"notValues", in.NotValues, check}})
	return object.Condition{Key: r.d.words.one(key), Values: in.Values, NotValues: in.NotValues}
}

func knownAttribute(key string) bool {
	for _, a := range attributes {
		switch a[len(a)-1] {
		case '[':
			if strings.HasPrefix(key, a) && strings.HasSuffix(key, "]") && len(key) > len(a)+1 {
				return true
			}
		case '.':
			if strings.HasPrefix(key, a) && len(key) > len(a) {
				return true
			}
		default:
			if key == a {
				return true
			}
		}
	}
	return false
}

func (r *reader) peerAuthentication(m object.Meta, spec *security.PeerAuthentication) *object.PeerAuthentication {
	out := &object.PeerAuthentication{Meta: m}
	out.Selector = r.selector(spec.Selector)
	out.Mode = mtlsMode(spec.Mtls.GetMode())
	path := at("spec", "portLevelMtls")
	if len(spec.PortLevelMtls) > 0 && len(spec.Selector.GetMatchLabels()) == 0 {
		r.refuse(path, "exceptions for ports need a selector with labels", "add spec.selector.matchLabels, or remove the exceptions")
	}
	if n := nodeAt(r.root, path); n != nil && kindOf(n) == mapping && len(n.Content) == 0 {
		r.refuse(path, "the mapping is empty", "add a port or remove the field")
	}
	for n, m := range spec.PortLevelMtls {
		port, _ := r.port(int64(n), sub(path, fmt.Sprint(n)))
		out.Ports = append(out.Ports, object.PortMode{Port: port, Mode: mtlsMode(m.GetMode())})
	}
	slices.SortFunc(out.Ports, func(a, b object.PortMode) int { return int(a.Port) - int(b.Port) })
	return out
}

func mtlsMode(m security.PeerAuthentication_MutualTLS_Mode) object.MTLSMode {
	switch m {
	case security.PeerAuthentication_MutualTLS_DISABLE:
		return object.Disable
	case security.PeerAuthentication_MutualTLS_PERMISSIVE:
		return object.Permissive
	case security.PeerAuthentication_MutualTLS_STRICT:
		return object.Strict
	}
	return object.Unset
}
