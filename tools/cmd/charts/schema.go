package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// schema is a JSON schema of what a chart's values may be, in the order of the file.
type schema struct {
	Schema      string     `json:"$schema,omitempty"`
	Description string     `json:"description,omitempty"`
	Type        any        `json:"type,omitempty"`
	Enum        []string   `json:"enum,omitempty"`
	Pattern     string     `json:"pattern,omitempty"`
	Examples    []string   `json:"examples,omitempty"`
	Minimum     *int       `json:"minimum,omitempty"`
	Additional  *bool      `json:"additionalProperties,omitempty"`
	Properties  properties `json:"properties,omitempty"`
}

type property struct {
	name string
	schema
}

type properties []property

func (p properties) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, e := range p {
		if i > 0 {
			b.WriteByte(',')
		}
		v, err := json.Marshal(e.schema)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%q:%s", e.name, v)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// schemaOf derives the schema from the values themselves: types are those of the defaults, and comments say the rest.
// "one of: A, B" lists all values there are, "pattern: REGEX like EXAMPLE" says how a text is written, "Free form" means whatever
// Kubernetes takes there, and "Number or percentage", "True, false or auto" and "At least 1" what they say. No number is negative.
func schemaOf(values []byte) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(values, &doc); err != nil {
		return nil, err
	}
	s, err := derive(doc.Content[0], "")
	if err != nil {
		return nil, err
	}
	s.Schema = "http://json-schema.org/draft-07/schema#"
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err = enc.Encode(s)
	return b.Bytes(), err
}

func derive(n *yaml.Node, comment string) (schema, error) {
	var s schema
	free, either, auto, least := false, false, false, 0
	var text []string
	for line := range strings.Lines(comment) {
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "#"))
		if list, ok := strings.CutPrefix(line, "one of: "); ok {
			for v := range strings.SplitSeq(list, ", ") {
				s.Enum = append(s.Enum, strings.Trim(v, `"`))
			}
			continue
		}
		if pattern, ok := strings.CutPrefix(line, "pattern: "); ok {
			pattern, example, ok := strings.Cut(pattern, " like ")
			if !ok {
				return s, fmt.Errorf("line %d: a pattern without an example tells nobody what to write", n.Line)
			}
			s.Pattern, s.Examples = pattern, []string{example}
			continue
		}
		if rest, ok := strings.CutSuffix(line, "At least 1"); ok {
			least, line = 1, strings.TrimSpace(rest)
		}
		if rest, ok := strings.CutSuffix(line, "Free form"); ok {
			free, line = true, strings.TrimSpace(rest)
		}
		if rest, ok := strings.CutSuffix(line, "Number or percentage"); ok {
			either, line = true, strings.TrimSpace(rest)
		}
		if rest, ok := strings.CutSuffix(line, "True, false or auto"); ok {
			auto, line = true, strings.TrimSpace(rest)
		}
		if line != "" {
			text = append(text, line)
		}
	}
	s.Description = strings.Join(text, " ")
	switch n.Kind {
	case yaml.MappingNode:
		s.Type = "object"
		if free {
			return s, nil
		}
		no := false
		s.Additional = &no
		for i := 0; i+1 < len(n.Content); i += 2 {
			p, err := derive(n.Content[i+1], n.Content[i].HeadComment)
			if err != nil {
				return s, err
			}
			s.Properties = append(s.Properties, property{n.Content[i].Value, p})
		}
		return s, nil
	case yaml.SequenceNode:
		s.Type = "array"
		return s, nil
	}
	types := map[string]string{"!!str": "string", "!!int": "integer", "!!bool": "boolean"}
	t, ok := types[n.Tag]
	if !ok {
		return s, fmt.Errorf("line %d: a default of type %s says nothing about what is allowed", n.Line, n.Tag)
	}
	s.Type = t
	if either {
		s.Type = []string{"integer", "string"}
		s.Pattern, s.Examples = "^[0-9]+%?$", []string{"25%"}
	}
	if auto {
		s.Type = []string{"boolean", "string"}
		s.Pattern, s.Examples = "^auto$", []string{"auto"}
	}
	if either || t == "integer" {
		s.Minimum = &least
	}
	return s, nil
}
