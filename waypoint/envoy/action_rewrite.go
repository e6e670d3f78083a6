package envoy

import (
	"errors"
	"fmt"
	"regexp/syntax"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

func rewritesPath(r *waypoint.Rewrite) bool {
	return r.GetPath() != "" || r.GetPrefix() != nil || r.GetRegex() != ""
}

// mergeRewrite: what a backend says about the path or the host replaces what the rule says about the same.
func mergeRewrite(rule, backend *waypoint.Rewrite) *waypoint.Rewrite {
	if rule == nil {
		return backend
	}
	out := proto.CloneOf(rule)
	if rewritesPath(backend) {
		out.Path, out.Prefix = backend.GetPath(), backend.GetPrefix()
		out.Regex, out.Substitution = backend.GetRegex(), backend.GetSubstitution()
	}
	if backend.GetAuthority() != "" {
		out.Authority = backend.GetAuthority()
	}
	return out
}

// rewrite changes path and host of what is forwarded.
func rewrite(r *waypoint.Rewrite, drafts []draft) ([]draft, error) {
	if r == nil {
		return drafts, nil
	}
	for _, d := range drafts {
		action := d.route.GetRoute()
		if r.GetAuthority() != "" {
			action.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: r.GetAuthority()}
		}
		switch {
		case r.GetRegex() != "":
			regex, err := rewriteRegex(r.GetRegex(), r.GetSubstitution())
			if err != nil {
				return nil, err
			}
			action.RegexRewrite = regex
		case r.GetPath() != "":
			if !strings.HasPrefix(r.GetPath(), "/") {
				return nil, fmt.Errorf("path %q to rewrite to must begin with a slash", r.GetPath())
			}
			action.PathRewrite = escapeFormat(r.GetPath())
		}
	}
	if r.GetPrefix() == nil || r.GetRegex() != "" || r.GetPath() != "" {
		return drafts, nil
	}
	return replacePrefix(r.GetPrefix().GetValue(), drafts,
		func(d draft, path string) { d.route.GetRoute().PathRewrite = escapeFormat(path) },
		func(d draft, prefix string) { d.route.GetRoute().PrefixRewrite = prefix })
}

// replacePrefix puts another prefix in the place of the matched one. Prefixes of whole segments follow the table of Gateway
// API HTTPPathModifier replacePrefixMatch, where /a with "" or / in its place makes / of /a and /b of /a/b: two routes in
// Envoy, which replaces characters. Other matches replace just the characters, as Istio does.
func replacePrefix(with string, drafts []draft, path func(draft, string), prefix func(draft, string)) ([]draft, error) {
	if with != "" && !strings.HasPrefix(with, "/") {
		return nil, fmt.Errorf("prefix %q to put in its place must begin with a slash", with)
	}
	var out []draft
	for _, d := range drafts {
		segments, isSegments := d.path.GetKind().(*waypoint.PathMatch_Segments)
		if !isSegments {
			prefix(d, firstNotEmpty(with, "/"))
			out = append(out, d)
			continue
		}
		matched, replacement := trimSegments(segments.Segments), trimSegments(with)
		switch {
		case matched == "":
			prefix(d, replacement+"/")
			out = append(out, d)
		case replacement != "":
			prefix(d, replacement)
			out = append(out, d)
		default:
			exact := d.clone()
			exact.route.Match.PathSpecifier = &routev3.RouteMatch_Path{Path: matched}
			path(exact, "/")
			d.route.Match.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: matched + "/"}
			prefix(d, "/")
			out = append(out, exact, d)
		}
	}
	return out, nil
}

// rewriteRegex takes the author's expression and substitution; Envoy refuses routes with a group that is not there.
func rewriteRegex(expression, substitution string) (*matcherv3.RegexMatchAndSubstitute, error) {
	regex, err := safeRegex(expression, false)
	if err != nil {
		return nil, fmt.Errorf("rewrite: %w", err)
	}
	parsed, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("rewrite: %w", err)
	}
	for i := 0; i < len(substitution); i++ {
		if substitution[i] != '\\' {
			continue
		}
		i++
		switch {
		case i == len(substitution):
			return nil, errors.New("the substitution of a rewrite ends in a lone backslash")
		case substitution[i] == '\\':
		case substitution[i] < '0' || substitution[i] > '9':
			return nil, fmt.Errorf("substitution %q: a backslash stands before a digit or a backslash", substitution)
		case int(substitution[i]-'0') > parsed.MaxCap():
			return nil, fmt.Errorf("substitution %q refers to group %c, and %q has %d", substitution, substitution[i], expression, parsed.MaxCap())
		}
	}
	if strings.ContainsAny(substitution, "\r\n\x00") {
		return nil, errors.New("the substitution of a rewrite has a line break")
	}
	return &matcherv3.RegexMatchAndSubstitute{Pattern: regex, Substitution: substitution}, nil
}
