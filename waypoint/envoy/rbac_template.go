package envoy

import (
	"fmt"
	"strings"

	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	templatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
)

// templatePermission matches a path with {*} for one segment and {**} for any number of them at the end. Istio
// pilot/pkg/security/authz/model PathTemplate; Envoy spells them without the braces.
func templatePermission(template string) (*rbacv3.Permission, error) {
	if err := checkTemplate(template); err != nil {
		return nil, err
	}
	path := strings.NewReplacer("{**}", "**", "{*}", "*").Replace(template)
	return &rbacv3.Permission{Rule: &rbacv3.Permission_UriTemplate{UriTemplate: typedExtension(
		"envoy.path.match.uri_template.uri_template_matcher", &templatev3.UriTemplateMatchConfig{PathTemplate: path})}}, nil
}

// checkTemplate is as strict as Envoy source/extensions/path/uri_template_lib, and as Istio's validation where that is
// stricter: a template that passes never makes Envoy refuse a configuration.
func checkTemplate(template string) error {
	refuse := func(why string) error {
		return fmt.Errorf("the path template %q %s", template, why)
	}
	if len(template) > maxRegexLength {
		return refuse("is too long")
	}
	if !strings.HasPrefix(template, "/") {
		return refuse("does not begin with /")
	}
	last := false
	segments := strings.Split(template[1:], "/")
	for i, s := range segments {
		if last {
			switch s {
			case "{*}", "{**}":
				return refuse("has something to match after {**}, which must be the last of its kind")
			}
		}
		switch s {
		case "{*}":
			continue
		case "{**}":
			last = true
			continue
		case "":
			if i != len(segments)-1 {
				return refuse("has an empty segment")
			}
			continue
		}
		for j := range len(s) {
			if c := s[j]; !isPathByte(c) {
				return refuse(fmt.Sprintf("has %q in a segment: {*} and {**} must be whole segments, everything else ordinary path characters", c))
			}
		}
	}
	return nil
}

// isPathByte is true for pchar of RFC 3986 §3.3 without the star.
func isPathByte(c byte) bool {
	letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
	return letter || strings.IndexByte("-._~!$&'()+,;=:@%", c) >= 0
}
