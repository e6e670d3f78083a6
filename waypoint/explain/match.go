package explain

import (
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// matches reports whether a value that is there is meant.
func matches(m *waypoint.StringMatch, v string, ignoreCase bool) bool {
	fold := func(s string) string { return s }
	if ignoreCase || m.GetIgnoreCase() {
		fold = strings.ToLower
	}
	switch k := m.GetKind().(type) {
	case *waypoint.StringMatch_Exact:
		return fold(v) == fold(k.Exact)
	case *waypoint.StringMatch_Prefix:
		return strings.HasPrefix(fold(v), fold(k.Prefix))
	case *waypoint.StringMatch_Suffix:
		return strings.HasSuffix(fold(v), fold(k.Suffix))
	case *waypoint.StringMatch_Regex:
		return wholly(k.Regex, v, m.GetIgnoreCase())
	case *waypoint.StringMatch_Present:
		return v != ""
	}
	return false
}

// wholly matches an expression its user wrote against all of a value.
func wholly(expr, v string, ignoreCase bool) bool {
	if ignoreCase {
		expr = "(?i)" + expr
	}
	re, err := regexp.Compile(`^(?:` + expr + `)$`)
	return err == nil && re.MatchString(v)
}

func anyMatches(ms []*waypoint.StringMatch, v string) bool {
	return slices.ContainsFunc(ms, func(m *waypoint.StringMatch) bool { return matches(m, v, false) })
}

// asked evaluates a field and its negation: an empty field asks nothing. has says whether there is a value at all.
func asked(want, not []*waypoint.StringMatch, v string, has bool) bool {
	if len(want) > 0 && !(has && anyMatches(want, v)) {
		return false
	}
	return !(has && anyMatches(not, v))
}

// within reports whether an address is in one of the blocks.
func within(blocks []string, a netip.Addr) bool {
	return a.IsValid() && slices.ContainsFunc(blocks, func(b string) bool {
		if p, err := netip.ParsePrefix(b); err == nil {
			return p.Contains(a.Unmap())
		}
		x, err := netip.ParseAddr(b)
		return err == nil && x.Unmap() == a.Unmap()
	})
}

// normalizePath does to a path what the mesh is set to do.
func normalizePath(p string, how waypoint.MeshSettings_PathNormalization) string {
	if how == waypoint.MeshSettings_NONE {
		return p
	}
	if how == waypoint.MeshSettings_DECODE_AND_MERGE_SLASHES {
		p = strings.NewReplacer("%2f", "/", "%2F", "/", "%5c", "/", "%5C", "/").Replace(p)
	}
	p = strings.ReplaceAll(p, `\`, "/")
	if how == waypoint.MeshSettings_MERGE_SLASHES || how == waypoint.MeshSettings_DECODE_AND_MERGE_SLASHES {
		for strings.Contains(p, "//") {
			p = strings.ReplaceAll(p, "//", "/")
		}
	}
	return dots(p)
}

// dots resolves . and .. segments without touching empty ones. RFC 3986 §5.2.4.
func dots(p string) string {
	if !strings.Contains(p, "/.") {
		return p
	}
	var out []string
	segments := strings.Split(strings.TrimPrefix(p, "/"), "/")
	for i, s := range segments {
		last := i == len(segments)-1
		switch strings.NewReplacer("%2e", ".", "%2E", ".").Replace(s) {
		case ".":
			if last {
				out = append(out, "")
			}
		case "..":
			out = out[:max(0, len(out)-1)]
			if last {
				out = append(out, "")
			}
		default:
			out = append(out, s)
		}
	}
	return "/" + strings.Join(out, "/")
}

// pathMatches reports whether a rule means a path; the query is no part of it.
func pathMatches(m *waypoint.PathMatch, p string) bool {
	fold := func(s string) string { return s }
	if m.GetIgnoreCase() {
		fold = strings.ToLower
	}
	switch k := m.GetKind().(type) {
	case *waypoint.PathMatch_Exact:
		return fold(p) == fold(k.Exact)
	case *waypoint.PathMatch_Prefix:
		return strings.HasPrefix(fold(p), fold(k.Prefix))
	case *waypoint.PathMatch_Segments:
		prefix := fold(strings.TrimRight(k.Segments, "/"))
		rest, ok := strings.CutPrefix(fold(p), prefix)
		return ok && (rest == "" || rest[0] == '/')
	case *waypoint.PathMatch_Regex:
		return wholly(k.Regex, p, m.GetIgnoreCase())
	}
	return true
}

// fits reports whether a path has the form of a template, in which {*} is one segment and {**} any number of them.
// Istio AuthorizationPolicy, Operation.paths.
func fits(template, p string) bool {
	return fitSegments(strings.Split(template, "/"), strings.Split(p, "/"))
}

func fitSegments(t, p []string) bool {
	if len(t) == 0 {
		return len(p) == 0
	}
	if t[0] == "{**}" {
		for i := 0; i <= len(p); i++ {
			if fitSegments(t[1:], p[i:]) {
				return true
			}
		}
		return false
	}
	if len(p) == 0 {
		return false
	}
	if t[0] == "{*}" {
		return p[0] != "" && fitSegments(t[1:], p[1:])
	}
	ok, err := path.Match(escape(t[0]), p[0])
	return err == nil && ok && fitSegments(t[1:], p[1:])
}

// escape makes a literal segment a pattern that means itself.
func escape(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// requestMatches reports whether a rule means the request; why says what does not fit.
func (w *walk) requestMatches(m *waypoint.HTTPMatch) (ok bool, why string) {
	r := &w.req
	if m.GetPath() != nil && !pathMatches(m.GetPath(), r.path()) {
		return false, "path"
	}
	for name, v := range map[string]*waypoint.StringMatch{":method": m.GetMethod(), ":scheme": m.GetScheme(), ":authority": m.GetAuthority()} {
		if got, _ := r.header(name); v != nil && !matches(v, got, false) {
			return false, name[1:]
		}
	}
	for _, h := range m.GetHeaders() {
		if !w.valueMatches(h, r.header) {
			return false, "header " + h.GetName()
		}
	}
	_, raw, _ := strings.Cut(r.Path, "?")
	query, _ := url.ParseQuery(raw)
	for _, q := range m.GetQuery() {
		if !w.valueMatches(q, func(name string) (string, bool) { return query.Get(name), query.Has(name) }) {
			return false, "query parameter " + q.GetName()
		}
	}
	if ns := m.GetSourceNamespaces(); len(ns) > 0 && !slices.Contains(ns, w.peer.namespace) {
		return false, "namespace of the caller"
	}
	for _, c := range m.GetClaims() {
		if !w.claimMatches(c) {
			return false, "claim " + strings.Join(c.GetPath(), ".")
		}
	}
	return true, ""
}

func (w *walk) valueMatches(m *waypoint.ValueMatch, get func(string) (string, bool)) bool {
	v, has := get(m.GetName())
	ok := has
	if _, presence := m.GetValue().GetKind().(*waypoint.StringMatch_Present); !presence && m.GetValue() != nil {
		ok = has && matches(m.GetValue(), v, false)
	}
	return ok != m.GetInvert()
}

func (w *walk) claimMatches(m *waypoint.ClaimMatch) bool {
	found := slices.ContainsFunc(w.claim(m.GetPath()), func(v string) bool { return matches(m.GetValue(), v, false) })
	return found != m.GetInvert()
}
