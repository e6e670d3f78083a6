package envoy

import (
	"fmt"
	"strings"

	statefulv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/stateful_session/v3"
	cookiev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/stateful_session/cookie/v3"
	headerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/stateful_session/header/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/type/http/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// sessionConfig keeps a client at the endpoint that answered it first: the endpoint's address travels in a cookie or
// header, and when it is gone another endpoint takes over. nil: no session.
func sessionConfig(s *waypoint.SessionPersistence) (*statefulv3.StatefulSessionPerRoute, error) {
	session := &statefulv3.StatefulSession{}
	switch by := s.GetBy().(type) {
	case nil:
		if s == nil {
			return nil, nil
		}
		return nil, fmt.Errorf("session persistence says neither cookie nor header")
	case *waypoint.SessionPersistence_Cookie:
		if !isToken(by.Cookie) {
			return nil, fmt.Errorf("session persistence: %q is no cookie name", by.Cookie)
		}
		cookie := &httpv3.Cookie{Name: by.Cookie, Path: firstNotEmpty(s.GetPath(), "/")}
		if lifetime := positive(s.GetLifetime()); lifetime > 0 {
			cookie.Ttl = durationpb.New(lifetime)
		}
		session.SessionState = typedExtension("envoy.http.stateful_session.cookie", &cookiev3.CookieBasedSessionState{Cookie: cookie})
	case *waypoint.SessionPersistence_Header:
		if !isToken(by.Header) {
			return nil, fmt.Errorf("session persistence: %q is no header name", by.Header)
		}
		session.SessionState = typedExtension("envoy.http.stateful_session.header",
			&headerv3.HeaderBasedSessionState{Name: strings.ToLower(by.Header)})
	}
	return &statefulv3.StatefulSessionPerRoute{
		Override: &statefulv3.StatefulSessionPerRoute_StatefulSession{StatefulSession: session},
	}, nil
}
