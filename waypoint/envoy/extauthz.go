package envoy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	netextauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	netrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// CUSTOM policies: for each external authorizer an RBAC filter that only tries, and leaves the name of the policy that
// matched in dynamic metadata, and an ext_authz filter that asks if there is such a name. Several authorizers are asked
// one after the other, and all must agree. Istio pilot/pkg/security/authz/builder/extauthz.go does the same for one.

// maxAuthorizers bounds how many are asked about one request.
const maxAuthorizers = 8

// defaultAuthorizerTimeout is Istio's: api mesh/v1alpha1 ExtensionProvider.
const defaultAuthorizerTimeout = 600

func (a *authorization) addCustom(authorizer *waypoint.ExternalAuthorizer, policies map[string]*rbacv3.Policy) {
	if len(policies) == 0 {
		return
	}
	i := slices.IndexFunc(a.custom, func(c *customRules) bool { return c.authorizer.GetName() == authorizer.GetName() })
	if i < 0 {
		if len(a.custom) == maxAuthorizers {
			// Nobody is asked about these requests, so they are refused.
			a.deny.add(rbacv3.RBAC_DENY, false, policies)
			a.problems = append(a.problems, Problem{
				Object: "provider " + authorizer.GetName(),
				Text:   fmt.Sprintf("more than %d external authorizers for one service: what this one would decide is refused", maxAuthorizers),
			})
			return
		}
		i = len(a.custom)
		a.custom = append(a.custom, &customRules{authorizer: authorizer, rules: map[string]*rbacv3.Policy{}})
	}
	maps.Copy(a.custom[i].rules, policies)
}

// checkAuthorizer refuses what could not be asked.
func checkAuthorizer(p *waypoint.Authorization, tcp bool) error {
	a := p.GetAuthorizer()
	switch {
	case p.GetBroken() != "":
		return errors.New(p.GetBroken())
	case a == nil:
		return errors.New("it names no provider: set provider.name to an extension provider of the mesh configuration")
	case a.GetService().GetHostname() == "" || a.GetService().GetBroken() != "":
		why := a.GetService().GetBroken()
		if why == "" {
			why = "it has no service"
		}
		return fmt.Errorf("provider %s: %s", a.GetName(), why)
	case a.GetTransport() == nil:
		return fmt.Errorf("provider %s speaks neither gRPC nor HTTP", a.GetName())
	case tcp && a.GetGrpc() == nil:
		return fmt.Errorf("provider %s speaks HTTP and can decide about HTTP only: use a gRPC provider for TCP ports", a.GetName())
	}
	return nil
}

// sortedCustom has an order that does not depend on that of the policies.
func (a *authorization) sortedCustom() []*customRules {
	return slices.SortedFunc(slices.Values(a.custom), func(x, y *customRules) int {
		return strings.Compare(x.authorizer.GetName(), y.authorizer.GetName())
	})
}

func customPrefix(i int) string { return "istio_ext_authz_" + strconv.Itoa(i) + "_" }

// whenAsked is true when the trying filter found a policy.
func whenAsked(i int) *matcherv3.MetadataMatcher {
	return &matcherv3.MetadataMatcher{
		Filter: "envoy.filters.http.rbac",
		Path: []*matcherv3.MetadataMatcher_PathSegment{{
			Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: customPrefix(i) + "shadow_effective_policy_id"},
		}},
		Value: &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_StringMatch{StringMatch: startingWith("ns[")}},
	}
}

// customFilters are the HTTP filters of a target's CUSTOM policies.
func (e *Env) customFilters(a *authorization) ([]*corev3.TypedExtensionConfig, []Problem) {
	var out []*corev3.TypedExtensionConfig
	var problems []Problem
	for i, c := range a.sortedCustom() {
		ask, p := e.extAuthz(c.authorizer)
		ask.FilterEnabledMetadata = whenAsked(i)
		out = append(out,
			typedExtension("envoy.filters.http.rbac", &httprbacv3.RBAC{
				ShadowRules:           &rbacv3.RBAC{Action: rbacv3.RBAC_DENY, Policies: c.rules},
				ShadowRulesStatPrefix: customPrefix(i),
			}),
			typedExtension("envoy.filters.http.ext_authz", ask))
		problems = append(problems, p...)
	}
	return out, problems
}

// extAuthz asks one authorizer about every request it sees.
func (e *Env) extAuthz(a *waypoint.ExternalAuthorizer) (*extauthzv3.ExtAuthz, []Problem) {
	out := &extauthzv3.ExtAuthz{
		StatPrefix:          oneWord(a.GetName()),
		TransportApiVersion: corev3.ApiVersion_V3,
		FailureModeAllow:    a.GetFailOpen(),
	}
	if s := a.GetStatusOnError(); s >= 200 && s < 600 {
		out.StatusOnError = &typev3.HttpStatus{Code: typev3.StatusCode(s)}
	}
	if a.GetMaxBody() > 0 {
		out.WithRequestBody = &extauthzv3.BufferSettings{
			MaxRequestBytes:     min(a.GetMaxBody(), 1<<20),
			AllowPartialMessage: a.GetAllowPartialBody(),
			PackAsBytes:         a.GetPackBodyAsBytes(),
		}
	}
	if a.GetGrpc() != nil {
		out.Services = &extauthzv3.ExtAuthz_GrpcService{GrpcService: e.grpcTo(a.GetService(), authorizerTimeout(a))}
		return out, nil
	}
	var problems []Problem
	list := func(what string, some []*waypoint.StringMatch) *matcherv3.ListStringMatcher {
		l := &matcherv3.ListStringMatcher{}
		for _, m := range some {
			s, err := textMatcher(m, true)
			if err != nil {
				problems = append(problems, Problem{Object: "provider " + a.GetName(), Text: what + ": " + err.Error() + ": that header is left out"})
				continue
			}
			l.Patterns = append(l.Patterns, s)
		}
		if len(l.Patterns) == 0 {
			return nil
		}
		return l
	}
	h := a.GetHttp()
	out.AllowedHeaders = list("headers of the check", h.GetCheckHeaders())
	service := &extauthzv3.HttpService{
		ServerUri: &corev3.HttpUri{
			Uri:              "http://" + a.GetService().GetHostname() + ":" + portText(a.GetService().GetPort()),
			HttpUpstreamType: &corev3.HttpUri_Cluster{Cluster: e.clusterName(a.GetService(), kindHTTP)},
			Timeout:          authorizerTimeout(a),
		},
		PathPrefix: h.GetPathPrefix(),
		AuthorizationResponse: &extauthzv3.AuthorizationResponse{
			AllowedUpstreamHeaders:        list("headers to upstream", h.GetUpstreamHeaders()),
			AllowedClientHeaders:          list("headers to downstream on deny", h.GetDownstreamHeadersOnDeny()),
			AllowedClientHeadersOnSuccess: list("headers to downstream on allow", h.GetDownstreamHeadersOnAllow()),
		},
	}
	if add := h.GetAddHeaders(); len(add) > 0 {
		service.AuthorizationRequest = &extauthzv3.AuthorizationRequest{}
		for _, k := range slices.Sorted(maps.Keys(add)) {
			if !isHeaderName(k) {
				problems = append(problems, Problem{Object: "provider " + a.GetName(), Text: fmt.Sprintf("%q is no header name: it is left out", k)})
				continue
			}
			service.AuthorizationRequest.HeadersToAdd = append(service.AuthorizationRequest.HeadersToAdd,
				&corev3.HeaderValue{Key: k, Value: escapeFormat(add[k])})
		}
	}
	out.Services = &extauthzv3.ExtAuthz_HttpService{HttpService: service}
	return out, problems
}

func authorizerTimeout(a *waypoint.ExternalAuthorizer) *durationpb.Duration {
	if d := a.GetTimeout(); d.AsDuration() > 0 {
		return d
	}
	return seconds(defaultAuthorizerTimeout)
}

// grpcTo is a gRPC service somewhere in the mesh or outside.
func (e *Env) grpcTo(b *waypoint.Backend, timeout *durationpb.Duration) *corev3.GrpcService {
	return &corev3.GrpcService{
		Timeout: timeout,
		TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{
			ClusterName: e.clusterName(b, kindHTTP),
			Authority:   b.GetHostname(),
		}},
	}
}

// customNetworkFilters are the same for connections. The list changes with the authorizers: that replaces the chain.
func (e *Env) customNetworkFilters(a *authorization) []*listenerv3.Filter {
	var out []*listenerv3.Filter
	for i, c := range a.sortedCustom() {
		enabled := whenAsked(i)
		enabled.Filter = "envoy.filters.network.rbac"
		out = append(out,
			networkFilter("envoy.filters.network.rbac", &netrbacv3.RBAC{
				StatPrefix:            customPrefix(i),
				ShadowRules:           &rbacv3.RBAC{Action: rbacv3.RBAC_DENY, Policies: c.rules},
				ShadowRulesStatPrefix: customPrefix(i),
			}),
			networkFilter("envoy.filters.network.ext_authz", &netextauthzv3.ExtAuthz{
				StatPrefix:            oneWord(c.authorizer.GetName()),
				GrpcService:           e.grpcTo(c.authorizer.GetService(), authorizerTimeout(c.authorizer)),
				FailureModeAllow:      c.authorizer.GetFailOpen(),
				TransportApiVersion:   corev3.ApiVersion_V3,
				FilterEnabledMetadata: enabled,
			}))
	}
	return out
}
