package intake

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// parse reads one document into nodes that know their lines; line is that of the first byte.
func parse(data []byte, line, maxNodes int) (root *yaml.Node, err error) {
	// Each node needs one of these bytes before it. Counting them keeps a file of commas from becoming two million nodes.
	structure := 0
	for _, c := range data {
		switch c {
		case ',', '\n', '{', '[':
			structure++
		}
	}
	if structure > maxNodes {
		return nil, &syntaxError{line: line, text: fmt.Sprintf("the document has more than %d parts", maxNodes)}
	}
	if t := bytes.TrimLeft(data, " \t\r\n"); len(t) > 0 && t[0] == '{' {
		// JSON is nearly a part of YAML, but not its escapes beyond the basic plane, and its parser is faster.
		if root, err := parseJSON(data, line); err == nil {
			return root, nil
		} else if looksLikeJSON(t) {
			return nil, err
		}
	}
	return parseYAML(data, line)
}

// looksLikeJSON tells a broken JSON text from a YAML flow mapping: JSON's first key is quoted.
func looksLikeJSON(t []byte) bool {
	t = bytes.TrimLeft(t[1:], " \t\r\n")
	return len(t) > 0 && t[0] == '"'
}

// syntaxError is about text that is not YAML or JSON at all.
type syntaxError struct {
	line int
	text string
}

func (e *syntaxError) Error() string { return fmt.Sprintf("line %d: %s", e.line, e.text) }

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

func parseYAML(data []byte, line int) (root *yaml.Node, err error) {
	// The parser has a history of panics over odd input; input must never end the process.
	defer func() {
		if p := recover(); p != nil {
			root, err = nil, &syntaxError{line: line, text: fmt.Sprintf("not understood as YAML: %v", p)}
		}
	}()
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		e := &syntaxError{line: line, text: err.Error()}
		if m := yamlLine.FindStringSubmatch(strings.TrimSpace(err.Error())); m != nil {
			e.text = m[2]
			if n, err := strconv.Atoi(m[1]); err == nil {
				e.line = line + n - 1
			}
		}
		return nil, e
	}
	if len(doc.Content) != 1 {
		return nil, &syntaxError{line: line, text: "the document is empty"}
	}
	shift(doc.Content[0], line-1)
	return doc.Content[0], nil
}

// shift makes lines relative to the file. Aliases point at nodes that are reached on their own.
func shift(n *yaml.Node, by int) {
	if by == 0 {
		return
	}
	n.Line += by
	for _, c := range n.Content {
		shift(c, by)
	}
}

// kind of what a node holds, as Kubernetes sees it.
type kind uint8

const (
	null kind = iota
	text
	integer
	float
	boolean
	list
	mapping
)

// oldBooleans are what YAML 1.1 takes for booleans, and so does kubectl. Reading them as text would accept files here
// that a cluster refuses.
var oldBooleans = []string{"y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "n", "N", "no", "No", "NO", "off", "Off", "OFF"}

// follow resolves an alias. Aliases of aliases cannot be written.
func follow(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}

func kindOf(n *yaml.Node) kind {
	switch n.Kind {
	case yaml.MappingNode:
		return mapping
	case yaml.SequenceNode:
		return list
	}
	switch n.ShortTag() {
	case "!!null":
		return null
	case "!!int":
		return integer
	case "!!float":
		return float
	case "!!bool":
		return boolean
	}
	if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0 &&
		len(n.Value) <= 3 && slices.Contains(oldBooleans, n.Value) {
		return boolean
	}
	return text
}

// describe says what a node holds, for people.
func describe(n *yaml.Node) string {
	switch kindOf(n) {
	case null:
		return "nothing"
	case mapping:
		return "a mapping"
	case list:
		return "a list"
	case integer, float:
		return "the number " + clip(n.Value)
	case boolean:
		return "the boolean " + clip(n.Value)
	}
	return "the text " + strconv.Quote(clip(n.Value))
}

// clip shortens text of unknown length for messages.
func clip(s string) string {
	if len(s) <= 80 {
		return s
	}
	return strings.ToValidUTF8(s[:77], "") + "..."
}

// child finds the value of a key of a mapping.
func child(n *yaml.Node, key string) *yaml.Node {
	if n == nil {
		return nil
	}
	n = follow(n)
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// scalar is the text of a child, "" without one.
func scalar(n *yaml.Node, key string) string {
	c := child(n, key)
	if c == nil {
		return ""
	}
	c = follow(c)
	if c.Kind != yaml.ScalarNode || kindOf(c) == null {
		return ""
	}
	return c.Value
}

// locate walks a path of keys (string) and indexes (int) and returns the line of its end, or of as much of it as there is.
func locate(root *yaml.Node, path []any) int {
	if root == nil {
		return 0 // typed objects have no lines
	}
	n, line := root, root.Line
	for _, seg := range path {
		n = follow(n)
		switch s := seg.(type) {
		case string:
			found := false
			if n.Kind == yaml.MappingNode {
				for i := 0; i+1 < len(n.Content); i += 2 {
					if n.Content[i].Value == s {
						line, n, found = n.Content[i].Line, n.Content[i+1], true
						break
					}
				}
			}
			if !found {
				return line
			}
		case int:
			if n.Kind != yaml.SequenceNode || s >= len(n.Content) {
				return line
			}
			n = n.Content[s]
			line = n.Line
		}
	}
	return line
}

// nodeAt is the node at the end of a path, nil when there is none.
func nodeAt(root *yaml.Node, path []any) *yaml.Node {
	n := root
	for _, seg := range path {
		switch s := seg.(type) {
		case string:
			n = child(n, s)
		case int:
			if n == nil {
				return nil
			}
			n = follow(n)
			if n.Kind != yaml.SequenceNode || s >= len(n.Content) {
				return nil
			}
			n = n.Content[s]
		}
		if n == nil {
			return nil
		}
	}
	if n == nil {
		return nil
	}
	return follow(n)
}

// pathString writes a path as kubectl does.
func pathString(path []any) string {
	var b strings.Builder
	for _, seg := range path {
		switch s := seg.(type) {
		case int:
			fmt.Fprintf(&b, "[%d]", s)
		case string:
			if strings.ContainsAny(s, "./[]") {
				fmt.Fprintf(&b, "[%s]", clip(s))
				continue
			}
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(clip(s))
		}
	}
	return b.String()
}
