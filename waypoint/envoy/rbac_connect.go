package envoy

import (
	"fmt"
	"strings"

	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// Envoy's network RBAC decides when the first bytes of the client come. Where the server speaks first, everybody would
// be greeted. So policies of TCP ports are asked once more, and before, when the CONNECT comes: as two HTTP filters of
// connect_terminate, delivered by name. What cannot be known yet is left to the network filters.
const (
	filterConnectDeny  = "ambit.connect.deny"
	filterConnectAllow = "ambit.connect.allow"
)

// connectFilters belong into connect_terminate, after the filter that keeps who the peer is.
func connectFilters() []*hcmv3.HttpFilter {
	var out []*hcmv3.HttpFilter
	for _, name := range []string{filterConnectDeny, filterConnectAllow} {
		out = append(out, &hcmv3.HttpFilter{
			Name:       name,
			ConfigType: &hcmv3.HttpFilter_ConfigDiscovery{ConfigDiscovery: discovered(&httprbacv3.RBAC{})},
		})
	}
	return out
}

// connectPolicies are what these filters do.
func (e *Env) connectPolicies() (deny, allow *httprbacv3.RBAC) {
	deny, allow = &httprbacv3.RBAC{RulesStatPrefix: "connect_deny_"}, &httprbacv3.RBAC{RulesStatPrefix: "connect_allow_"}
	var guarded []*rbacv3.Principal
	for _, svc := range e.services() {
		for _, port := range svc.GetPorts() {
			if kindOf(port.GetProtocol()) != kindTCP {
				continue // of AUTO it is not known yet whether it is HTTP
			}
			a := e.authorizeConnect(e.serviceTarget(svc, port))
			if a.deny.rules == nil && a.allow.rules == nil {
				continue
			}
			here := e.connectTo(svc, port)
			on := fmt.Sprintf("-on[%s:%d]", svc.GetHostname(), port.GetNumber())
			if r := a.deny.rules; r != nil {
				deny.Rules = placed(deny.Rules, r, here, on)
			}
			if r := a.allow.rules; r != nil {
				allow.Rules = placed(allow.Rules, r, here, on)
				guarded = append(guarded, here)
			}
		}
	}
	if allow.Rules != nil {
		elsewhere := everything()
		elsewhere.Principals = []*rbacv3.Principal{principal.not(principal.one(guarded))}
		allow.Rules.Policies["elsewhere"] = elsewhere
	}
	return deny, allow
}

// placed adds policies to others, for one place only.
func placed(to, from *rbacv3.RBAC, here *rbacv3.Principal, on string) *rbacv3.RBAC {
	if to == nil {
		to = &rbacv3.RBAC{Action: from.GetAction(), Policies: map[string]*rbacv3.Policy{}}
	}
	for name, p := range from.GetPolicies() {
		to.Policies[name+on] = &rbacv3.Policy{
			Permissions: p.GetPermissions(),
			Principals:  []*rbacv3.Principal{principal.all([]*rbacv3.Principal{here, principal.one(p.GetPrincipals())})},
		}
	}
	return to
}

// connectTo matches CONNECTs to a port of a service. Addresses are compared as addresses, however they are spelled; of
// the text only the number at its end counts, with whatever zeros before it.
func (e *Env) connectTo(svc *waypoint.Service, port *waypoint.ServicePort) *rbacv3.Principal {
	authority := func(s *matcherv3.StringMatcher) *rbacv3.Principal {
		return &rbacv3.Principal{Identifier: &rbacv3.Principal_Header{Header: &routev3.HeaderMatcher{
			Name:                 ":authority",
			HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: s},
		}}}
	}
	number := portText(port.GetNumber())
	ways := []*rbacv3.Principal{authority(exactString(strings.ToLower(svc.GetHostname()) + ":" + number))}
	for _, prefix := range e.addresses(svc) {
		ways = append(ways, principal.all([]*rbacv3.Principal{
			{Identifier: &rbacv3.Principal_FilterState{FilterState: &matcherv3.FilterStateMatcher{
				Key:     stateLocalIP,
				Matcher: &matcherv3.FilterStateMatcher_AddressMatch{AddressMatch: &matcherv3.AddressMatcher{Ranges: xdsCIDRs(prefix)}},
			}}},
			authority(constantRegex(`.*:[+]?0*` + number)),
		}))
	}
	return principal.one(ways)
}
