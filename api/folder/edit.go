package folder

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"

	"sigs.k8s.io/yaml"
)

// Edit changes the one document of the file rel under the folder's lock, so that several writers can each keep their own
// fields of it. fn gets the document as maps, slices, strings, bools, int64 and float64 and returns what to write;
// returning nil deletes the file. Comments of the file are lost. A missing file is ErrNotFound: an edit never brings back
// what somebody else deleted.
func Edit(root, rel string, fn func(doc map[string]any) (map[string]any, error)) error {
	return locked(root, rel, "edit", func(r *os.Root) error {
		data, err := readFile(r, rel, MaxFileSize)
		if err != nil {
			return err
		}
		doc, err := decode(data)
		if err != nil {
			return err
		}
		doc, err = fn(doc)
		if err != nil {
			return err
		}
		if doc == nil {
			return r.Remove(rel)
		}
		data, err = encode(rel, doc)
		if err != nil {
			return err
		}
		return replace(r, rel, data)
	})
}

func decode(data []byte) (map[string]any, error) {
	docs := SplitDocuments(data)
	if len(docs) != 1 {
		return nil, fmt.Errorf("it holds %d documents and only files with one can be edited; put each in a file of its own", len(docs))
	}
	var doc map[string]any
	err := yaml.Unmarshal(docs[0].Data, &doc, func(d *json.Decoder) *json.Decoder { d.UseNumber(); return d })
	if err != nil {
		return nil, fmt.Errorf("read the document: %w", err)
	}
	if doc == nil {
		return nil, errors.New("the document is not a mapping")
	}
	return numbers(doc).(map[string]any), nil
}

// numbers replaces json.Number as Kubernetes does: int64 where it fits, else float64. Plain float64 would round large
// integers that belong to somebody else.
func numbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			v[k] = numbers(e)
		}
	case []any:
		for i, e := range v {
			v[i] = numbers(e)
		}
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		if f, err := v.Float64(); err == nil {
			return f
		}
	}
	return v
}

func encode(rel string, doc map[string]any) ([]byte, error) {
	if path.Ext(rel) != ".json" {
		return yaml.Marshal(doc)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	err := enc.Encode(doc)
	return b.Bytes(), err
}
