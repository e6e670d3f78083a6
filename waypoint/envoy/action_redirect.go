package envoy

import (
	"fmt"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

var redirectCodes = map[uint32]routev3.RedirectAction_RedirectResponseCode{
	301: routev3.RedirectAction_MOVED_PERMANENTLY,
	302: routev3.RedirectAction_FOUND,
	303: routev3.RedirectAction_SEE_OTHER,
	307: routev3.RedirectAction_TEMPORARY_REDIRECT,
	308: routev3.RedirectAction_PERMANENT_REDIRECT,
}

// wellKnown are the ports that need not be named. Gateway API HTTPRequestRedirectFilter port.
var wellKnown = map[string]uint32{"http": 80, "https": 443}

// redirect sends the client elsewhere.
func redirect(rule *waypoint.HTTPRule, r *waypoint.Redirect, drafts []draft) ([]draft, error) {
	status := r.GetStatus()
	if status == 0 {
		// Gateway API's default, and Istio's.
		status = 302
		if rule.GetOrigin().GetKind() == "VirtualService" {
			status = 301
		}
	}
	code, ok := redirectCodes[status]
	if !ok {
		return nil, fmt.Errorf("redirect with status %d: use 301, 302, 303, 307 or 308", status)
	}
	if err := checkRedirect(r); err != nil {
		return nil, err
	}
	for _, d := range drafts {
		action := &routev3.RedirectAction{ResponseCode: code, HostRedirect: r.GetHostname()}
		if r.GetScheme() != "" {
			action.SchemeRewriteSpecifier = &routev3.RedirectAction_SchemeRedirect{SchemeRedirect: strings.ToLower(r.GetScheme())}
		}
		if r.GetPath() != "" {
			action.PathRewriteSpecifier = &routev3.RedirectAction_PathRedirect{PathRedirect: r.GetPath()}
		}
		d.route.Action = &routev3.Route_Redirect{Redirect: action}
	}
	if r.GetPrefix() != nil && r.GetPath() == "" {
		var err error
		drafts, err = replacePrefix(r.GetPrefix().GetValue(), drafts,
			func(d draft, path string) {
				d.route.GetRedirect().PathRewriteSpecifier = &routev3.RedirectAction_PathRedirect{PathRedirect: path}
			},
			func(d draft, prefix string) {
				d.route.GetRedirect().PathRewriteSpecifier = &routev3.RedirectAction_PrefixRewrite{PrefixRewrite: prefix}
			})
		if err != nil {
			return nil, err
		}
	}
	return redirectPort(r, drafts), nil
}

func checkRedirect(r *waypoint.Redirect) error {
	for what, value := range map[string]string{"host": r.GetHostname(), "path": r.GetPath(), "scheme": r.GetScheme()} {
		if strings.ContainsAny(value, "\r\n\x00") {
			return fmt.Errorf("the %s of a redirect has a line break", what)
		}
	}
	if path := r.GetPath(); path != "" && !strings.HasPrefix(path, "/") {
		return fmt.Errorf("path %q to redirect to must begin with a slash", path)
	}
	if r.GetPort() > 65535 {
		return fmt.Errorf("port %d to redirect to is none", r.GetPort())
	}
	return nil
}

// redirectPort sets the port of the location. A port that belongs to the scheme goes unsaid; Envoy always says one that
// it was given, and keeps the one of the request's host when it was given none. So where the host stays as requested and
// its port must go, requests that name a port get a route of their own, which says the new one.
func redirectPort(r *waypoint.Redirect, drafts []draft) []draft {
	scheme := strings.ToLower(r.GetScheme())
	port := r.GetPort()
	if port == 0 && r.GetDefaultPort() {
		port = wellKnown[scheme]
	}
	if port == 0 {
		return drafts
	}
	unsaid := r.GetDefaultPort() && port == wellKnown[firstNotEmpty(scheme, "http")]
	switch {
	case !unsaid:
		for _, d := range drafts {
			d.route.GetRedirect().PortRedirect = port
		}
		return drafts
	case r.GetHostname() != "":
		return drafts
	}
	var out []draft
	for _, d := range drafts {
		named := d.clone()
		named.route.Match.Headers = append(named.route.Match.Headers, &routev3.HeaderMatcher{
			Name:                 ":authority",
			HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: constantRegex(`.*:[0-9]+`)},
		})
		named.route.GetRedirect().PortRedirect = port
		out = append(out, named, d)
	}
	return out
}
