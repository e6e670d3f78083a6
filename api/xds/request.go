package xds

import (
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc/codes"
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
	known       []knownResource
	nonce       string
	refusal     string
	refused     bool
}

// knownResource is one entry of initial_resource_versions. On the receiving side the bytes belong to the request, because a
// resuming client names everything it has and strings of their own would double that.
type knownResource struct {
	name, version []byte
}

func (r *request) decode(b []byte) error {
	*r = request{}
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
			k, err := decodeKnown(val)
			if err != nil {
				return fieldError(message, "initial_resource_versions", err)
			}
			r.known = append(r.known, k)
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
	return r.nonce != "" && len(r.subscribe) == 0 && len(r.unsubscribe) == 0 && r.known == nil
}

func decodeKnown(b []byte) (k knownResource, err error) {
	err = fields(b, func(num protowire.Number, val []byte) error {
		switch num {
		case fieldMapKey:
			k.name = val
		case fieldMapValue:
			k.version = val
		}
		return nil
	})
	return k, err
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
	for _, k := range r.known {
		size += len(k.name) + len(k.version) + 16
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
	for _, k := range r.known {
		b = protowire.AppendTag(b, fieldRequestKnown, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(2+protowire.SizeBytes(len(k.name))+protowire.SizeBytes(len(k.version))))
		b = protowire.AppendTag(b, fieldMapKey, protowire.BytesType)
		b = protowire.AppendBytes(b, k.name)
		b = protowire.AppendTag(b, fieldMapValue, protowire.BytesType)
		b = protowire.AppendBytes(b, k.version)
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
