package intake

import (
	"encoding/json"
	"fmt"
	"slices"

	security "istio.io/api/security/v1beta1"
	istiotype "istio.io/api/type/v1beta1"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/object"
)

// maxKeySet bounds a key set in the YAML.
const maxKeySet = 256 << 10

// policyTargets converts what a policy of Istio is for: a selector or references, not both.
func (r *reader) policyTargets(sel *istiotype.WorkloadSelector, one *istiotype.PolicyTargetReference, many []*istiotype.PolicyTargetReference, namespace string) (object.Selector, []object.TargetRef) {
	claims := 0
	for _, set := range []bool{sel != nil, one != nil, len(many) > 0} {
		if set {
			claims++
		}
	}
	if claims > 1 {
		r.refuse(at("spec"), "selector, targetRef and targetRefs exclude each other", "keep one of them")
	}
	if !r.fewer(len(many), maxRouteItems, at("spec", "targetRefs"), "target") {
		return object.Selector{}, nil
	}
	var out []object.TargetRef
	for i, t := range many {
		out = append(out, r.targetRef(t, at("spec", "targetRefs", i), namespace))
	}
	if one != nil {
		out = append(out, r.targetRef(one, at("spec", "targetRef"), namespace))
	}
	return r.selector(sel), out
}

// requestAuthentication converts a RequestAuthentication. Istio pkg/config/validation ValidateRequestAuthentication.
func (r *reader) requestAuthentication(m object.Meta, spec *security.RequestAuthentication) *object.RequestAuthentication {
	out := &object.RequestAuthentication{Meta: m}
	out.Selector, out.TargetRefs = r.policyTargets(spec.Selector, spec.TargetRef, spec.TargetRefs, m.Namespace)
	if len(spec.JwtRules) == 0 {
		r.warn(at("spec", "jwtRules"), "the policy says nothing: there is no issuer", "add an entry with issuer")
	}
	if !r.fewer(len(spec.JwtRules), maxValues, at("spec", "jwtRules"), "issuer") {
		return nil
	}
	for i, j := range spec.JwtRules {
		out.Rules = append(out.Rules, r.jwtRule(j, at("spec", "jwtRules", i)))
	}
	r.leftOut(spec)
	return out
}

func (r *reader) jwtRule(in *security.JWTRule, path []any) object.JWTRule {
	rule := &waypoint.JWTRule{
		Issuer: in.Issuer, Audiences: in.Audiences, Jwks: in.Jwks, FromParams: in.FromParams, FromCookies: in.FromCookies,
		ForwardOriginalToken: in.ForwardOriginalToken,
	}
	out := object.JWTRule{Rule: rule, JWKSURI: in.JwksUri}
	if n := len(in.Audiences) + len(in.FromHeaders) + len(in.FromParams) + len(in.FromCookies) + len(in.OutputClaimToHeaders); !r.fewer(n, maxValues, path, "value") {
		return out
	}
	if in.Issuer == "" {
		r.refuse(sub(path, "issuer"), "the field is missing", "write who issues the tokens, as in their claim iss")
	}
	for name, values := range map[string][]string{"audiences": in.Audiences, "fromParams": in.FromParams, "fromCookies": in.FromCookies} {
		if i := slices.Index(values, ""); i >= 0 {
			r.refuse(sub(path, name, i), "the value is empty", "write a value, or remove the entry")
		}
	}
	switch {
	case in.Jwks != "" && in.JwksUri != "":
		r.refuse(sub(path, "jwks"), "jwks and jwksUri exclude each other", "keep one of the two")
	case in.Jwks != "":
		r.keySet(in.Jwks, sub(path, "jwks"))
	case in.JwksUri != "":
		r.webAddress(in.JwksUri, sub(path, "jwksUri"), "http", "https")
	default:
		r.webAddressHint(in.Issuer, path)
	}
	for i, h := range in.FromHeaders {
		rule.FromHeaders = append(rule.FromHeaders, &waypoint.JWTRule_FromHeader{Name: r.header(h.Name, sub(path, "fromHeaders", i, "name")), Prefix: h.Prefix})
	}
	if in.OutputPayloadToHeader != "" {
		rule.OutputPayloadToHeader = r.header(in.OutputPayloadToHeader, sub(path, "outputPayloadToHeader"))
	}
	for i, c := range in.OutputClaimToHeaders {
		p := sub(path, "outputClaimToHeaders", i)
		if c.Claim == "" {
			r.refuse(sub(p, "claim"), "the field is missing", "write the name of a claim")
		}
		name := r.header(c.Header, sub(p, "header"))
		if rule.OutputClaimsToHeaders == nil {
			rule.OutputClaimsToHeaders = make(map[string]string)
		}
		if _, twice := rule.OutputClaimsToHeaders[name]; twice {
			r.refuse(sub(p, "header"), fmt.Sprintf("the header %q stands twice", clip(name)), "choose another name")
		}
		rule.OutputClaimsToHeaders[name] = c.Claim
	}
	if d := r.duration(in.Timeout, sub(path, "timeout"), false); d != nil {
		out.Timeout = d.AsDuration()
	}
	return out
}

// webAddressHint warns when keys can be found neither by an address nor by the issuer's name.
func (r *reader) webAddressHint(issuer string, path []any) {
	if len(issuer) < 8 || issuer[:8] != "https://" {
		r.warn(path, "there is no key set, and the issuer is no https address to ask for one: its tokens are refused", "write jwksUri or jwks")
	}
}

// keySet checks JSON with keys, RFC 7517 section 5.
func (r *reader) keySet(s string, path []any) {
	var set struct {
		Keys []struct {
			Kty string `json:"kty"`
			K   string `json:"k"`
			D   string `json:"d"`
		} `json:"keys"`
	}
	if len(s) > maxKeySet {
		r.refuse(path, fmt.Sprintf("the key set has %d characters, at most %d are allowed", len(s), maxKeySet), "remove old keys")
		return
	}
	if err := json.Unmarshal([]byte(s), &set); err != nil {
		r.refuse(path, "the key set is not JSON of the form of RFC 7517", `write it like {"keys":[...]}`)
		return
	}
	if len(set.Keys) == 0 {
		r.refuse(path, "the key set has no keys", `write it like {"keys":[...]}`)
	}
	verifies := false
	for _, k := range set.Keys {
		if k.Kty == "" {
			r.refuse(path, "a key has no kty", "write keys as RFC 7517 has them")
			return
		}
		if k.D != "" {
			r.warn(path, "a private key stands in the policy, where everybody can read it", "leave only the public part, and make a new key")
			return
		}
		verifies = verifies || k.Kty == "RSA" || k.Kty == "EC" || k.Kty == "OKP"
	}
	if len(set.Keys) > 0 && !verifies {
		r.warn(path, "no key of the set is of a kind that signatures are verified with: the issuer's tokens are refused", "write its public keys, of kty RSA, EC or OKP")
	}
}
