package xds

import (
	"errors"
	"fmt"
	"iter"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// wildcard as a name means every resource of the type.
const wildcard = "*"

// request is envoy.service.discovery.v3.DeltaDiscoveryRequest as far as it matters here.
type request struct {
	node        []byte // encoded core.v3.Node; only the first request of a stream needs it decoded
	typeURL     string
	subscribe   []string
	unsubscribe []string
	known       known
	nonce       string
	refusal     string
	refused     bool

	buf mem.Buffer // what known points into on the receiving side
}

// known is what a client says it has, initial_resource_versions. A resuming client names everything, so neither side builds a second
// copy of it: the sender ranges over its map, the receiver over the encoded request.
type known struct {
	n    int
	each iter.Seq2[[]byte, []byte] // name, version; valid until the request is released
}

// release gives the received bytes back. Only known is invalid afterwards.
func (r *request) release() {
	if r.buf != nil {
		r.buf.Free()
		r.buf, r.known = nil, known{}
	}
}

func (r *request) decode(b []byte) error {
	*r = request{known: known{each: func(yield func(name, version []byte) bool) { rangeKnown(b, yield) }}}
	return fields(b, func(num protowire.Number, val []byte) (err error) {
		const message = "DeltaDiscoveryRequest"
		var s string
		switch num {
		case fieldRequestNode:
			// Two encodings of one message in a row are the message merged.
			r.node = append(r.node, val...)
		case fieldRequestTypeURL:
			if r.typeURL, err = text(val); err != nil {
				return fieldError(message, "type_url", err)
			}
		case fieldRequestSubscribe:
			if s, err = text(val); err != nil {
				return fieldError(message, "resource_names_subscribe", err)
			}
			r.subscribe = append(r.subscribe, s)
		case fieldRequestUnsubscribe:
			if s, err = text(val); err != nil {
				return fieldError(message, "resource_names_unsubscribe", err)
			}
			r.unsubscribe = append(r.unsubscribe, s)
		case fieldRequestKnown:
			if _, _, err := decodeKnown(val); err != nil {
				return fieldError(message, "initial_resource_versions", err)
			}
			r.known.n++
		case fieldRequestNonce:
			if r.nonce, err = text(val); err != nil {
				return fieldError(message, "response_nonce", err)
			}
		case fieldRequestError:
			r.refused = true
			if err := r.decodeRefusal(val); err != nil {
				return fieldError(message, "error_detail", err)
			}
		}
		return nil
	})
}

// acknowledgement reports whether the request does nothing but answer a response.
func (r *request) acknowledgement() bool {
	return r.nonce != "" && len(r.subscribe) == 0 && len(r.unsubscribe) == 0 && r.known.n == 0
}

// rangeKnown walks the entries of a request that decoded before.
func rangeKnown(b []byte, yield func(name, version []byte) bool) {
	// The only error is the one that ends the walk.
	_ = fields(b, func(num protowire.Number, val []byte) error {
		if num != fieldRequestKnown {
			return nil
		}
		name, version, err := decodeKnown(val)
		if err == nil && !yield(name, version) {
			err = errStop
		}
		return err
	})
}

var errStop = errors.New("stop")

func decodeKnown(b []byte) (name, version []byte, err error) {
	err = fields(b, func(num protowire.Number, val []byte) error {
		switch num {
		case fieldMapKey:
			name = val
		case fieldMapValue:
			version = val
		}
		return nil
	})
	return name, version, err
}

func (r *request) decodeRefusal(b []byte) error {
	return fields(b, func(num protowire.Number, val []byte) (err error) {
		if num == fieldStatusMessage {
			r.refusal, err = text(val)
		}
		return err
	})
}

// decodeNode reads the client's introduction.
func (r *request) decodeNode() (*corev3.Node, error) {
	node := new(corev3.Node)
	if err := proto.Unmarshal(r.node, node); err != nil {
		return nil, fmt.Errorf("decode the node of the first request: %w", err)
	}
	return node, nil
}

func (r *request) encode() []byte {
	size := len(r.node) + len(r.typeURL) + len(r.nonce) + len(r.refusal) + 64
	for _, s := range r.subscribe {
		size += len(s) + 8
	}
	for _, s := range r.unsubscribe {
		size += len(s) + 8
	}
	if r.known.n > 0 {
		for name, version := range r.known.each {
			size += len(name) + len(version) + 16
		}
	}

	b := make([]byte, 0, size)
	if r.node != nil {
		b = protowire.AppendTag(b, fieldRequestNode, protowire.BytesType)
		b = protowire.AppendBytes(b, r.node)
	}
	b = appendString(b, fieldRequestTypeURL, r.typeURL)
	for _, s := range r.subscribe {
		b = appendString(b, fieldRequestSubscribe, s)
	}
	for _, s := range r.unsubscribe {
		b = appendString(b, fieldRequestUnsubscribe, s)
	}
	if r.known.n > 0 {
		for name, version := range r.known.each {
			b = appendKnown(b, name, version)
		}
	}
	if r.nonce != "" {
		b = appendString(b, fieldRequestNonce, r.nonce)
	}
	if r.refused {
		b = protowire.AppendTag(b, fieldRequestError, protowire.BytesType)
		status := protowire.AppendTag(nil, fieldStatusCode, protowire.VarintType)
		status = protowire.AppendVarint(status, uint64(codes.InvalidArgument))
		status = appendString(status, fieldStatusMessage, r.refusal)
		b = protowire.AppendBytes(b, status)
	}
	return b
}

func appendKnown(b, name, version []byte) []byte {
	b = protowire.AppendTag(b, fieldRequestKnown, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(2+protowire.SizeBytes(len(name))+protowire.SizeBytes(len(version))))
	b = protowire.AppendTag(b, fieldMapKey, protowire.BytesType)
	b = protowire.AppendBytes(b, name)
	b = protowire.AppendTag(b, fieldMapValue, protowire.BytesType)
	return protowire.AppendBytes(b, version)
}

// knownOf names everything in a map of versions. The slices are reused from one step to the next.
func knownOf(versions map[string]string) known {
	return known{n: len(versions), each: func(yield func(name, version []byte) bool) {
		var n, v []byte
		for name, version := range versions {
			n, v = append(n[:0], name...), append(v[:0], version...)
			if !yield(n, v) {
				return
			}
		}
	}}
}
