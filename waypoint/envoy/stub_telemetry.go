package envoy

import (
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

func (e *Env) accessLogs(t target, kind string) ([]*accesslogv3.AccessLog, []Problem) {
	return nil, nil
}
func (e *Env) tracing(t target) (*hcmv3.HttpConnectionManager_Tracing, []Problem) { return nil, nil }
func (e *Env) edgeListeners() ([]*listenerv3.Listener, []Problem)                 { return nil, nil }
