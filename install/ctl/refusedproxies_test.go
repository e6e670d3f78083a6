package ctl

import (
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/install/gateway"
)

func TestProxyRefusal(t *testing.T) {
	for _, c := range []struct {
		p    gateway.Problem
		want refusal
	}{
		{
			gateway.Problem{Source: "envoy", Objects: []string{"ExtensionPolicy shop/lua", "Service shop/web"}, Type: "RouteConfiguration", Resource: "r", Text: "no", Kept: true},
			refusal{Severity: "refused", Kind: "ExtensionPolicy", Namespace: "shop", Name: "lua", Kept: true, Problem: "Envoy of waypoint shop/wp refuses RouteConfiguration r: no; also of Service shop/web"},
		},
		{
			gateway.Problem{Source: "expansion", Objects: []string{"VirtualService shop/v"}, Text: "no"},
			refusal{Severity: "warning", Kind: "VirtualService", Namespace: "shop", Name: "v", Problem: "waypoint shop/wp: no"},
		},
		{gateway.Problem{Source: "expansion", Text: "no"}, refusal{Severity: "warning", Problem: "waypoint shop/wp: no"}},
	} {
		if got := proxyRefusal("shop/wp", c.p); got != c.want {
			t.Errorf("%+v, want %+v", got, c.want)
		}
	}
	got := proxyRefusal("shop/wp", gateway.Problem{Source: "facts", Type: "Service", Resource: "a", Text: "no"})
	if !strings.Contains(got.Problem, "does not understand Service a") || got.Fix == "" {
		t.Errorf("%+v", got)
	}
}
