package intake

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

func parseJSON(data []byte, line int) (*yaml.Node, error) {
	p := &jsonParser{data: data, line: line, dec: json.NewDecoder(bytes.NewReader(data))}
	p.dec.UseNumber()
	root, err := p.value(0)
	if err == nil {
		if _, err = p.dec.Token(); err == io.EOF {
			return root, nil
		}
		p.advance()
		return nil, &syntaxError{line: p.line, text: "something follows the JSON object; put each object in a file of its own or in a List"}
	}
	var se *json.SyntaxError
	if errors.As(err, &se) {
		p.advanceTo(se.Offset)
	} else {
		p.advance()
	}
	text := err.Error()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || strings.Contains(text, "unexpected end") {
		p.advanceTo(int64(len(data)))
		text = "the JSON text ends too early"
	}
	return nil, &syntaxError{line: p.line, text: text}
}

type jsonParser struct {
	data []byte
	pos  int64
	line int
	dec  *json.Decoder
}

func (p *jsonParser) advance() { p.advanceTo(p.dec.InputOffset()) }

func (p *jsonParser) advanceTo(to int64) {
	to = min(to, int64(len(p.data)))
	if to > p.pos {
		p.line += bytes.Count(p.data[p.pos:to], []byte("\n"))
		p.pos = to
	}
}

func (p *jsonParser) value(depth int) (*yaml.Node, error) {
	if depth > maxDepth {
		return nil, errors.New("it is nested too deeply")
	}
	tok, err := p.dec.Token()
	if err != nil {
		return nil, err
	}
	p.advance()
	n := &yaml.Node{Kind: yaml.ScalarNode, Line: p.line}
	switch t := tok.(type) {
	case json.Delim:
		n.Kind = yaml.MappingNode
		if t == '[' {
			n.Kind = yaml.SequenceNode
		}
		for p.dec.More() {
			if n.Kind == yaml.MappingNode {
				key, err := p.value(depth + 1)
				if err != nil {
					return nil, err
				}
				n.Content = append(n.Content, key)
			}
			v, err := p.value(depth + 1)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, v)
		}
		_, err = p.dec.Token()
		return n, err
	case string:
		n.Tag, n.Value, n.Style = "!!str", t, yaml.DoubleQuotedStyle
	case json.Number:
		n.Tag, n.Value = "!!int", t.String()
		if strings.ContainsAny(n.Value, ".eE") {
			n.Tag = "!!float"
		}
	case bool:
		n.Tag, n.Value = "!!bool", strconv.FormatBool(t)
	case nil:
		n.Tag, n.Value = "!!null", "null"
	}
	return n, nil
}
