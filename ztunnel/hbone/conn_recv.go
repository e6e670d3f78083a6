package hbone

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/ambit-mesh/ambit/ztunnel/hbone/buffer"
	"golang.org/x/net/http2/hpack"
)

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
	n, err := c.nc.Read(b.Room())
	b.Fill(n)
	for err == nil && c.wire != nil && c.wire.ready() && len(b.Room()) >= maxRecord {
		n, err = c.wire.readMore(c.nc, b.Room())
		b.Fill(n)
	}
	return err
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
