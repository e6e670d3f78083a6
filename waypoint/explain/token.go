package explain

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// token is a JWT that was accepted.
type token struct {
	issuer, subject string
	claims          map[string]any
}

// defaultSkew is how wrong clocks may be. Envoy jwt_authn, clock_skew_seconds.
const defaultSkew = time.Minute

// algorithms are those a mesh accepts; none and the symmetric ones are not among them.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// authenticate checks the tokens of the request. One that is bad ends it; one that is missing is a matter of policy.
func (w *walk) authenticate(all []*waypoint.Policies) bool {
	var rules []*waypoint.JWTRule
	var names []string
	for _, ps := range all {
		for _, a := range ps.GetAuthentication() {
			names = append(names, "RequestAuthentication "+a.GetNamespace()+"/"+a.GetName())
			rules = append(rules, a.GetRules()...)
		}
	}
	if len(rules) == 0 {
		return true
	}
	object := strings.Join(names, ", ")
	found := false
	for _, r := range rules {
		for _, raw := range w.presented(r) {
			found = true
			if issuerOf(raw) != r.GetIssuer() {
				continue
			}
			t, err := w.verify(r, raw)
			if err != nil {
				status := 401
				if errors.Is(err, errAudience) { // Envoy jwt_authn, JwtAudienceNotAllowed
					status = 403
				}
				return w.deny("token", object, err.Error(), status)
			}
			w.tokens = append(w.tokens, t)
			w.step("token", Pass, object, "the token of "+r.GetIssuer()+" is good, its subject is "+t.subject)
		}
	}
	if found && len(w.tokens) == 0 {
		return w.deny("token", object, "the token is of no issuer that is accepted here", 401)
	}
	if !found {
		w.step("token", Pass, object, "there is no token, which is for policies to judge")
	}
	return true
}

var errAudience = errors.New("the token is for somebody else")

// presented are the tokens in the places a rule looks at.
func (w *walk) presented(r *waypoint.JWTRule) []string {
	_, raw, _ := strings.Cut(w.req.Path, "?")
	query, _ := url.ParseQuery(raw)
	headers, params := r.GetFromHeaders(), r.GetFromParams()
	if len(headers)+len(params)+len(r.GetFromCookies()) == 0 {
		headers, params = []*waypoint.JWTRule_FromHeader{{Name: "authorization", Prefix: "Bearer "}}, []string{"access_token"}
	}
	var out []string
	add := func(t string) {
		if t != "" && !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	for _, h := range headers {
		if v, ok := w.req.header(h.GetName()); ok {
			if rest, has := strings.CutPrefix(v, h.GetPrefix()); has {
				add(strings.TrimSpace(rest))
			}
		}
	}
	for _, p := range params {
		add(query.Get(p))
	}
	for _, c := range r.GetFromCookies() {
		for _, pair := range strings.Split(w.req.Headers["cookie"], ";") {
			if k, v, _ := strings.Cut(strings.TrimSpace(pair), "="); k == c {
				add(v)
			}
		}
	}
	return out
}

// issuerOf reads the issuer of a token without believing it.
func issuerOf(raw string) string {
	t, err := jwt.ParseSigned(raw, algorithms)
	if err != nil {
		return ""
	}
	var c jwt.Claims
	if t.UnsafeClaimsWithoutVerification(&c) != nil {
		return ""
	}
	return c.Issuer
}

func (w *walk) verify(r *waypoint.JWTRule, raw string) (token, error) {
	if r.GetJwksMissing() != "" {
		return token{}, fmt.Errorf("there are no keys of issuer %s: %s", r.GetIssuer(), r.GetJwksMissing())
	}
	parsed, err := jwt.ParseSigned(raw, algorithms)
	if err != nil {
		return token{}, fmt.Errorf("the token is none: %w", err)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(r.GetJwks()), &set); err != nil {
		return token{}, fmt.Errorf("the keys of issuer %s: %w", r.GetIssuer(), err)
	}
	var std jwt.Claims
	claims := map[string]any{}
	signed := slices.ContainsFunc(set.Keys, func(k jose.JSONWebKey) bool {
		kid := parsed.Headers[0].KeyID
		return (kid == "" || k.KeyID == "" || kid == k.KeyID) && k.IsPublic() && parsed.Claims(k.Key, &std, &claims) == nil
	})
	if !signed {
		return token{}, fmt.Errorf("no key of issuer %s signed the token", r.GetIssuer())
	}
	skew := defaultSkew
	if r.GetClockSkew() != nil {
		skew = r.GetClockSkew().AsDuration()
	}
	if err := std.ValidateWithLeeway(jwt.Expected{Issuer: r.GetIssuer(), Time: w.req.Now}, skew); err != nil {
		return token{}, fmt.Errorf("the token of %s: %w", r.GetIssuer(), err)
	}
	if len(r.GetAudiences()) > 0 && !slices.ContainsFunc(std.Audience, func(a string) bool { return slices.Contains(r.GetAudiences(), a) }) {
		return token{}, fmt.Errorf("%w: it is for %q, not for %q", errAudience, []string(std.Audience), r.GetAudiences())
	}
	return token{issuer: std.Issuer, subject: std.Subject, claims: claims}, nil
}

// requestPrincipals are issuer/subject of the accepted tokens.
func requestPrincipals(tokens []token) []string {
	var out []string
	for _, t := range tokens {
		out = append(out, t.issuer+"/"+t.subject)
	}
	return out
}

// claim is the values of a claim: a list has several, and text with spaces is also the list of its words, as in scope.
func (w *walk) claim(path []string) []string {
	var out []string
	for _, t := range w.tokens {
		var v any = t.claims
		for _, key := range path {
			m, _ := v.(map[string]any)
			v = m[key]
		}
		out = append(out, values(v)...)
	}
	return out
}

func values(v any) []string {
	switch v := v.(type) {
	case nil, map[string]any:
		return nil
	case string:
		if words := strings.Fields(v); len(words) > 1 {
			return append([]string{v}, words...)
		}
		return []string{v}
	case []any:
		var out []string
		for _, e := range v {
			out = append(out, values(e)...)
		}
		return out
	default:
		return []string{fmt.Sprint(v)}
	}
}
