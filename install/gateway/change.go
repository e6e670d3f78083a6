package gateway

import (
	"cmp"
	"fmt"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// redirectText says where clients are sent, as far as it is another place: "redirect 301 https://x.example/y".
func redirectText(r *waypoint.Redirect) string {
	out := fmt.Sprintf("redirect %d", max(r.GetStatus(), 301))
	to := r.GetHostname()
	if r.GetPort() != 0 {
		to += fmt.Sprintf(":%d", r.GetPort())
	}
	if s := r.GetScheme(); s != "" {
		to = s + "://" + cmp.Or(to, "…")
	}
	switch {
	case r.GetPath() != "":
		to += r.GetPath()
	case r.GetPrefix() != nil:
		to += cmp.Or(r.GetPrefix().GetValue(), "/") + "…"
	}
	if to == "" {
		return out
	}
	return out + " " + to
}

// rewriteText says what of a request is changed before it is sent on.
func rewriteText(w *waypoint.Rewrite) string {
	out := ""
	if w.GetAuthority() != "" {
		out += ", host " + w.GetAuthority()
	}
	switch {
	case w.GetRegex() != "":
		out += fmt.Sprintf(", path ~%s becomes %s", w.GetRegex(), w.GetSubstitution())
	case w.GetPath() != "":
		out += ", path becomes " + w.GetPath()
	case w.GetPrefix() != nil:
		out += ", prefix becomes " + cmp.Or(w.GetPrefix().GetValue(), "/")
	}
	return out
}
