package envoy

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// A filter of access logs is an expression in CEL, which Envoy compiles when it takes in the configuration: what it
// cannot compile it refuses, with the whole filter chain. So what a user wrote is read here first. The grammar is that of
// the CEL specification without macros over lists and without maps; types are not looked at.

const (
	maxCEL   = 4 << 10
	maxDepth = 32
)

var celToken = regexp.MustCompile(`^\s*(?:([0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?u?)|([rRbB]?"(?:[^"\\\n]|\\.)*"|[rRbB]?'(?:[^'\\\n]|\\.)*')|([A-Za-z_][A-Za-z0-9_]*)|(\|\||&&|[=!<>]=|[-+*/%!<>?:.,()\[\]]))`)

var (
	// Envoy leaves out string(), and refuses expressions with it.
	celFunctions = []string{"has", "size", "int", "uint", "double", "duration", "timestamp", "bytes", "type"}
	celMethods   = []string{"contains", "startsWith", "endsWith", "matches", "size"}
	// celLevels are binary operators by precedence, the loosest first.
	celLevels = [][]string{{"||"}, {"&&"}, {"==", "!=", "<", "<=", ">", ">=", "in"}, {"+", "-"}, {"*", "/", "%"}}
)

type celKind int

const (
	celEnd celKind = iota
	celLiteral
	celName
	celSymbol
)

type celReader struct {
	rest  string
	kind  celKind
	text  string
	depth int
	err   error
}

// checkCEL says what cannot be read of an expression.
func checkCEL(expression string) error {
	if len(expression) > maxCEL {
		return fmt.Errorf("the expression has %d bytes, %d are permitted", len(expression), maxCEL)
	}
	r := &celReader{rest: expression}
	r.next()
	r.expression()
	if r.err == nil && r.kind != celEnd {
		r.fail("unexpected %q", r.text)
	}
	return r.err
}

func (r *celReader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("no CEL expression: "+format, args...)
	}
	r.kind, r.text, r.rest = celEnd, "", ""
}

func (r *celReader) next() {
	at := celToken.FindStringSubmatch(r.rest)
	if at == nil {
		left := regexp.MustCompile(`^\s*`).ReplaceAllString(r.rest, "")
		r.kind, r.text = celEnd, ""
		if left != "" {
			r.fail("cannot read %.20q", left)
		}
		return
	}
	r.rest = r.rest[len(at[0]):]
	switch {
	case at[1] != "":
		r.kind, r.text = celLiteral, at[1]
	case at[2] != "":
		r.kind, r.text = celLiteral, at[2]
	case at[3] != "":
		r.kind, r.text = celName, at[3]
	default:
		r.kind, r.text = celSymbol, at[4]
	}
}

// take goes on if the next is the symbol.
func (r *celReader) take(symbol string) bool {
	if r.kind != celSymbol || r.text != symbol {
		return false
	}
	r.next()
	return true
}

func (r *celReader) expect(symbol string) {
	if !r.take(symbol) {
		r.fail("%q is missing before %q", symbol, r.text+r.rest)
	}
}

func (r *celReader) expression() {
	if r.depth++; r.depth > maxDepth {
		r.fail("nested too deeply")
		return
	}
	defer func() { r.depth-- }()
	r.binary(0)
	if r.take("?") {
		r.binary(0)
		r.expect(":")
		r.expression()
	}
}

func (r *celReader) binary(level int) {
	if level == len(celLevels) {
		r.unary()
		return
	}
	r.binary(level + 1)
	for (r.kind == celSymbol || r.kind == celName) && slices.Contains(celLevels[level], r.text) {
		r.next()
		r.binary(level + 1)
	}
}

func (r *celReader) unary() {
	for r.take("!") || r.take("-") {
	}
	r.primary()
	for {
		switch {
		case r.take("."):
			name := r.name()
			if r.take("(") {
				if !slices.Contains(celMethods, name) {
					r.fail("there is no method %s", name)
				}
				if name == "matches" {
					r.pattern()
				}
				r.list(")")
			}
		case r.take("["):
			r.expression()
			r.expect("]")
		default:
			return
		}
	}
}

func (r *celReader) name() string {
	name := r.text
	if r.kind != celName {
		r.fail("a name is missing before %q", r.text+r.rest)
		return ""
	}
	r.next()
	return name
}

func (r *celReader) primary() {
	switch {
	case r.kind == celLiteral:
		r.next()
	case r.kind == celName:
		name := r.name()
		if r.take("(") {
			if !slices.Contains(celFunctions, name) {
				r.fail("there is no function %s", name)
			}
			r.list(")")
		}
	case r.take("("):
		r.expression()
		r.expect(")")
	case r.take("["):
		r.list("]")
	case r.err == nil:
		r.err = errors.New("no CEL expression: it ends too early")
		if r.text != "" {
			r.err = fmt.Errorf("no CEL expression: unexpected %q", r.text)
		}
		r.fail("")
	}
}

// pattern looks at a regular expression written out, which Envoy compiles together with what is around it.
func (r *celReader) pattern() {
	if r.kind != celLiteral || r.text[0] < 'A' && r.text[0] != '"' && r.text[0] != '\'' {
		return
	}
	text := strings.TrimLeft(r.text, "rRbB")
	raw := text != r.text
	text = text[1 : len(text)-1]
	if !raw {
		text = strings.ReplaceAll(text, `\\`, `\`)
	}
	if _, err := regexp.Compile(text); err != nil {
		r.fail("%v", err)
	}
}

// list reads expressions with commas between them up to the closing symbol.
func (r *celReader) list(end string) {
	if r.take(end) {
		return
	}
	for r.expression(); r.take(","); r.expression() {
	}
	r.expect(end)
}
