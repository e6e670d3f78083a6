package envoy

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// Stubs of the security part (C); each goes away with its implementation.

// Extensions are the filter configurations Envoy fetches by name (ECDS).
func Extensions(e *Env) ([]*corev3.TypedExtensionConfig, []Problem) { return nil, nil }

// httpFilters is the ordered list for a target's connection manager, the router last.
func (e *Env) httpFilters(t target) ([]*hcmv3.HttpFilter, []Problem) {
	return []*hcmv3.HttpFilter{{
		Name:       "envoy.filters.http.router",
		ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: toAny(&routerv3.Router{})},
	}}, nil
}

// networkFilters go before the TCP proxy of a target.
func (e *Env) networkFilters(t target) ([]*listenerv3.Filter, []Problem) { return nil, nil }

// hostConfig is a target's part of the HTTP filters: the typed_per_filter_config of its virtual host.
func (e *Env) hostConfig(t target) (map[string]*anypb.Any, []Problem) { return nil, nil }

// ruleConfig is one rule's part of the HTTP filters: added to the typed_per_filter_config of its routes.
func (e *Env) ruleConfig(t target, rule *waypoint.HTTPRule) (map[string]*anypb.Any, []Problem) {
	return nil, nil
}

// identify sets how a connection manager names the client to the application: XFF, XFCC, x-envoy-* headers.
func (e *Env) identify(t target, m *hcmv3.HttpConnectionManager) {}
