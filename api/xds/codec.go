package xds

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// codec lets a stream send bytes that were encoded before and shared since, and read requests without building a message
// tree. Whatever is not one of this package's messages goes to gRPC's own protobuf codec, so other services can
// live on the same server.
type codec struct {
	fallback encoding.CodecV2
}

func newCodec() codec { return codec{fallback: encoding.GetCodecV2(proto.Name)} }

// Name is the content subtype on the wire; peers see ordinary protobuf.
func (codec) Name() string { return proto.Name }

// Marshal hands out the parts of a prepared message without copying them.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case *response:
		return m.parts, nil
	case *request:
		return mem.BufferSlice{mem.SliceBuffer(m.encode())}, nil
	}
	return c.fallback.Marshal(v)
}

// Unmarshal reads a request or a received response. Both may keep one private copy of the message until they are released.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch m := v.(type) {
	case *request:
		buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
		if err := m.decode(buf.ReadOnlyData()); err != nil {
			buf.Free()
			return err
		}
		if m.known.n == 0 {
			buf.Free() // everything else was copied out
			return nil
		}
		m.buf = buf
		return nil
	case *received:
		m.buf = data.MaterializeToBuffer(mem.DefaultBufferPool())
		if err := m.decode(m.buf.ReadOnlyData()); err != nil {
			m.release()
			return err
		}
		return nil
	}
	return c.fallback.Unmarshal(data, v)
}

var errNotUTF8 = errors.New("a string is not valid UTF-8")

// fields calls fn with every length-delimited field of a message. Fields of another wire type are unknown to us and
// skipped, as protobuf demands of a reader.
func fields(b []byte, fn func(num protowire.Number, val []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return protowire.ParseError(n)
			}
			b = b[n:]
			continue
		}
		val, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if err := fn(num, val); err != nil {
			return err
		}
	}
	return nil
}

// text turns the bytes of a string field into a string of its own.
func text(b []byte) (string, error) {
	if !utf8.Valid(b) {
		return "", errNotUTF8
	}
	return string(b), nil
}

func fieldError(message, field string, err error) error {
	return fmt.Errorf("decode %s: field %s: %w", message, field, err)
}
