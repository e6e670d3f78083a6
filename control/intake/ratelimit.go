package intake

import (
	"fmt"

	"google.golang.org/protobuf/types/known/durationpb"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/object"
)

// Our own kinds, of policy.ambit.io/v1alpha1; their schemas are in api/crd.

// policyTarget is what a policy of ours is for.
type policyTarget struct {
	Group       string `json:"group,omitempty"`
	Kind        string `json:"kind"`
	Name        string `json:"name"`
	SectionName string `json:"sectionName,omitempty"`
}

// rateLimitSpec is the spec of a LocalRateLimitPolicy.
type rateLimitSpec struct {
	TargetRefs []policyTarget  `json:"targetRefs"`
	Rules      []rateLimitRule `json:"rules"`
}

type rateLimitRule struct {
	Name    string                     `json:"name,omitempty"`
	Matches []gatewayv1.HTTPRouteMatch `json:"matches,omitempty"`
	Limit   rateLimit                  `json:"limit"`
	Keys    []rateLimitKey             `json:"keys,omitempty"`
	Status  *int32                     `json:"status,omitempty"`
}

type rateLimit struct {
	Requests int32              `json:"requests"`
	Per      gatewayv1.Duration `json:"per"`
	Burst    int32              `json:"burst,omitempty"`
}

type rateLimitKey struct {
	From string `json:"from"`
	Name string `json:"name,omitempty"`
}

// targets converts the references of a policy of ours.
func (r *reader) targets(in []policyTarget, namespace string) []object.TargetRef {
	path := at("spec", "targetRefs")
	if len(in) == 0 {
		r.refuse(path, "the policy is for nothing", "name a Service, ServiceEntry, Gateway or GatewayClass")
	}
	if !r.fewer(len(in), maxRouteItems, path, "target") {
		return nil
	}
	var out []object.TargetRef
	for i, t := range in {
		p := sub(path, i)
		want, known := map[string]string{"Service": groupCore, "ServiceEntry": groupNetworking, "Gateway": groupGateway, "GatewayClass": groupGateway}[t.Kind]
		switch {
		case t.Kind == "":
			r.refuse(sub(p, "kind"), "the field is missing", "write Service, ServiceEntry, Gateway or GatewayClass")
		case !known:
			r.refuse(sub(p, "kind"), fmt.Sprintf("a policy cannot be for a %s", clip(t.Kind)), "write Service, ServiceEntry, Gateway or GatewayClass")
		case t.Group != want:
			r.refuse(sub(p, "group"), fmt.Sprintf("%s is a kind of %s", t.Kind, groupName(want)), fmt.Sprintf("write group: %q", want))
		}
		if !isSubdomain(t.Name) {
			r.refuse(sub(p, "name"), fmt.Sprintf("%q is not a valid name", clip(t.Name)), "write the name of the object the policy is for")
		}
		one := r.d.words.one
		out = append(out, object.TargetRef{Group: one(t.Group), Kind: one(t.Kind), Name: one(t.Name), SectionName: one(t.SectionName)})
	}
	return out
}

func (r *reader) rateLimitPolicy(m object.Meta, spec *rateLimitSpec) *object.LocalRateLimitPolicy {
	out := &object.LocalRateLimitPolicy{Meta: m, TargetRefs: r.targets(spec.TargetRefs, m.Namespace), Spec: &waypoint.RateLimit{Namespace: m.Namespace, Name: m.Name}}
	path := at("spec", "rules")
	if len(spec.Rules) == 0 {
		r.refuse(path, "the policy limits nothing", "add a rule with limit.requests and limit.per")
	}
	if !r.fewer(len(spec.Rules), maxRouteItems, path, "rule") {
		return nil
	}
	names := map[string]bool{}
	for i := range spec.Rules {
		p := sub(path, i)
		rule := r.rateLimitRule(&spec.Rules[i], p)
		if rule.Name != "" && names[rule.Name] {
			r.refuse(sub(p, "name"), fmt.Sprintf("the rule %q stands twice", clip(rule.Name)), "choose another name")
		}
		names[rule.Name] = true
		out.Spec.Rules = append(out.Spec.Rules, rule)
	}
	return out
}

func (r *reader) rateLimitRule(in *rateLimitRule, path []any) *waypoint.RateLimitRule {
	out := &waypoint.RateLimitRule{Name: in.Name}
	if in.Name != "" && !isLabel(in.Name) {
		r.refuse(sub(path, "name"), fmt.Sprintf("%q is not a valid name", clip(in.Name)), nameFix(in.Name))
	}
	if r.fewer(len(in.Matches), maxRouteItems, sub(path, "matches"), "match") {
		for j := range in.Matches {
			out.Matches = append(out.Matches, r.routeMatch(&in.Matches[j], sub(path, "matches", j)))
		}
	}
	limit := sub(path, "limit")
	if in.Limit.Requests < 1 {
		r.refuse(sub(limit, "requests"), fmt.Sprintf("%d is not a number of requests", in.Limit.Requests), "write 1 or more")
	}
	out.Requests = uint32(max(0, in.Limit.Requests))
	d, ok := gepDuration(string(in.Limit.Per))
	switch {
	case in.Limit.Per == "":
		r.refuse(sub(limit, "per"), "the field is missing", "write a time, like 1s or 1m")
	case !ok:
		r.refuse(sub(limit, "per"), fmt.Sprintf("%q is not a duration", clip(string(in.Limit.Per))), "write whole numbers with h, m, s or ms, like 1m")
	case d < 50e6: // Envoy's local rate limit fills no bucket faster
		r.refuse(sub(limit, "per"), fmt.Sprintf("%s is too short", d), "write 50ms or longer")
	}
	out.Per = durationpb.New(d)
	if in.Limit.Burst < 0 {
		r.refuse(sub(limit, "burst"), fmt.Sprintf("%d is negative", in.Limit.Burst), "write how many requests may come at once, or remove the field")
	} else if in.Limit.Burst > 0 && in.Limit.Burst < in.Limit.Requests {
		r.warn(sub(limit, "burst"), "the burst is smaller than the number of requests, which can then never be reached", "write at least the number of requests")
	}
	out.Burst = uint32(max(0, in.Limit.Burst))
	if in.Status != nil {
		out.Status = r.httpStatus(int64(*in.Status), 400, sub(path, "status"))
	}
	if !r.fewer(len(in.Keys), 4, sub(path, "keys"), "key") {
		return out
	}
	for i, k := range in.Keys {
		out.Keys = append(out.Keys, r.rateLimitKey(k, sub(path, "keys", i)))
	}
	return out
}

func (r *reader) rateLimitKey(in rateLimitKey, path []any) *waypoint.RateLimitKey {
	named := in.From == "Header" || in.From == "QueryParam"
	switch {
	case in.From == "":
		r.refuse(sub(path, "from"), "the field is missing", "write Header, QueryParam, Principal or SourceIP")
	case named && in.Name == "":
		r.refuse(sub(path, "name"), "the field is missing", "write the name of the header or parameter")
	case !named && in.Name != "":
		r.refuse(sub(path, "name"), fmt.Sprintf("%s has no name", clip(in.From)), "remove the field")
	}
	r.oneOf(in.From, sub(path, "from"), "Header", "QueryParam", "Principal", "SourceIP")
	switch in.From {
	case "Header":
		return &waypoint.RateLimitKey{Kind: &waypoint.RateLimitKey_Header{Header: r.header(in.Name, sub(path, "name"))}}
	case "QueryParam":
		r.headerValue(in.Name, sub(path, "name"))
		return &waypoint.RateLimitKey{Kind: &waypoint.RateLimitKey_Query{Query: in.Name}}
	case "SourceIP":
		return &waypoint.RateLimitKey{Kind: &waypoint.RateLimitKey_SourceIp{SourceIp: true}}
	}
	return &waypoint.RateLimitKey{Kind: &waypoint.RateLimitKey_Principal{Principal: true}}
}

// extensionSpec is the spec of an ExtensionPolicy.
type extensionSpec struct {
	TargetRefs []policyTarget `json:"targetRefs,omitempty"`
	Phase      string         `json:"phase,omitempty"`
	Priority   int32          `json:"priority,omitempty"`
	FailOpen   bool           `json:"failOpen,omitempty"`
	Lua        *luaSpec       `json:"lua,omitempty"`
	ExtProc    *extProcSpec   `json:"extProc,omitempty"`
}

type luaSpec struct {
	Source string `json:"source"`
}

type extProcSpec struct {
	BackendRef      gatewayv1.BackendObjectReference `json:"backendRef"`
	Timeout         *gatewayv1.Duration              `json:"timeout,omitempty"`
	RequestHeaders  *bool                            `json:"requestHeaders,omitempty"`
	ResponseHeaders *bool                            `json:"responseHeaders,omitempty"`
	RequestBody     string                           `json:"requestBody,omitempty"`
	ResponseBody    string                           `json:"responseBody,omitempty"`
}

func (r *reader) extensionPolicy(m object.Meta, spec *extensionSpec) *object.Extension {
	out := &object.Extension{Meta: m, Kind: object.KindExtensionPolicy}
	if len(spec.TargetRefs) > 0 { // without: named by routes
		out.TargetRefs = r.targets(spec.TargetRefs, m.Namespace)
	}
	r.oneOf(spec.Phase, at("spec", "phase"), "AUTHN", "AUTHZ", "STATS")
	out.Spec = &waypoint.Extension{
		Namespace: m.Namespace, Name: m.Name, Priority: spec.Priority, FailOpen: spec.FailOpen,
		Phase: waypoint.Extension_Phase(waypoint.Extension_Phase_value[spec.Phase]),
	}
	switch {
	case spec.Lua != nil && spec.ExtProc != nil:
		r.refuse(at("spec", "extProc"), "lua and extProc exclude each other", "write two policies")
	case spec.Lua != nil:
		r.lua(out, spec.Lua.Source, at("spec", "lua", "source"))
	case spec.ExtProc != nil:
		r.extProc(spec.ExtProc, at("spec", "extProc"), out)
	default:
		r.refuse(at("spec"), "it is not said what the extension is", "write lua or extProc")
	}
	return out
}

func (r *reader) extProc(in *extProcSpec, path []any, out *object.Extension) {
	p := &waypoint.ExternalProcessor{
		Timeout:        r.span(in.Timeout, sub(path, "timeout")),
		RequestHeaders: in.RequestHeaders == nil || *in.RequestHeaders, ResponseHeaders: in.ResponseHeaders == nil || *in.ResponseHeaders,
	}
	modes := []string{"NONE", "STREAMED", "BUFFERED", "BUFFERED_PARTIAL"}
	body := func(s, field string) string {
		r.oneOf(s, sub(path, field), modes...)
		if s == "" {
			return "NONE"
		}
		return s
	}
	p.RequestBody, p.ResponseBody = body(in.RequestBody, "requestBody"), body(in.ResponseBody, "responseBody")
	if !p.RequestHeaders && !p.ResponseHeaders && p.RequestBody == "NONE" && p.ResponseBody == "NONE" {
		r.warn(path, "the processor is shown nothing", "let it see the headers or bodies")
	}
	out.Processor = r.backend(&in.BackendRef, sub(path, "backendRef"), out.Namespace)
	out.Spec.Kind = &waypoint.Extension_Processor{Processor: p}
}
