package xds

import (
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// response is an encoded envoy.service.discovery.v3.DeltaDiscoveryResponse: a head of its own, then shared resources.
type response struct {
	parts mem.BufferSlice
}

// batch is what one response will carry.
type batch struct {
	resources mem.BufferSlice // each holds one or more encoded resources, tags included
	removed   []string
	bytes     int
	version   uint64
	mark      string // what the client is told of the step it is part of
	push      *push  // set when the batch is the same for all streams that read from the same place
}

// push is a response made once for every stream that has read equally far, which in a quiet fleet is all of them.
type push struct {
	from, to uint64 // cursors
	batch    *batch
	sent     sentResponse
	response *response
}

func (b *batch) empty() bool { return len(b.resources) == 0 && len(b.removed) == 0 }

func (b *batch) add(it *item) {
	b.resources = append(b.resources, it.encoded)
	b.bytes += it.encoded.Len()
}

func (b *batch) remove(name string) {
	b.removed = append(b.removed, name)
	b.bytes += len(name) + 4
}

// split cuts off what fits into one message. A single piece always fits; pieces are at most a slab or one resource.
func (b *batch) split(limit int) (part, rest *batch) {
	if b.bytes <= limit || len(b.resources) < 2 {
		return b, nil
	}
	n, size := 1, b.resources[0].Len()
	for n < len(b.resources) && size+b.resources[n].Len() <= limit {
		size += b.resources[n].Len()
		n++
	}
	if n == len(b.resources) {
		return b, nil
	}
	part = &batch{resources: b.resources[:n], bytes: size, version: b.version}
	if b.mark != "" {
		part.mark = markMore
	}
	return part, &batch{resources: b.resources[n:], removed: b.removed, bytes: b.bytes - size, version: b.version, mark: b.mark}
}

// smallResponse is the size up to which copying a response into one buffer costs less than keeping track of its parts.
const smallResponse = 8 << 10

func (b *batch) response(typeURL, nonce, version string) *response {
	size := len(typeURL) + len(nonce) + len(version) + len(b.mark) + 24
	for _, name := range b.removed {
		size += len(name) + 8
	}
	small := b.bytes <= smallResponse && len(b.resources) > 0
	if small {
		size += b.bytes
	}

	head := make([]byte, 0, size)
	head = appendString(head, fieldResponseVersion, version)
	head = appendString(head, fieldResponseTypeURL, typeURL)
	head = appendString(head, fieldResponseNonce, nonce)
	head = appendMark(head, b.mark)
	for _, name := range b.removed {
		head = appendString(head, fieldResponseRemoved, name)
	}
	if small {
		for _, r := range b.resources {
			head = append(head, r.ReadOnlyData()...)
		}
		return &response{parts: mem.BufferSlice{mem.SliceBuffer(head)}}
	}
	parts := make(mem.BufferSlice, 0, 1+len(b.resources))
	parts = append(parts, mem.SliceBuffer(head))
	return &response{parts: append(parts, b.resources...)}
}

// received is a DeltaDiscoveryResponse on the client's side. Bodies point into buf until release.
type received struct {
	version string
	typeURL string
	nonce   string
	mark    string // control_plane.identifier
	upserts []Raw
	removed []string
	size    int
	buf     mem.Buffer
}

func (r *received) release() {
	if r.buf != nil {
		r.buf.Free()
	}
	*r = received{}
}

func (r *received) decode(b []byte) error {
	const message = "DeltaDiscoveryResponse"
	r.size = len(b)
	return fields(b, func(num protowire.Number, val []byte) (err error) {
		switch num {
		case fieldResponseVersion:
			if r.version, err = text(val); err != nil {
				return fieldError(message, "system_version_info", err)
			}
		case fieldResponseTypeURL:
			if r.typeURL, err = text(val); err != nil {
				return fieldError(message, "type_url", err)
			}
		case fieldResponseNonce:
			if r.nonce, err = text(val); err != nil {
				return fieldError(message, "nonce", err)
			}
		case fieldResponseControlPlane:
			err := fields(val, func(num protowire.Number, val []byte) (err error) {
				if num == fieldIdentifier {
					r.mark, err = text(val)
				}
				return err
			})
			if err != nil {
				return fieldError(message, "control_plane", err)
			}
		case fieldResponseResources:
			raw, err := decodeResource(val)
			if err != nil {
				return fieldError(message, "resources", err)
			}
			r.upserts = append(r.upserts, raw)
		case fieldResponseRemoved:
			name, err := text(val)
			if err != nil {
				return fieldError(message, "removed_resources", err)
			}
			r.removed = append(r.removed, name)
		}
		return nil
	})
}

func decodeResource(b []byte) (raw Raw, err error) {
	err = fields(b, func(num protowire.Number, val []byte) (err error) {
		switch num {
		case fieldResourceVersion:
			raw.Version, err = text(val)
		case fieldResourceName:
			raw.Name, err = text(val)
		case fieldResourceAny:
			err = fields(val, func(num protowire.Number, val []byte) error {
				if num == fieldAnyValue {
					raw.Body = val
				}
				return nil
			})
		}
		return err
	})
	return raw, err
}
