package envoy

import (
	"fmt"
	"math"
	"strings"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// TestWeights: whatever the weights, backends of weight 0 get nothing, the sum fits what Envoy counts with, and everybody's
// part is what it should be.
func TestWeights(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weights := rapid.SliceOfN(rapid.OneOf(rapid.Uint32(), rapid.Uint32Range(0, 100), rapid.Just(uint32(0))), 1, 20).Draw(t, "weights")
		var backends []*waypoint.Backend
		var total float64
		for i, w := range weights {
			backends = append(backends, &waypoint.Backend{Hostname: fmt.Sprint(i), Weight: w})
			total += float64(w)
		}
		shares := weighed(backends)
		var sum uint64
		for _, s := range shares {
			sum += uint64(s.weight)
		}
		if sum > math.MaxUint32 {
			t.Fatalf("sum %d of %v", sum, weights)
		}
		bounds, before := fractions(shares), uint32(0)
		for i, s := range shares {
			want := float64(s.backend.GetWeight()) / total
			if s.backend.GetWeight() == 0 {
				t.Fatalf("backend %s has no weight and a share", s.backend.GetHostname())
			}
			if got := float64(s.weight) / float64(sum); math.Abs(got-want) > 1e-7 {
				t.Fatalf("backend %d of %v gets %g, want %g", i, weights, got, want)
			}
			if bounds[i] < before {
				t.Fatalf("fractions %v do not add up", bounds)
			}
			if got := float64(bounds[i]-before) / million; math.Abs(got-want) > 2.0/million {
				t.Fatalf("backend %d of %v gets the fraction %g, want %g", i, weights, got, want)
			}
			before = bounds[i]
		}
		if len(shares) > 0 && bounds[len(bounds)-1] != million {
			t.Fatalf("fractions %v end before the whole", bounds)
		}
	})
}

// TestNothingIsLost: whatever a rule says, each of its matches ends in a route, and every route in an action.
func TestNothingIsLost(t *testing.T) {
	e := routesEnv()
	rapid.Check(t, func(t *rapid.T) {
		rule := randomRule(t)
		host, _ := e.virtualHost(hostRoutes{name: "h", domains: []string{"*"}, rules: []*waypoint.HTTPRule{rule}, routed: true,
			protocol: rapid.SampledFrom([]waypoint.Protocol{0, 1, 2, 3}).Draw(t, "protocol")})
		if err := host.ValidateAll(); err != nil {
			t.Fatalf("Envoy would refuse: %v\n%v", err, host)
		}
		if n := len(rule.GetMatches()); len(host.GetRoutes()) < max(n, 1)+1 {
			t.Fatalf("%d routes for %d matches", len(host.GetRoutes()), n)
		}
		for _, r := range host.GetRoutes() {
			if r.GetAction() == nil {
				t.Fatalf("a route without an action: %v", r)
			}
		}
	})
}

func randomRule(t *rapid.T) *waypoint.HTTPRule {
	text := rapid.SampledFrom([]string{"", "/", "/a", "/a/", "x", "%", "%REQ(a)%", "%%", "Host", ":path", "a b", "ü", "\\1"})
	edits := func(name string) *waypoint.HeaderEdits {
		return &waypoint.HeaderEdits{
			Set:    []*waypoint.HeaderValue{{Name: text.Draw(t, name+"set"), Value: text.Draw(t, name+"value")}},
			Remove: []string{text.Draw(t, name+"remove")},
		}
	}
	rewrite := func(name string) *waypoint.Rewrite {
		r := &waypoint.Rewrite{Authority: text.Draw(t, name+"authority"), Path: text.Draw(t, name+"path")}
		if rapid.Bool().Draw(t, name+"prefixed") {
			r.Prefix = wrapperspb.String(text.Draw(t, name+"prefix"))
		}
		return r
	}
	rule := &waypoint.HTTPRule{Origin: &waypoint.Origin{Kind: "HTTPRoute", Namespace: "default", Name: "random"}}
	for i := range rapid.IntRange(0, 3).Draw(t, "matches") {
		rule.Matches = append(rule.Matches, &waypoint.HTTPMatch{Path: rapid.SampledFrom([]*waypoint.PathMatch{
			nil, {Kind: &waypoint.PathMatch_Segments{Segments: "/a/"}}, {Kind: &waypoint.PathMatch_Segments{Segments: "/"}},
			{Kind: &waypoint.PathMatch_Prefix{Prefix: "/a"}}, {Kind: &waypoint.PathMatch_Exact{Exact: "/a"}},
			{Kind: &waypoint.PathMatch_Regex{Regex: "/a.*"}},
		}).Draw(t, fmt.Sprintf("path%d", i))})
	}
	if rapid.Bool().Draw(t, "rewritten") {
		rule.Rewrite = rewrite("rule")
	}
	if rapid.Bool().Draw(t, "edited") {
		rule.RequestHeaders, rule.ResponseHeaders = edits("request"), edits("response")
	}
	if rapid.Bool().Draw(t, "redirected") {
		rule.Action = &waypoint.HTTPRule_Redirect{Redirect: &waypoint.Redirect{
			Scheme: text.Draw(t, "scheme"), Hostname: text.Draw(t, "hostname"), Path: text.Draw(t, "to"),
			Port: rapid.SampledFrom([]uint32{0, 80, 70000}).Draw(t, "port"), DefaultPort: rapid.Bool().Draw(t, "default port"),
			Status: rapid.SampledFrom([]uint32{0, 301, 999}).Draw(t, "status"),
		}}
		return rule
	}
	forward := &waypoint.Forward{}
	for i := range rapid.IntRange(0, 3).Draw(t, "backends") {
		b := &waypoint.Backend{Namespace: "default", Hostname: "reviews.default.svc.cluster.local", Port: 9080,
			Weight: rapid.Uint32Range(0, 2).Draw(t, fmt.Sprintf("weight%d", i)), Broken: rapid.SampledFrom([]string{"", "", "gone"}).Draw(t, fmt.Sprintf("broken%d", i))}
		if rapid.Bool().Draw(t, fmt.Sprintf("own%d", i)) {
			b.Rewrite = rewrite(fmt.Sprint(i))
		}
		forward.Backends = append(forward.Backends, b)
	}
	rule.Action = &waypoint.HTTPRule_Forward{Forward: forward}
	return rule
}

func TestHeaderFormat(t *testing.T) {
	for value, want := range map[string]string{
		"plain":                             "plain",
		"100%":                              "100%%",
		"100%%":                             "100%%",
		"%":                                 "%%",
		"%REQ(x-a)%":                        "%REQ(x-a)%",
		"%REQ(:authority?host):12%":         "%REQ(:authority?host):12%",
		"%REQ(x-a%":                         "%%REQ(x-a%%",
		"%REQ(a b)%":                        "%%REQ(a b)%%",
		"%REQ(x):abc%":                      "%%REQ(x):abc%%",
		"%PROTOCOL%/%PROTOCOL(x)%":          "%PROTOCOL%/%%PROTOCOL(x)%%",
		"%ENVIRONMENT(SECRET)%":             "%%ENVIRONMENT(SECRET)%%",
		"%FILE_CONTENT(/etc/passwd)%":       "%%FILE_CONTENT(/etc/passwd)%%",
		"a%20b%20c":                         "a%%20b%%20c",
		"%DYNAMIC_METADATA(a.b:payload:x)%": "%DYNAMIC_METADATA(a.b:payload:x)%",
		"%UNHEARD_OF%":                      "%%UNHEARD_OF%%",
	} {
		if got := headerFormat(value); got != want {
			t.Errorf("%q: %q, want %q", value, got, want)
		}
	}
}

func TestRegexLimits(t *testing.T) {
	for _, fine := range []string{"/users/[0-9]+", `\pL{1,200}`, "(a|b)*", "[^/]{1000}", `\x{41}\\x{100}`, "世界+", strings.Repeat("a", 1000), `^/service/([^/]+)(/.*)$`} {
		if _, err := safeRegex(fine, true); err != nil {
			t.Errorf("%.40q: %v", fine, err)
		}
	}
	for _, refused := range []string{"(", "(a{1000}){10}", strings.Repeat("a", 2000), strings.Repeat("[^/]{1000}", 9), `\x{100}`, `(?!x)`} {
		if _, err := safeRegex(refused, false); err == nil {
			t.Errorf("%.40q is taken", refused)
		}
	}
}

// TestRewriteTable is the table of Gateway API HTTPPathModifier, in the words of Envoy's own rules for matching and
// replacing.
func TestRewriteTable(t *testing.T) {
	for _, c := range [][4]string{
		{"/foo/bar", "/foo", "/xyz", "/xyz/bar"},
		{"/foo/bar", "/foo", "/xyz/", "/xyz/bar"},
		{"/foo/bar", "/foo/", "/xyz", "/xyz/bar"},
		{"/foo/bar", "/foo/", "/xyz/", "/xyz/bar"},
		{"/foo", "/foo", "/xyz", "/xyz"},
		{"/foo/", "/foo", "/xyz", "/xyz/"},
		{"/foo/bar", "/foo", "", "/bar"},
		{"/foo/", "/foo", "", "/"},
		{"/foo", "/foo", "", "/"},
		{"/foo/", "/foo", "/", "/"},
		{"/foo", "/foo", "/", "/"},
		{"/foo/bar", "/", "/xyz", "/xyz/foo/bar"},
		{"/", "/", "/xyz", "/xyz/"},
		{"/foo/bar", "/", "/", "/foo/bar"},
	} {
		request, match, with, want := c[0], c[1], c[2], c[3]
		rule := &waypoint.HTTPRule{
			Matches: []*waypoint.HTTPMatch{{Path: &waypoint.PathMatch{Kind: &waypoint.PathMatch_Segments{Segments: match}}}},
			Rewrite: &waypoint.Rewrite{Prefix: wrapperspb.String(with)},
			Action: &waypoint.HTTPRule_Forward{Forward: &waypoint.Forward{Backends: []*waypoint.Backend{
				{Namespace: "default", Hostname: "reviews.default.svc.cluster.local", Port: 9080, Weight: 1},
			}}},
		}
		routes, problems := routesEnv().ruleRoutes(hostRoutes{protocol: waypoint.Protocol_HTTP1}, rule)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		if got := rewritten(routes, request); got != want {
			t.Errorf("%s with %s replaced by %q: %q, want %q", request, match, with, got, want)
		}
	}
}

// rewritten does what Envoy would: the first route that matches replaces what it matched.
func rewritten(routes []*routev3.Route, path string) string {
	for _, r := range routes {
		matched := ""
		switch p := r.GetMatch().GetPathSpecifier().(type) {
		case *routev3.RouteMatch_Path:
			if path != p.Path {
				continue
			}
			matched = p.Path
		case *routev3.RouteMatch_Prefix:
			if !strings.HasPrefix(path, p.Prefix) {
				continue
			}
			matched = p.Prefix
		case *routev3.RouteMatch_PathSeparatedPrefix:
			if path != p.PathSeparatedPrefix && !strings.HasPrefix(path, p.PathSeparatedPrefix+"/") {
				continue
			}
			matched = p.PathSeparatedPrefix
		}
		if whole := r.GetRoute().GetPathRewrite(); whole != "" {
			return whole
		}
		return r.GetRoute().GetPrefixRewrite() + strings.TrimPrefix(path, matched)
	}
	return "no route"
}

// TestRulesApart: a rule that cannot be carried out changes nothing of the others.
func TestRulesApart(t *testing.T) {
	good := &waypoint.HTTPRule{Action: &waypoint.HTTPRule_Direct{Direct: &waypoint.DirectResponse{Status: 200}}}
	bad := &waypoint.HTTPRule{
		Origin:         &waypoint.Origin{Kind: "HTTPRoute", Namespace: "default", Name: "bad"},
		Matches:        []*waypoint.HTTPMatch{{Path: &waypoint.PathMatch{Kind: &waypoint.PathMatch_Exact{Exact: "/bad"}}}},
		RequestHeaders: &waypoint.HeaderEdits{Remove: []string{":path"}},
		Action:         &waypoint.HTTPRule_Direct{Direct: &waypoint.DirectResponse{Status: 200}},
	}
	e := routesEnv()
	alone, _ := e.virtualHost(hostRoutes{name: "h", rules: []*waypoint.HTTPRule{good}})
	both, problems := e.virtualHost(hostRoutes{name: "h", rules: []*waypoint.HTTPRule{bad, good}})
	if len(problems) != 1 || problems[0].Object != "HTTPRoute default/bad" {
		t.Errorf("problems: %v", problems)
	}
	n := len(alone.GetRoutes())
	for i, r := range both.GetRoutes()[len(both.GetRoutes())-n:] {
		if !proto.Equal(r, alone.GetRoutes()[i]) {
			t.Errorf("route %d changed: %v", i, r)
		}
	}
	for _, r := range both.GetRoutes()[:len(both.GetRoutes())-n] {
		if s := r.GetDirectResponse().GetStatus(); r.GetMatch().GetPath() != "/bad" || s != 500 && s != 503 {
			t.Errorf("instead of the bad rule: %v", r)
		}
	}
}
