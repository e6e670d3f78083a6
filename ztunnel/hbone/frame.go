package hbone

import "encoding/binary"

// Frame types, RFC 9113 §6.
const (
	frameData         = 0x0
	frameHeaders      = 0x1
	framePriority     = 0x2
	frameRSTStream    = 0x3
	frameSettings     = 0x4
	framePushPromise  = 0x5
	framePing         = 0x6
	frameGoAway       = 0x7
	frameWindowUpdate = 0x8
	frameContinuation = 0x9
)

// Frame flags, RFC 9113 §6. ACK and END_STREAM share a bit on different frame types.
const (
	flagAck        = 0x1
	flagEndStream  = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

// Settings, RFC 9113 §6.5.2.
const (
	settingHeaderTableSize   = 0x1
	settingEnablePush        = 0x2
	settingMaxStreams        = 0x3
	settingInitialWindowSize = 0x4
	settingMaxFrameSize      = 0x5
	settingMaxHeaderListSize = 0x6
)

const (
	frameHeaderLen = 9
	minMaxFrame    = 1 << 14
	maxMaxFrame    = 1<<24 - 1
	initialWindow  = 65535
	maxWindow      = 1<<31 - 1
	maxStreamID    = 1<<31 - 1
	preface        = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
)

type frameHeader struct {
	length int
	typ    byte
	flags  byte
	id     uint32
}

func parseFrameHeader(b []byte) frameHeader {
	return frameHeader{
		length: int(b[0])<<16 | int(b[1])<<8 | int(b[2]),
		typ:    b[3],
		flags:  b[4],
		// The reserved bit is ignored on receipt, RFC 9113 §4.1.
		id: binary.BigEndian.Uint32(b[5:]) & maxStreamID,
	}
}

func putFrameHeader(b []byte, h frameHeader) {
	_ = b[8]
	b[0], b[1], b[2], b[3], b[4] = byte(h.length>>16), byte(h.length>>8), byte(h.length), h.typ, h.flags
	binary.BigEndian.PutUint32(b[5:], h.id)
}

func appendFrameHeader(b []byte, h frameHeader) []byte {
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	putFrameHeader(b[len(b)-frameHeaderLen:], h)
	return b
}

// appendWords builds the frames whose payload is a row of 32-bit words.
func appendWords(b []byte, typ, flags byte, id uint32, words ...uint32) []byte {
	b = appendFrameHeader(b, frameHeader{length: 4 * len(words), typ: typ, flags: flags, id: id})
	for _, w := range words {
		b = binary.BigEndian.AppendUint32(b, w)
	}
	return b
}

type setting struct {
	id    uint16
	value uint32
}

func appendSettings(b []byte, settings ...setting) []byte {
	b = appendFrameHeader(b, frameHeader{length: 6 * len(settings), typ: frameSettings})
	for _, s := range settings {
		b = binary.BigEndian.AppendUint16(b, s.id)
		b = binary.BigEndian.AppendUint32(b, s.value)
	}
	return b
}
