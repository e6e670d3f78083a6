package intake

import (
	"fmt"
	"math"
	"net/netip"
	"net/url"
	"regexp/syntax"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// Bounds of what one object may ask of a proxy. Those of the Gateway API are its CRDs'; Istio has none, and gets ones that
// nobody who writes by hand will meet.
const (
	maxRegex       = 1024
	maxProgram     = 5000
	maxRules       = 2000
	maxMatches     = 500
	maxBackends    = 200
	maxValues      = 200
	maxHeaderValue = 16 << 10
	maxBody        = 1 << 20
	maxHosts       = 500
)

// fewer refuses lists that are too long and reports whether it is not.
func (r *reader) fewer(n, most int, path []any, thing string) bool {
	if n <= most {
		return true
	}
	r.refuse(path, fmt.Sprintf("there are %d %ss, at most %d are allowed", n, thing, most), "split the object")
	return false
}

// regex checks an expression that proxies will compile: RE2, as Go's.
func (r *reader) regex(s string, path []any) bool {
	if len(s) > maxRegex {
		r.refuse(path, fmt.Sprintf("the expression has %d characters, at most %d are allowed", len(s), maxRegex), "shorten it, or list the values")
		return false
	}
	tree, err := syntax.Parse(s, syntax.Perl)
	if err != nil {
		text := strings.TrimPrefix(err.Error(), "error parsing regexp: ")
		fix := "write an RE2 expression"
		if strings.Contains(text, "invalid or unsupported Perl syntax") {
			fix = "RE2 has no lookaround and no back references; write it without"
		} else if s == "*" {
			fix = "write .* for any text"
		}
		r.refuse(path, fmt.Sprintf("%q is not a regular expression: %s", clip(s), clip(text)), fix)
		return false
	}
	if programSize(tree) > maxProgram {
		r.refuse(path, fmt.Sprintf("%q becomes too large once its repetitions are written out", clip(s)), "use smaller numbers in braces")
		return false
	}
	return true
}

// programSize estimates the number of instructions of a compiled expression, without compiling it: repetitions multiply.
func programSize(re *syntax.Regexp) int {
	n := 1
	switch re.Op {
	case syntax.OpLiteral:
		n = len(re.Rune)
	case syntax.OpCharClass:
		n = 1 + len(re.Rune)/8
	}
	for _, sub := range re.Sub {
		n += programSize(sub)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(1, re.Min, re.Max)
	}
	return min(n, maxProgram+1)
}

// fqdn completes the short name of a service, as Istio pkg/config/model ResolveShortnameToFQDN does: names with a dot are
// complete already.
func (r *reader) fqdn(host, namespace string) string {
	host = canonicalHost(host)
	if host == "" || host == "*" || strings.Contains(host, ".") {
		return host
	}
	if _, ok := address(host); ok {
		return host
	}
	return host + "." + namespace + ".svc." + r.d.domain
}

// shortName warns about names that look complete to Istio and are not: "reviews.prod" stays as it is.
func (r *reader) shortName(host string, path []any) {
	if strings.HasSuffix(host, ".svc") {
		r.warn(path, fmt.Sprintf("%q is taken as a complete name, and no service has it", clip(host)), fmt.Sprintf("write %s.%s", host, r.d.domain))
		return
	}
	if strings.Count(host, ".") == 1 && !strings.HasPrefix(host, "*") && isHost(host, false) {
		if _, ok := address(host); !ok {
			name, ns, _ := strings.Cut(host, ".")
			if isLabel(name) && isLabel(ns) && !publicSuffix(ns) {
				r.warn(path, fmt.Sprintf("%q is taken as a complete name: only names without a dot get a namespace and domain", clip(host)), fmt.Sprintf("write %s.%s.svc.%s if a service of the mesh is meant", name, ns, r.d.domain))
			}
		}
	}
}

// publicSuffix reports whether a last part is rather a domain of the internet than a namespace.
func publicSuffix(s string) bool {
	return slices.Contains([]string{"com", "org", "net", "io", "dev", "edu", "gov", "info", "local", "internal", "test", "app", "cloud", "ai"}, s) || len(s) == 2
}

// duration checks a length of time. Istio's smallest is a millisecond.
func (r *reader) duration(d *durationpb.Duration, path []any, zero bool) *durationpb.Duration {
	if d == nil {
		return nil
	}
	switch v := d.AsDuration(); {
	case v == 0 && zero:
	case v < time.Millisecond:
		r.refuse(path, fmt.Sprintf("%s is too short", v), "write 1ms or longer")
	case v > 87600*time.Hour:
		r.refuse(path, fmt.Sprintf("%s is longer than ten years", v), "write a shorter time")
	}
	return d
}

// perMillion converts a share of 100.
func (r *reader) perMillion(percent float64, path []any) uint32 {
	if percent < 0 || percent > 100 || math.IsNaN(percent) {
		r.refuse(path, fmt.Sprintf("%v is not a percentage", percent), "write a number from 0 to 100")
		return 0
	}
	return uint32(math.Round(percent * 10000))
}

// status checks an HTTP status.
func (r *reader) httpStatus(n int64, least int64, path []any) uint32 {
	if n < least || n > 599 {
		r.refuse(path, fmt.Sprintf("%d is not a status that can be answered with", n), fmt.Sprintf("write a number from %d to 599", least))
		return 0
	}
	return uint32(n)
}

// isHeader reports whether s is a header's name: an HTTP token, RFC 9110 section 5.6.2.
func isHeader(s string) bool {
	if s == "" || len(s) > 256 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !alnum(c) && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return true
}

// header checks a header's name and folds its case.
func (r *reader) header(s string, path []any) string {
	switch {
	case strings.HasPrefix(s, ":"):
		r.refuse(path, fmt.Sprintf("%q is a part of the request line, not a header", clip(s)), "match or rewrite it with the field that is made for it")
	case !isHeader(s):
		r.refuse(path, fmt.Sprintf("%q is not the name of a header", clip(s)), "use letters, digits and dashes")
	}
	return lower(s)
}

// headerValue checks a value that will be sent: RFC 9110 section 5.5 allows neither line breaks nor null bytes.
func (r *reader) headerValue(s string, path []any) {
	if len(s) > maxHeaderValue {
		r.refuse(path, fmt.Sprintf("the value has %d characters, at most %d are allowed", len(s), maxHeaderValue), "shorten it")
	}
	if strings.ContainsAny(s, "\r\n\x00") {
		r.refuse(path, "a header's value cannot contain line breaks", "write it on one line")
	}
}

// subnet checks an address or CIDR of a destination.
func (r *reader) subnet(s string, path []any) string {
	p, ok := prefix(s)
	if !ok {
		problem, fix := whyNotPrefix(s)
		r.refuse(path, problem, fix)
		return ""
	}
	return netip.PrefixFrom(p.Addr(), p.Bits()).Masked().String()
}

// webAddress checks an http or https address.
func (r *reader) webAddress(s string, path []any, schemes ...string) {
	u, err := url.Parse(s)
	if err != nil || !slices.Contains(schemes, u.Scheme) || u.Host == "" && u.Scheme != "file" {
		r.refuse(path, fmt.Sprintf("%q is not an address of the kinds %s", clip(s), strings.Join(schemes, ", ")), "write it like https://example.com/path")
	}
}

// webAddressOf checks that text is an address with a scheme and a host, like a SPIFFE id.
func (r *reader) webAddressOf(s string, path []any) {
	if u, err := url.Parse(s); err != nil || u.Scheme == "" || u.Host == "" {
		r.refuse(path, fmt.Sprintf("%q is not an address with a scheme", clip(s)), "write it like spiffe://example.org/service")
	}
}

// exportTo checks the namespaces an object is shown to.
func (r *reader) exportTo(in []string) []string {
	var out []string
	if !r.fewer(len(in), maxHosts, at("spec", "exportTo"), "namespace") {
		return nil
	}
	for i, e := range in {
		if e != "." && e != "*" && e != "~" && !isLabel(e) {
			r.refuse(at("spec", "exportTo", i), fmt.Sprintf("%q is not a namespace", clip(e)), `write a namespace, "." for its own or "*" for all`)
		}
		out = append(out, r.d.words.one(e))
	}
	return out
}

// Short ways to write the matches of the waypoint API.
func exactly(s string) *waypoint.StringMatch {
	return &waypoint.StringMatch{Kind: &waypoint.StringMatch_Exact{Exact: s}}
}

func expression(s string) *waypoint.StringMatch {
	return &waypoint.StringMatch{Kind: &waypoint.StringMatch_Regex{Regex: s}}
}

func present() *waypoint.StringMatch {
	return &waypoint.StringMatch{Kind: &waypoint.StringMatch_Present{Present: true}}
}

type wrappedUint32 = wrapperspb.UInt32Value

func uint32Value(n uint32) *wrapperspb.UInt32Value { return wrapperspb.UInt32(n) }

func uint64Value(n uint64) *wrapperspb.UInt64Value { return wrapperspb.UInt64(n) }
