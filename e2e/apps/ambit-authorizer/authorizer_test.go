package main

import (
	"net/http"
	"net/http/httptest"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"
)

func TestDecisions(t *testing.T) {
	for _, tt := range []struct {
		value  string
		status int
		code   codes.Code
	}{{"allow", 200, codes.OK}, {"deny", 403, codes.PermissionDenied}, {"", 403, codes.PermissionDenied}} {
		r := httptest.NewRequest(http.MethodGet, "/any", nil)
		r.Header.Set(headerAsk, tt.value)
		w := httptest.NewRecorder()
		checkHTTP(w, r)
		if w.Code != tt.status {
			t.Errorf("HTTP, %q: %d", tt.value, w.Code)
		}
		resp, err := checker{}.Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{
			Http: &authv3.AttributeContext_HttpRequest{Headers: map[string]string{headerAsk: tt.value}},
		}}})
		if err != nil || codes.Code(resp.GetStatus().GetCode()) != tt.code {
			t.Errorf("gRPC, %q: %v, %v", tt.value, resp, err)
		}
	}
}
