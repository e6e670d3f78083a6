package hbone

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/ambit-mesh/ambit/ztunnel/hbone/buffer"
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

func (c *conn) readLoop() error {
	p := &parser{c: c, hdec: hpack.NewDecoder(4096, nil), firstFrame: true}
	p.hdec.SetMaxStringLength(c.cfg.HeaderList)
	if !c.client {
		if err := c.readPreface(); err != nil {
			return err
		}
	}
	// An idle tunnel waits with a small buffer; one that fills it gets a large one for the next read.
	size := buffer.Tiny
	for {
		buf := buffer.Get(size)
		err := c.fill(buf)
		got := buf.Len()
		if got > 0 {
			if perr := p.feed(buf.Bytes()); perr != nil {
				buf.Free()
				return perr
			}
		}
		buf.Free()
		switch {
		case err == io.EOF:
			return c.peerClosed()
		case err != nil:
			return err
		case got < buffer.Tiny:
			size = buffer.Tiny
		case got == size || got > buffer.Small:
			size = buffer.Large
		}
	}
}

// fill waits for bytes and takes what is here already on top, in whole records: they make larger pieces for the
// application.
func (c *conn) fill(b *buffer.Buffer) error {
	for {
		n, err := c.nc.Read(b.Room())
		b.Fill(n)
		if err != nil || c.wire == nil || !c.wire.ready() || len(b.Room()) < maxRecord {
			return err
		}
	}
}

// peerClosed judges an end of the byte stream: orderly when nothing was open, or after a GOAWAY.
func (c *conn) peerClosed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.goAway != nil {
		return c.goAway
	}
	if len(c.streams) == 0 {
		return nil
	}
	return io.ErrUnexpectedEOF
}

func (c *conn) readPreface() error {
	var b [len(preface)]byte
	if _, err := io.ReadFull(c.nc, b[:]); err != nil {
		return fmt.Errorf("read HTTP/2 preface: %w", err)
	}
	if string(b[:]) != preface {
		return violation(ProtocolError, "connection does not start with the HTTP/2 preface")
	}
	return nil
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

// idleLocked reports whether nobody has used stream id yet. RFC 9113 §5.1.1.
func (c *conn) idleLocked(id uint32) bool {
	if c.client {
		return id%2 == 0 || id >= c.nextID
	}
	return id%2 == 0 || id > c.lastPeer
}

func (c *conn) onPriority(f frameHeader, b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(b) != 5 {
		// A stream error by RFC 9113 §6.3; on a stream nobody opened it can only be ignored.
		if s := c.streams[f.id]; s != nil {
			c.resetStreamLocked(s, FrameSizeError, "PRIORITY of wrong length")
		} else {
			c.resetLocked(f.id, FrameSizeError)
		}
		return nil
	}
	if binary.BigEndian.Uint32(b)&maxStreamID == f.id {
		if s := c.streams[f.id]; s != nil {
			c.resetStreamLocked(s, ProtocolError, "stream depends on itself")
		} else {
			c.resetLocked(f.id, ProtocolError)
		}
	}
	// Deprecated and ignored otherwise. RFC 9113 §5.3.2.
	return nil
}

func (c *conn) onReset(f frameHeader, b []byte) error {
	if len(b) != 4 {
		return violation(FrameSizeError, "RST_STREAM of %d bytes", len(b))
	}
	if c.idleLocked(f.id) {
		return violation(ProtocolError, "RST_STREAM on idle stream %d", f.id)
	}
	code := ErrCode(binary.BigEndian.Uint32(b))
	s := c.streams[f.id]
	if s == nil {
		return nil
	}
	// A tunnel that was in use may be reset as often as its applications like; one that is given up before our answer
	// has cost us a handler for nothing.
	if !c.client && !s.answered && !c.floods.spend(1) {
		return violation(EnhanceYourCalm, "streams opened and reset too fast")
	}
	s.peerResetLocked(code)
	return nil
}

func (c *conn) onSettings(f frameHeader, b []byte) error {
	if f.flags&flagAck != 0 {
		if len(b) != 0 {
			return violation(FrameSizeError, "SETTINGS ack with a payload")
		}
		return nil
	}
	if len(b)%6 != 0 {
		return violation(FrameSizeError, "SETTINGS of %d bytes", len(b))
	}
	if !c.floods.spend(10 + float64(len(b))/60) {
		return violation(EnhanceYourCalm, "too many SETTINGS")
	}
	for ; len(b) > 0; b = b[6:] {
		if err := c.applySetting(binary.BigEndian.Uint16(b), binary.BigEndian.Uint32(b[2:])); err != nil {
			return err
		}
	}
	if !c.gotSettings {
		c.gotSettings = true
		if c.cfg.PingInterval > 0 {
			c.alive.Reset(c.cfg.PingInterval)
		}
	}
	c.ctl = appendFrameHeader(c.ctl, frameHeader{typ: frameSettings, flags: flagAck})
	return c.controlLocked()
}

func (c *conn) applySetting(id uint16, v uint32) error {
	switch id {
	case settingHeaderTableSize:
		c.henc.SetMaxDynamicTableSizeLimit(min(v, 4096))
		c.henc.SetMaxDynamicTableSize(min(v, 4096))
	case settingEnablePush:
		if v > 1 || c.client && v == 1 {
			return violation(ProtocolError, "SETTINGS_ENABLE_PUSH %d", v)
		}
	case settingMaxStreams:
		c.peerMaxStreams = int(min(v, 1<<20))
	case settingInitialWindowSize:
		if v > maxWindow {
			return violation(FlowControlError, "SETTINGS_INITIAL_WINDOW_SIZE %d", v)
		}
		// Applies to open streams too, whose windows may become negative. RFC 9113 §6.9.2.
		delta := int64(v) - c.peerInitWin
		c.peerInitWin = int64(v)
		for _, s := range c.streams {
			s.sendWin += delta
			if s.sendWin > maxWindow {
				return violation(FlowControlError, "SETTINGS_INITIAL_WINDOW_SIZE overflows a stream window")
			}
			s.canWrite.Signal()
		}
	case settingMaxFrameSize:
		if v < minMaxFrame || v > maxMaxFrame {
			return violation(ProtocolError, "SETTINGS_MAX_FRAME_SIZE %d", v)
		}
		c.peerMaxFrame = int(v)
	}
	return nil
}

func (c *conn) onPing(f frameHeader, b []byte) error {
	if len(b) != 8 {
		return violation(FrameSizeError, "PING of %d bytes", len(b))
	}
	payload := binary.BigEndian.Uint64(b)
	if f.flags&flagAck != 0 {
		if payload == drainPing && c.drainPing {
			c.secondGoAwayLocked()
		}
		return nil
	}
	if !c.floods.spend(1) {
		return violation(EnhanceYourCalm, "too many PINGs")
	}
	c.ctl = appendPing(c.ctl, flagAck, payload)
	return c.controlLocked()
}

func (c *conn) onGoAway(b []byte) error {
	if len(b) < 8 {
		return violation(FrameSizeError, "GOAWAY of %d bytes", len(b))
	}
	last, code := binary.BigEndian.Uint32(b)&maxStreamID, ErrCode(binary.BigEndian.Uint32(b[4:]))
	debug := b[8:min(len(b), 8+256)]
	c.draining = true
	c.goAway = &GoAwayError{Code: code, Debug: string(debug)}
	if c.client {
		for id, s := range c.streams {
			if id > last {
				// The peer never looked at it. RFC 9113 §6.8.
				delete(c.streams, id)
				s.failLocked(ErrDraining)
			}
		}
	}
	c.finishIfIdleLocked()
	return nil
}

func (c *conn) onWindowUpdate(f frameHeader, b []byte) error {
	if len(b) != 4 {
		return violation(FrameSizeError, "WINDOW_UPDATE of %d bytes", len(b))
	}
	n := int64(binary.BigEndian.Uint32(b) & maxWindow)
	if f.id == 0 {
		c.sendWin += n
		switch {
		case n == 0:
			return violation(ProtocolError, "WINDOW_UPDATE of 0")
		case c.sendWin > maxWindow:
			return violation(FlowControlError, "connection window overflow")
		}
		c.unblockLocked()
		return nil
	}
	s := c.streams[f.id]
	if s == nil {
		if c.idleLocked(f.id) {
			return violation(ProtocolError, "WINDOW_UPDATE on idle stream %d", f.id)
		}
		return nil
	}
	s.sendWin += n
	switch {
	case n == 0:
		c.resetStreamLocked(s, ProtocolError, "WINDOW_UPDATE of 0")
	case s.sendWin > maxWindow:
		c.resetStreamLocked(s, FlowControlError, "stream window overflow")
	default:
		s.canWrite.Signal()
	}
	return nil
}

// armDrainTimerLocked sends the second GOAWAY even to a peer that ignores our PING.
func (c *conn) armDrainTimerLocked() {
	c.drainTimer = time.AfterFunc(c.cfg.DrainGrace, func() {
		c.mu.Lock()
		c.secondGoAwayLocked()
		c.mu.Unlock()
	})
}
