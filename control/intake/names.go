package intake

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// The rules for names below are Kubernetes' (RFC 1123 labels and subdomains, IANA service names, label keys and values),
// written out because regular expressions are the most expensive part of reading 50,000 pods.

func lowerAlnum(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

func alnum(c byte) bool { return lowerAlnum(c) || c >= 'A' && c <= 'Z' }

// isLabel reports whether s is an RFC 1123 label: lower case letters, digits and inner dashes, at most 63.
func isLabel(s string) bool {
	if s == "" || len(s) > 63 || !lowerAlnum(s[0]) || !lowerAlnum(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if !lowerAlnum(s[i]) && s[i] != '-' {
			return false
		}
	}
	return true
}

// isSubdomain reports whether s consists of labels joined by dots, at most 253 characters. Unlike in DNS a single part
// may be as long as the whole.
func isSubdomain(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if part == "" || !lowerAlnum(part[0]) || !lowerAlnum(part[len(part)-1]) {
			return false
		}
		for i := range len(part) {
			if !lowerAlnum(part[i]) && part[i] != '-' {
				return false
			}
		}
	}
	return true
}

// isQualifiedPart is the last part of a label's key, and a label's value when it is not empty.
func isQualifiedPart(s string) bool {
	if s == "" || len(s) > 63 || !alnum(s[0]) || !alnum(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !alnum(c) && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

// isQualifiedName is a label's key: an optional domain and a slash before the name.
func isQualifiedName(s string) bool {
	domain, name, ok := strings.Cut(s, "/")
	if !ok {
		return isQualifiedPart(s)
	}
	return isSubdomain(domain) && isQualifiedPart(name)
}

// isPortName is an IANA service name: at most 15 lower case letters, digits and single inner dashes, one letter at least.
func isPortName(s string) bool {
	if len(s) > 15 || !isLabel(s) || strings.Contains(s, "--") {
		return false
	}
	return strings.ContainsAny(s, "abcdefghijklmnopqrstuvwxyz")
}

// isHost is a DNS name as Istio takes them: labels of letters, digits, dashes and underscores; a star may stand for the
// first ones.
func isHost(s string, wildcard bool) bool {
	if rest, ok := strings.CutPrefix(s, "*."); ok && wildcard {
		s = rest
	}
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 255 {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if part == "" || len(part) > 63 || part[0] == '-' || part[len(part)-1] == '-' {
			return false
		}
		for i := range len(part) {
			if c := part[i]; !alnum(c) && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

// address parses an IP address without a zone.
func address(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	return a.Unmap(), err == nil && a.Zone() == ""
}

// prefix parses an address or a CIDR; an address is a prefix of full length.
func prefix(s string) (netip.Prefix, bool) {
	if a, ok := address(s); ok {
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	p, err := netip.ParsePrefix(s)
	return p, err == nil
}

// whyNotPrefix explains what is wrong with text that is neither address nor CIDR.
func whyNotPrefix(s string) (problem, fix string) {
	problem = fmt.Sprintf("%q is neither an IP address nor a CIDR", clip(s))
	addr, bits, ok := strings.Cut(s, "/")
	a, isAddr := address(addr)
	n, err := strconv.Atoi(bits)
	switch {
	case ok && isAddr && err == nil && (n < 0 || n > a.BitLen()):
		return problem, fmt.Sprintf("the number after the slash must be 0 to %d", a.BitLen())
	case ok && isAddr:
		return problem, "write a number after the slash, like 10.0.0.0/8"
	case strings.Count(addr, ".") == 3:
		return problem, "each of the four numbers must be 0 to 255, without leading zeros"
	case strings.Count(addr, ".") > 0 && strings.Trim(addr, "0123456789.") == "":
		return problem, "an IPv4 address has four numbers, like 10.0.0.0/8"
	}
	return problem, "write it like 10.0.0.0/8, 10.1.2.3 or 2001:db8::/32"
}

// nameFix proposes a valid name close to an invalid one.
func nameFix(s string) string {
	fixed := strings.Map(func(c rune) rune {
		switch {
		case c >= 'A' && c <= 'Z':
			return c + 'a' - 'A'
		case c < 128 && lowerAlnum(byte(c)) || c == '-' || c == '.':
			return c
		}
		return '-'
	}, s)
	fixed = strings.Trim(fixed, "-.")
	if fixed != "" && fixed != s && isSubdomain(fixed) {
		return "write " + clip(fixed)
	}
	return "use lower case letters, digits, dashes and dots, and begin and end with a letter or digit"
}
