package hbone

import (
	"encoding/binary"

	"golang.org/x/net/http2/hpack"
)

const (
	// keptPayload bounds the payload of a non-DATA frame we keep whole; all we understand are shorter, header blocks
	// have their own limit.
	keptPayload = 16 << 10
	// maxContinuations bounds the frames one header block may be spread over (CVE-2024-27316).
	maxContinuations = 64
)

// parser cuts the byte stream into frames. DATA is handed on as it arrives, everything else when it is whole.
// It belongs to the reader goroutine.
type parser struct {
	c    *conn
	hdec *hpack.Decoder

	head  [frameHeaderLen]byte
	have  int // bytes in head
	frame frameHeader
	left  int    // payload bytes still to come
	kept  []byte // payload so far, of frames other than DATA
	skip  bool   // unknown frame: drop the payload

	// DATA
	dst     *Stream // nil: drop, but account for it
	padding int     // trailing bytes that are padding
	wantPad bool    // the next byte is the pad length

	// header blocks
	block         []byte
	blockID       uint32
	blockEnd      bool // END_STREAM
	continuations int
	inBlock       bool

	firstFrame bool
}

// feed parses one read's worth of bytes.
func (p *parser) feed(b []byte) error {
	for len(b) > 0 {
		if p.left == 0 {
			n := copy(p.head[p.have:], b)
			p.have += n
			b = b[n:]
			if p.have < frameHeaderLen {
				return nil
			}
			p.have = 0
			p.frame = parseFrameHeader(p.head[:])
			p.left = p.frame.length
			if err := p.begin(); err != nil {
				return err
			}
			if p.left == 0 {
				if err := p.finish(); err != nil {
					return err
				}
			}
			continue
		}
		n := min(p.left, len(b))
		p.left -= n
		part := b[:n]
		b = b[n:]
		switch {
		case p.frame.typ == frameData:
			if err := p.data(part); err != nil {
				return err
			}
		case !p.skip:
			p.kept = append(p.kept, part...)
		}
		if p.left == 0 {
			if err := p.finish(); err != nil {
				return err
			}
		}
	}
	return nil
}

// begin judges a frame by its header alone.
func (p *parser) begin() error {
	f := p.frame
	if f.length > p.c.cfg.MaxFrame {
		return violation(FrameSizeError, "frame of %d bytes, we announced %d", f.length, p.c.cfg.MaxFrame)
	}
	if p.firstFrame {
		// RFC 9113 §3.4.
		if f.typ != frameSettings || f.flags&flagAck != 0 {
			return violation(ProtocolError, "first frame is not SETTINGS")
		}
		p.firstFrame = false
	}
	if p.inBlock != (f.typ == frameContinuation) || p.inBlock && f.id != p.blockID {
		return violation(ProtocolError, "frame type 0x%x on stream %d in or outside a header block", f.typ, f.id)
	}
	onStream, known := frameTarget(f.typ)
	if known && f.typ != frameWindowUpdate && onStream != (f.id != 0) {
		return violation(ProtocolError, "frame type 0x%x on stream %d", f.typ, f.id)
	}
	p.skip = !known
	p.kept = p.kept[:0]
	switch f.typ {
	case frameData:
		return p.beginData()
	case frameHeaders, frameContinuation:
		if len(p.block)+f.length > p.c.cfg.HeaderList+keptPayload {
			return violation(EnhanceYourCalm, "header block of more than %d bytes", p.c.cfg.HeaderList)
		}
	case frameGoAway:
		// Debug data may fill a whole frame; none of it is worth a disconnect.
		if f.length > keptPayload {
			return violation(EnhanceYourCalm, "GOAWAY of %d bytes", f.length)
		}
	default:
		if known && f.length > keptPayload {
			return violation(FrameSizeError, "frame type 0x%x of %d bytes", f.typ, f.length)
		}
	}
	return nil
}

// frameTarget says whether a frame type belongs on a stream, and whether we know it at all.
func frameTarget(typ byte) (onStream, known bool) {
	switch typ {
	case frameData, frameHeaders, framePriority, frameRSTStream, framePushPromise, frameContinuation:
		return true, true
	case frameSettings, framePing, frameGoAway, frameWindowUpdate:
		return false, true
	}
	return false, false
}

// beginData accounts for a whole DATA frame, padding included, RFC 9113 §6.9.1, and picks its stream.
func (p *parser) beginData() error {
	c, f := p.c, p.frame
	p.dst, p.padding, p.wantPad = nil, 0, f.flags&flagPadded != 0
	if p.wantPad && f.length == 0 {
		return violation(FrameSizeError, "padded DATA without a pad length")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead != nil {
		return c.dead
	}
	c.heard = true
	if int64(f.length) > c.recvWin {
		return violation(FlowControlError, "DATA beyond the connection window")
	}
	c.recvWin -= int64(f.length)
	if f.length == 0 && f.flags&flagEndStream == 0 && !c.floods.spend(1) {
		return violation(EnhanceYourCalm, "too many empty DATA frames")
	}
	s := c.streams[f.id]
	switch {
	case s == nil && c.idleLocked(f.id):
		return violation(ProtocolError, "DATA on idle stream %d", f.id)
	case s == nil:
		// In flight while we reset the stream, or after the peer ended it itself. RFC 9113 §5.1.
		if !c.forgotten.has(f.id) {
			c.resetLocked(f.id, StreamClosed)
		}
	case s.remoteEnd:
		c.resetStreamLocked(s, StreamClosed, "DATA after END_STREAM")
	case c.client && !s.answered:
		c.resetStreamLocked(s, ProtocolError, "DATA before the response")
	case int64(f.length) > s.recvWin:
		c.resetStreamLocked(s, FlowControlError, "DATA beyond the stream window")
	default:
		s.recvWin -= int64(f.length)
		p.dst = s
	}
	return nil
}

// data takes a part of a DATA frame.
func (p *parser) data(b []byte) error {
	c := p.c
	if p.wantPad {
		p.wantPad = false
		p.padding = int(b[0])
		if p.padding > p.left+len(b)-1 {
			return violation(ProtocolError, "padding longer than the DATA frame")
		}
		b = b[1:]
		// Padding and its length use the window without reaching anybody.
		c.mu.Lock()
		c.consumedLocked(1 + p.padding)
		if p.dst != nil {
			p.dst.consumedLocked(1 + p.padding)
		}
		c.mu.Unlock()
	}
	// What is left over beyond b is payload first, padding last.
	if over := p.padding - p.left; over > 0 {
		b = b[:len(b)-min(over, len(b))]
	}
	if len(b) == 0 {
		return nil
	}
	if p.dst == nil {
		c.mu.Lock()
		c.consumedLocked(len(b))
		c.mu.Unlock()
		return nil
	}
	p.dst.deliver(b)
	return nil
}

// finish handles a frame that has arrived whole.
func (p *parser) finish() error {
	c, f, b := p.c, p.frame, p.kept
	if p.skip {
		return nil
	}
	switch f.typ {
	case frameData:
		if p.dst != nil && f.flags&flagEndStream != 0 {
			p.dst.deliverEnd()
		}
		p.dst = nil
		return nil
	case frameHeaders:
		return p.headers()
	case frameContinuation:
		p.continuations++
		if p.continuations > maxContinuations {
			return violation(EnhanceYourCalm, "header block in more than %d frames", maxContinuations)
		}
		p.block = append(p.block, b...)
		if f.flags&flagEndHeaders != 0 {
			return p.endBlock()
		}
		return nil
	case framePushPromise:
		return violation(ProtocolError, "PUSH_PROMISE, which we do not allow")
	case framePriority:
		return c.onPriority(f, b)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead != nil {
		return c.dead
	}
	c.heard = true
	switch f.typ {
	case frameRSTStream:
		return c.onReset(f, b)
	case frameSettings:
		return c.onSettings(f, b)
	case framePing:
		return c.onPing(f, b)
	case frameGoAway:
		return c.onGoAway(b)
	case frameWindowUpdate:
		return c.onWindowUpdate(f, b)
	}
	return nil
}

// headers strips padding and priority and starts a header block. RFC 9113 §6.2.
func (p *parser) headers() error {
	f, b := p.frame, p.kept
	pad := 0
	if f.flags&flagPadded != 0 {
		if len(b) < 1 {
			return violation(FrameSizeError, "padded HEADERS without a pad length")
		}
		pad, b = int(b[0]), b[1:]
	}
	if f.flags&flagPriority != 0 {
		if len(b) < 5 {
			return violation(FrameSizeError, "HEADERS too short for its priority")
		}
		if binary.BigEndian.Uint32(b)&maxStreamID == f.id {
			return violation(ProtocolError, "stream %d depends on itself", f.id)
		}
		b = b[5:]
	}
	if pad > len(b) {
		return violation(ProtocolError, "padding longer than the HEADERS frame")
	}
	p.block = append(p.block[:0], b[:len(b)-pad]...)
	p.blockID, p.blockEnd = f.id, f.flags&flagEndStream != 0
	p.inBlock, p.continuations = true, 0
	if f.flags&flagEndHeaders != 0 {
		return p.endBlock()
	}
	return nil
}

// endBlock decompresses a complete field section and gives it to its stream.
func (p *parser) endBlock() error {
	p.inBlock = false
	var hb headerBlock
	limit := p.c.cfg.HeaderList
	p.hdec.SetEmitFunc(func(f hpack.HeaderField) { hb.add(f, limit) })
	_, err := p.hdec.Write(p.block)
	if err == nil {
		err = p.hdec.Close()
	}
	p.block = p.block[:0]
	if cap(p.block) > 4<<10 {
		p.block = nil
	}
	if err != nil {
		return violation(CompressionError, "%v", err)
	}
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	if p.c.dead != nil {
		// A stream begun now would never hear of the end.
		return p.c.dead
	}
	p.c.heard = true
	if p.c.client {
		return p.c.onResponse(p.blockID, &hb, p.blockEnd)
	}
	return p.c.onRequestHeaders(p.blockID, &hb, p.blockEnd)
}
