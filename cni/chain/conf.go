package chain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Type is the plugin's name in configurations, and of its program.
const Type = "ambit-cni"

// member is one entry of a JSON object. Objects keep their order: people compare these files with the ones they wrote.
type member struct {
	key   string
	value json.RawMessage
}

func parseObject(data []byte) ([]member, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.Join(errors.New("it is no JSON object"), err)
	}
	var out []member
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		m := member{}
		m.key, _ = t.(string)
		if err := dec.Decode(&m.value); err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON object")
	}
	return out, nil
}

// get returns the last of that name, as those who read JSON do.
func get(o []member, key string) json.RawMessage {
	for _, m := range slices.Backward(o) {
		if m.key == key {
			return m.value
		}
	}
	return nil
}

func text(o []member, key string) string {
	var s string
	if json.Unmarshal(get(o, key), &s) != nil {
		return ""
	}
	return s
}

func put(o []member, key string, value json.RawMessage) []member {
	for i := range slices.Backward(o) {
		if o[i].key == key {
			o = slices.Clone(o)
			o[i].value = value
			return o
		}
	}
	return append(slices.Clip(o), member{key, value})
}

func quote(s string) json.RawMessage {
	b, _ := json.Marshal(s) // a string can always be encoded
	return b
}

// render writes an object as people do.
func render(o []member) []byte {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(quote(m.key))
		b.WriteByte(':')
		b.Write(m.value)
	}
	b.WriteByte('}')
	var out bytes.Buffer
	if json.Indent(&out, b.Bytes(), "", "  ") != nil {
		return b.Bytes() // cannot be: its parts were parsed
	}
	out.WriteByte('\n')
	return out.Bytes()
}

// list is a configuration of several plugins.
type list struct {
	object  []member
	plugins []json.RawMessage
}

// parseList reads a .conflist as runtimes do (containernetworking/cni libcni.ConfListFromBytes): one that they would pass
// over is an error.
func parseList(data []byte) (list, error) {
	o, err := parseObject(data)
	if err != nil {
		return list{}, err
	}
	l := list{object: o}
	if text(o, "name") == "" {
		return l, errors.New("it has no name")
	}
	if err := json.Unmarshal(get(o, "plugins"), &l.plugins); err != nil || len(l.plugins) == 0 {
		return l, errors.New("it lists no plugins")
	}
	for i, p := range l.plugins {
		if typeOf(p) == "" {
			return l, fmt.Errorf("plugin %d has no type", i+1)
		}
	}
	return l, nil
}

// parseSingle reads a .conf: one plugin.
func parseSingle(data []byte) ([]member, error) {
	o, err := parseObject(data)
	if err == nil && text(o, "type") == "" {
		err = errors.New("it has no type")
	}
	return o, err
}

func typeOf(plugin json.RawMessage) string {
	o, err := parseObject(plugin)
	if err != nil {
		return ""
	}
	return text(o, "type")
}

func (l list) render() []byte {
	var b bytes.Buffer
	b.WriteByte('[')
	for i, p := range l.plugins {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(p)
	}
	b.WriteByte(']')
	return render(put(l.object, "plugins", b.Bytes()))
}

// has reports whether our plugin is in the list.
func (l list) has() bool {
	return slices.ContainsFunc(l.plugins, func(p json.RawMessage) bool { return typeOf(p) == Type })
}

// with returns the list with exactly one entry of ours. One that is there keeps its place: what others put behind it stays
// behind it, so that two writers that both want to be last do not write for ever.
func (l list) with(entry json.RawMessage) list {
	out := l
	out.plugins = nil
	done := false
	for _, p := range l.plugins {
		if typeOf(p) != Type {
			out.plugins = append(out.plugins, p)
			continue
		}
		if !done {
			out.plugins = append(out.plugins, entry)
			done = true
		}
	}
	if !done {
		out.plugins = append(out.plugins, entry)
	}
	return out
}

// without returns the list with no entry of ours.
func (l list) without() list {
	l.plugins = slices.DeleteFunc(slices.Clone(l.plugins), func(p json.RawMessage) bool { return typeOf(p) == Type })
	return l
}

// same reports whether two texts mean the same JSON, ignoring blanks.
func same(a, b []byte) bool {
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

// listOf makes a list of one plugin's configuration. The network keeps its name, by which address plugins remember what they
// gave to whom; one without gets the name Istio gives it (istio/istio cni/pkg/install/cniconfig.go).
func listOf(single []member) list {
	name := get(single, "name")
	if text(single, "name") == "" {
		name = quote("k8s-pod-network")
	}
	version := get(single, "cniVersion")
	if v := text(single, "cniVersion"); v == "" || strings.HasPrefix(v, "0.1.") || strings.HasPrefix(v, "0.2.") {
		// Earlier versions know no lists.
		version = quote("0.3.1")
	}
	return list{
		object:  []member{{"name", name}, {"cniVersion", version}},
		plugins: []json.RawMessage{render(single)},
	}
}
