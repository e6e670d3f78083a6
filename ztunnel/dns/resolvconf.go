package dns

import (
	"net/netip"
	"strings"
)

// Upstream is what /etc/resolv.conf says about who to ask.
type Upstream struct {
	Servers []netip.AddrPort
	Search  []string
}

// ParseResolvConf reads the nameserver, search and domain lines; everything else, and what cannot be read, is skipped, as
// resolvers do.
func ParseResolvConf(text string) Upstream {
	var u Upstream
	for line := range strings.Lines(text) {
		if i := strings.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			// Three are all that resolvers ever ask.
			if a, err := netip.ParseAddr(fields[1]); err == nil && len(u.Servers) < 3 {
				u.Servers = append(u.Servers, netip.AddrPortFrom(a, 53))
			}
		case "search", "domain": // the last one counts
			u.Search = nil
			for _, d := range fields[1:] {
				u.Search = append(u.Search, strings.ToLower(strings.Trim(d, ".")))
			}
		}
	}
	return u
}
