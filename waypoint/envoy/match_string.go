package envoy

import (
	"errors"
	"fmt"
	"regexp/syntax"
	"strconv"
	"strings"
	"unicode/utf8"

	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// Limits of a regular expression somebody wrote. Envoy compiles it in every worker; a program above its own limit (32768
// steps, set in the bootstrap) would refuse the whole route configuration, and with it every other change.
const (
	maxRegexLength  = 1024
	maxRegexProgram = 15000
)

// anyValue is for matchers that have no notion of presence.
const anyValue = ".*"

// regexCost bounds the size of the program RE2 makes of an expression. Envoy has RE2 work on bytes (Latin-1), where a
// character is as many steps as it has bytes, and a class about one for each range below 256.
func regexCost(expression string) (int, error) {
	parsed, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return 0, err
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return 0, err
	}
	cost := 0
	for _, inst := range program.Inst {
		cost++
		if len(inst.Rune) == 1 {
			cost += utf8.RuneLen(inst.Rune[0])
		}
		for i := 0; i+1 < len(inst.Rune) && inst.Rune[i] <= 0xff; i += 2 {
			cost++
		}
	}
	return cost, nil
}

// wideEscape finds \x{100} and above: RE2 on bytes knows no such character.
func wideEscape(expression string) bool {
	for i := 0; i+1 < len(expression); i++ {
		if expression[i] != '\\' {
			continue
		}
		i++
		if expression[i] != 'x' || !strings.HasPrefix(expression[i+1:], "{") {
			continue
		}
		digits, _, _ := strings.Cut(expression[i+2:], "}")
		if n, err := strconv.ParseUint(digits, 16, 32); err == nil && n > 0xff {
			return true
		}
	}
	return false
}

// safeRegex takes an RE2 expression as its author wrote it; what it matches against must match as a whole.
func safeRegex(expression string, ignoreCase bool) (*matcherv3.RegexMatcher, error) {
	if len(expression) > maxRegexLength {
		return nil, fmt.Errorf("a regular expression of %d characters is too long: use at most %d", len(expression), maxRegexLength)
	}
	if wideEscape(expression) {
		return nil, fmt.Errorf("regular expression %q: characters above \\x{ff} cannot be written as escapes: write them as they are", expression)
	}
	if ignoreCase {
		expression = "(?i)" + expression
	}
	cost, err := regexCost(expression)
	if err != nil {
		return nil, fmt.Errorf("regular expression %q: %w", expression, err)
	}
	if cost > maxRegexProgram {
		return nil, fmt.Errorf("regular expression %q is too costly (%d steps, at most %d): use smaller repetitions", expression, cost, maxRegexProgram)
	}
	return &matcherv3.RegexMatcher{Regex: expression}, nil
}

// constantRegex is for the few expressions of our own.
func constantRegex(expression string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{
		SafeRegex: &matcherv3.RegexMatcher{Regex: expression},
	}}
}

func exactString(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}}
}

// isPresence tells whether a match asks only for there to be a value. A prefix or suffix of nothing fits every value, and
// Envoy has no such matcher; the expression "*" is none, but Istio pilot/pkg/networking/core/route canBeConvertedToPresentMatch
// takes it for presence.
func isPresence(m *waypoint.StringMatch) bool {
	switch k := m.GetKind().(type) {
	case nil, *waypoint.StringMatch_Present:
		return true
	case *waypoint.StringMatch_Prefix:
		return k.Prefix == ""
	case *waypoint.StringMatch_Suffix:
		return k.Suffix == ""
	case *waypoint.StringMatch_Regex:
		return k.Regex == "*"
	}
	return false
}

// stringMatcher is Envoy's form of a match; presence becomes any value.
func stringMatcher(m *waypoint.StringMatch) (*matcherv3.StringMatcher, error) {
	if isPresence(m) {
		return constantRegex(anyValue), nil
	}
	out := &matcherv3.StringMatcher{IgnoreCase: m.GetIgnoreCase()}
	switch k := m.GetKind().(type) {
	case *waypoint.StringMatch_Exact:
		out.MatchPattern = &matcherv3.StringMatcher_Exact{Exact: k.Exact}
	case *waypoint.StringMatch_Prefix:
		out.MatchPattern = &matcherv3.StringMatcher_Prefix{Prefix: k.Prefix}
	case *waypoint.StringMatch_Suffix:
		out.MatchPattern = &matcherv3.StringMatcher_Suffix{Suffix: k.Suffix}
	case *waypoint.StringMatch_Regex:
		regex, err := safeRegex(k.Regex, m.GetIgnoreCase())
		if err != nil {
			return nil, err
		}
		out.IgnoreCase = false
		out.MatchPattern = &matcherv3.StringMatcher_SafeRegex{SafeRegex: regex}
	default:
		return nil, errors.New("a match of a kind this version does not know: upgrade the waypoint")
	}
	return out, nil
}
