package envoy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	netrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// AuthorizationPolicies become three RBAC filters: AUDIT records, DENY refuses, then ALLOW must agree if there is any.
// CUSTOM comes before them, in extauthz.go. Each filter says in dynamic metadata envoy.filters.http.rbac which policy
// and rule matched: <prefix>enforced_effective_policy_id; a refusal has it in its response code details, too.
const (
	prefixAudit = "audit_"
	prefixDeny  = "deny_"
	prefixAllow = "allow_"
	// Dry runs have Istio's prefixes: pilot/pkg/security/authz/builder/builder.go.
	prefixDryAllow = "istio_dry_run_allow_"
	prefixDryDeny  = "istio_dry_run_deny_"
)

// verdicts is what one RBAC filter enforces, and what it only tries. Nil: nothing.
type verdicts struct {
	prefix, dryPrefix string
	rules, dry        *rbacv3.RBAC
}

func (v *verdicts) empty() bool { return v.rules == nil && v.dry == nil }

// add has the filter know of a policy, and of its rules.
func (v *verdicts) add(action rbacv3.RBAC_Action, dry bool, policies map[string]*rbacv3.Policy) {
	to := &v.rules
	if dry {
		to = &v.dry
	}
	if *to == nil {
		*to = &rbacv3.RBAC{Action: action, Policies: map[string]*rbacv3.Policy{}}
	}
	maps.Copy((*to).Policies, policies)
}

func (v *verdicts) http() *httprbacv3.RBAC {
	out := &httprbacv3.RBAC{Rules: v.rules, RulesStatPrefix: v.prefix}
	if v.dry != nil {
		out.ShadowRules, out.ShadowRulesStatPrefix = v.dry, v.dryPrefix
	}
	return out
}

func (v *verdicts) network() *netrbacv3.RBAC {
	out := &netrbacv3.RBAC{Rules: v.rules, StatPrefix: v.prefix}
	if v.dry != nil {
		out.ShadowRules, out.ShadowRulesStatPrefix = v.dry, v.dryPrefix
	}
	return out
}

// authorization is all AuthorizationPolicies of a target.
type authorization struct {
	audit, deny, allow verdicts
	custom             []*customRules
	problems           []Problem
}

// customRules say which requests are for one external authorizer.
type customRules struct {
	authorizer *waypoint.ExternalAuthorizer
	rules      map[string]*rbacv3.Policy
}

// authorize reads the policies of a target, for its requests or for its connections.
func (e *Env) authorize(t target, tcp bool) *authorization {
	return e.authorizeBy(t, ruleMaker{tcp: tcp})
}

// authorizeConnect reads them as far as they can be evaluated when a CONNECT comes.
func (e *Env) authorizeConnect(t target) *authorization {
	return e.authorizeBy(t, ruleMaker{tcp: true, early: true})
}

func (e *Env) authorizeBy(t target, base ruleMaker) *authorization {
	a := &authorization{
		audit: verdicts{prefix: prefixAudit},
		deny:  verdicts{prefix: prefixDeny, dryPrefix: prefixDryDeny},
		allow: verdicts{prefix: prefixAllow, dryPrefix: prefixDryAllow},
	}
	base.trustDomains, base.port, base.edge = e.trustDomains(), t.port, t.edge
	if svc := e.Service(t.namespace, t.hostname); svc != nil {
		base.addresses = e.addresses(svc)
	}
	seen := map[string]bool{}
	for _, some := range t.policies {
		for _, p := range some.GetAuthorization() {
			// A policy that names both the Gateway and the service is one policy.
			if key := policyName(p, ""); !seen[key] {
				seen[key] = true
				a.add(base, p)
			}
		}
	}
	return a
}

func policyName(p *waypoint.Authorization, rest string) string {
	return fmt.Sprintf("ns[%s]-policy[%s]%s", p.GetNamespace(), p.GetName(), rest)
}

// add expands one policy. One that cannot be evaluated refuses everything: nobody can say what it was to keep out.
func (a *authorization) add(base ruleMaker, p *waypoint.Authorization) {
	object := "AuthorizationPolicy " + p.GetNamespace() + "/" + p.GetName()
	maker := base
	maker.widen = p.GetAction() != waypoint.Authorization_ALLOW
	maker.tokens = p.GetAction() != waypoint.Authorization_CUSTOM
	policies, err := maker.all(p)
	if p.GetBroken() != "" && p.GetAction() != waypoint.Authorization_CUSTOM {
		err = errors.New(p.GetBroken())
	}
	if err != nil {
		a.refuse(p, err)
		a.problems = append(a.problems, Problem{Object: object, Text: consequence(p) + err.Error()})
		return
	}
	for _, name := range slices.Sorted(maps.Keys(maker.skipped)) {
		a.problems = append(a.problems, Problem{Object: object, Text: skippedText(name, maker)})
	}
	switch p.GetAction() {
	case waypoint.Authorization_ALLOW:
		a.allow.add(rbacv3.RBAC_ALLOW, p.GetDryRun(), policies)
	case waypoint.Authorization_DENY:
		if len(policies) > 0 {
			a.deny.add(rbacv3.RBAC_DENY, p.GetDryRun(), policies)
		}
	case waypoint.Authorization_AUDIT:
		if len(policies) > 0 && !p.GetDryRun() {
			a.audit.add(rbacv3.RBAC_LOG, false, policies)
		}
	case waypoint.Authorization_CUSTOM:
		if p.GetDryRun() {
			a.problems = append(a.problems, Problem{Object: object, Text: "a dry run of a CUSTOM policy asks nobody: it has no effect"})
			return
		}
		if err := checkAuthorizer(p, base.tcp); err != nil {
			// Nobody can be asked: what the authorizer was to decide is refused, and only that.
			a.deny.add(rbacv3.RBAC_DENY, false, policies)
			a.problems = append(a.problems, Problem{Object: object, Text: "what its rules match is refused: " + err.Error()})
			return
		}
		a.addCustom(p.GetAuthorizer(), policies)
	default:
		a.refuse(p, errUnknownAction)
		a.problems = append(a.problems, Problem{Object: object, Text: consequence(p) + errUnknownAction.Error()})
	}
}

var errUnknownAction = fmt.Errorf("this version does not know its action: upgrade the waypoint")

// all makes the RBAC policies of a policy's rules.
func (r *ruleMaker) all(p *waypoint.Authorization) (map[string]*rbacv3.Policy, error) {
	out := map[string]*rbacv3.Policy{}
	for i, rule := range p.GetRules() {
		policy, err := r.policy(rule)
		if err != nil {
			return nil, fmt.Errorf("rule %d: %w", i, err)
		}
		if policy != nil {
			out[policyName(p, fmt.Sprintf("-rule[%d]", i))] = policy
		}
	}
	return out, nil
}

// refuse stands in for a policy that cannot be evaluated. Its reason is part of its name, which is what a refusal shows.
func (a *authorization) refuse(p *waypoint.Authorization, why error) {
	if p.GetAction() == waypoint.Authorization_AUDIT {
		return // it lets nobody in and keeps nobody out
	}
	a.deny.add(rbacv3.RBAC_DENY, p.GetDryRun(), map[string]*rbacv3.Policy{
		policyName(p, "-broken["+oneWord(why.Error())+"]"): everything(),
	})
}

// everything is a policy that always matches.
func everything() *rbacv3.Policy {
	return &rbacv3.Policy{
		Permissions: []*rbacv3.Permission{permission.any()},
		Principals:  []*rbacv3.Principal{principal.any()},
	}
}

func consequence(p *waypoint.Authorization) string {
	switch {
	case p.GetAction() == waypoint.Authorization_AUDIT:
		return "it records nothing: "
	case p.GetDryRun():
		return "its dry run refuses everything: "
	}
	return "everything it could be about is refused: "
}

func skippedText(field string, r ruleMaker) string {
	if r.widen {
		return fmt.Sprintf("%s cannot be looked at (%v): rules with it are in force without it and match more", field, r.skipped[field])
	}
	return fmt.Sprintf("%s cannot be looked at (%v): rules with it never match", field, r.skipped[field])
}

// oneWord makes a text fit to be part of a policy's name.
func oneWord(s string) string {
	if len(s) > 120 {
		s = s[:120]
	}
	return strings.Map(func(c rune) rune {
		if c <= ' ' || c > '~' || strings.ContainsRune("[]{}%\"'", c) {
			return '_'
		}
		return c
	}, s)
}
