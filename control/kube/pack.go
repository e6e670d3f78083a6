package kube

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/ambit-mesh/ambit/control/object"
)

const (
	// keepMost is what fits into a Secret, with some room for the names of its keys.
	keepMost = 900 << 10
	// keepName is what a key of a Secret takes beside its value.
	keepName = 2*sha256.Size + 8
	// inflateMost bounds a version that is read back: the API server takes objects of 1.5 MiB.
	inflateMost = 4 << 20
)

// pack makes the Secret's data of what is to be kept, and returns what there is no room for. What fits as it is stays as it
// is: control planes of the release before read no compressed versions, and who goes back to it loses none.
//
// Otherwise they are compressed. Every namespace has the same right to room and what one does not need is the others', so
// that nobody takes another's place; within a namespace small ones come first. The roots come before all, in their order:
// what policies of the mesh's root namespace keep out, they keep out everywhere.
func pack(held map[object.Key][]byte, roots ...string) (data map[string]any, without []object.Key) {
	if data = asIs(held); data != nil {
		return data, nil
	}
	type version struct {
		key  object.Key
		data []byte
	}
	type tenant struct {
		name string
		size int
		list []version
	}
	of := map[string]*tenant{}
	z := gzip.NewWriter(nil)
	for key, raw := range held {
		t := of[key.Namespace]
		if t == nil {
			t = &tenant{name: key.Namespace}
			of[key.Namespace] = t
		}
		v := version{key, deflate(z, raw)}
		t.list, t.size = append(t.list, v), t.size+len(v.data)+keepName
	}
	var tenants []*tenant
	for _, t := range of {
		slices.SortFunc(t.list, func(a, b version) int {
			return cmp.Or(cmp.Compare(len(a.data), len(b.data)), cmp.Compare(a.key.String(), b.key.String()))
		})
		tenants = append(tenants, t)
	}
	first := func(t *tenant) int {
		if i := slices.Index(roots, t.name); i >= 0 {
			return i
		}
		return len(roots)
	}
	slices.SortFunc(tenants, func(a, b *tenant) int {
		return cmp.Or(cmp.Compare(first(a), first(b)), cmp.Compare(a.size, b.size), cmp.Compare(a.name, b.name))
	})
	room := keepMost
	data = map[string]any{}
	for i, t := range tenants {
		share := room / (len(tenants) - i)
		if slices.Contains(roots, t.name) {
			share = room
		}
		for _, v := range t.list {
			need := len(v.data) + keepName
			if need > share {
				without = append(without, v.key)
				continue
			}
			share, room = share-need, room-need
			data[keyOf(v.key)] = base64.StdEncoding.EncodeToString(v.data)
		}
	}
	slices.SortFunc(without, func(a, b object.Key) int { return cmp.Compare(a.String(), b.String()) })
	return data, without
}

// asIs is the Secret's data without compression, or nil if it does not fit.
func asIs(held map[object.Key][]byte) map[string]any {
	data, size := map[string]any{}, 0
	for key, raw := range held {
		if size += len(raw) + keepName; size > keepMost {
			return nil
		}
		data[keyOf(key)] = base64.StdEncoding.EncodeToString(raw)
	}
	return data
}

// keyOf is an object's key in the Secret: names may be longer than those.
func keyOf(k object.Key) string {
	sum := sha256.Sum256([]byte(k.String()))
	return hex.EncodeToString(sum[:])
}

// deflate makes a version small: nobody reads its status, and the rest is text. The same version gives the same bytes.
func deflate(z *gzip.Writer, raw []byte) []byte {
	var doc map[string]any
	if json.Unmarshal(raw, &doc) == nil && doc["status"] != nil {
		delete(doc, "status")
		if less, err := json.Marshal(doc); err == nil {
			raw = less
		}
	}
	var b bytes.Buffer
	z.Reset(&b)
	_, err := z.Write(raw)
	if err := errors.Join(err, z.Close()); err != nil {
		return raw // memory takes everything
	}
	return b.Bytes()
}

// inflate reads what deflate wrote, and what is as it was.
func inflate(data []byte) ([]byte, error) {
	if !bytes.HasPrefix(data, []byte{0x1f, 0x8b}) { // RFC 1952 section 2.3.1
		return data, nil
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	out, err := io.ReadAll(io.LimitReader(z, inflateMost+1))
	if err == nil && len(out) > inflateMost {
		err = fmt.Errorf("a version of more than %d bytes", inflateMost)
	}
	return out, err
}
