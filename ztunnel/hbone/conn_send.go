package hbone

import (
	"runtime"

	"github.com/ambit-mesh/ambit/ztunnel/hbone/buffer"
	"golang.org/x/net/http2/hpack"
)

const (
	// maxQueued bounds DATA waiting for the socket; writers wait above it.
	maxQueued = 512 << 10
	// maxControl bounds control frames waiting for the socket. Only a peer that provokes answers without reading
	// them gets there.
	maxControl = 256 << 10
	// inlineRounds is how often a Stream.Write caller flushes for others before it leaves the rest to the writer.
	inlineRounds = 2
	// direct is the size from which a frame is written from its own buffer instead of being gathered.
	direct = 8 << 10
	// announceSmall is the least credit worth riding along with other frames.
	announceSmall = 32 << 10
)

func (c *conn) wakeWriter() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// writeLoop flushes what the reader and the timers queue, and the last frames of a dying connection.
func (c *conn) writeLoop() {
	for range c.wake {
		c.mu.Lock()
		c.flushLocked(-1)
		over := c.dead != nil && !c.flushing
		c.mu.Unlock()
		if over {
			return
		}
	}
}

// flushLocked writes queued frames until none are left, somebody else is at it already, or rounds are used up.
// It releases mu while it writes.
func (c *conn) flushLocked(rounds int) {
	if c.flushing {
		return
	}
	c.flushing = true
	for len(c.ctl) > 0 || !c.out.Empty() {
		if rounds == 0 {
			c.wakeWriter()
			break
		}
		rounds--
		c.announceLocked(announceSmall)
		ctl, out := c.ctl, c.out
		c.ctl, c.out = c.ctlSpare[:0], buffer.Queue{}
		c.mu.Unlock()
		err := c.writeOut(ctl, &out)
		c.mu.Lock()
		c.ctlSpare = ctl[:0]
		if cap(ctl) > 16<<10 {
			c.ctlSpare = nil
		}
		if err != nil {
			c.endLocked(err)
			c.ctl = nil
			c.out.Discard()
			break
		}
		c.unblockLocked()
	}
	c.flushing = false
	if c.dead != nil {
		c.wakeWriter()
	}
}

// flushSoonLocked is flushLocked for a frame of one stream among several. It first lets run what else is ready to run:
// on a busy connection that is other streams with frames of their own, which then share one record and one system call.
// With nothing else to run it costs next to nothing.
func (c *conn) flushSoonLocked() {
	if c.flushing || c.gathering {
		return
	}
	if len(c.streams) > 1 {
		c.gathering = true
		c.mu.Unlock()
		runtime.Gosched()
		c.mu.Lock()
		c.gathering = false
	}
	c.flushLocked(inlineRounds)
}

// writeOut puts control frames and DATA on the wire in as few writes as the sizes allow, and frees the buffers.
func (c *conn) writeOut(ctl []byte, out *buffer.Queue) (err error) {
	w := c.nc
	if c.wire != nil {
		c.wire.cork()
		defer func() {
			if uerr := c.wire.uncork(); err == nil {
				err = uerr
			}
		}()
	}
	if out.Empty() {
		_, err := w.Write(ctl)
		return err
	}
	defer out.Discard()
	gather := buffer.Get(buffer.Medium)
	defer gather.Free()
	send := func() error {
		if gather.Len() == 0 {
			return nil
		}
		_, err := w.Write(gather.Bytes())
		gather.Advance(gather.Len())
		gather.Rewind()
		return err
	}
	for len(ctl) > 0 {
		ctl = ctl[gather.Append(ctl):]
		if len(ctl) > 0 {
			if err := send(); err != nil {
				return err
			}
		}
	}
	for b := out.Pop(); b != nil; b = out.Pop() {
		if b.Len() <= len(gather.Room()) && b.Len() < direct {
			gather.Append(b.Bytes())
			b.Free()
			continue
		}
		err := send()
		if err == nil {
			_, err = w.Write(b.Bytes())
		}
		b.Free()
		if err != nil {
			return err
		}
	}
	return send()
}

// announceLocked queues a connection WINDOW_UPDATE when at least least bytes were consumed.
func (c *conn) announceLocked(least int64) {
	if c.credit >= least {
		c.ctl = appendWords(c.ctl, frameWindowUpdate, 0, 0, uint32(c.credit))
		c.recvWin += c.credit
		c.credit = 0
	}
}

// consumedLocked notes that n received bytes have left our memory.
func (c *conn) consumedLocked(n int) {
	c.credit += int64(n)
	if c.credit >= int64(c.cfg.ConnWindow)/4 && c.dead == nil {
		c.announceLocked(1)
		c.wakeWriter()
	}
}

// controlLocked makes sure that queued control frames leave, and that a peer which only provokes them is cut off.
func (c *conn) controlLocked() error {
	if len(c.ctl) > maxControl {
		c.ctl = nil
		return violation(EnhanceYourCalm, "peer does not read our answers")
	}
	c.wakeWriter()
	return nil
}

// canSendLocked reports whether the connection, apart from any stream, admits DATA.
func (c *conn) canSendLocked() bool { return c.sendWin > 0 && c.out.Size() < maxQueued }

// unblockLocked gives the turn to the stream that has waited longest. Whoever has it must call this again, having used
// it or not, or the others would wait for ever.
func (c *conn) unblockLocked() {
	for len(c.blocked) > 0 && c.canSendLocked() {
		s := c.blocked[0]
		c.blocked = c.blocked[1:]
		s.queued = false
		if s.err == nil && !s.localEnd {
			s.canWrite.Signal()
			return
		}
	}
}

// headersLocked queues a HEADERS frame and, beyond the peer's frame size, its CONTINUATIONs. Compression and queueing
// happen under one lock because the peer decompresses in wire order.
func (c *conn) headersLocked(id uint32, endStream bool, fields []Header) {
	c.hbuf.Reset()
	for _, f := range fields {
		c.henc.WriteField(hpack.HeaderField{Name: f.Name, Value: f.Value})
	}
	typ, flags := byte(frameHeaders), byte(0)
	if endStream {
		flags = flagEndStream
	}
	block := c.hbuf.Bytes()
	for {
		n := min(len(block), c.peerMaxFrame)
		if n == len(block) {
			flags |= flagEndHeaders
		}
		c.ctl = appendFrameHeader(c.ctl, frameHeader{length: n, typ: typ, flags: flags, id: id})
		c.ctl = append(c.ctl, block[:n]...)
		block = block[n:]
		if len(block) == 0 {
			return
		}
		typ, flags = frameContinuation, 0
	}
}

// maxResets is how many streams a client resets on one connection before it opens further ones on another. Servers count
// resets against a flood and end the whole connection, with every stream on it, when there are too many: nghttp2, and with
// it Envoy, after a thousand and 33 a second. What is still open may be reset too and has to stay below.
const maxResets = 800

// resetLocked queues RST_STREAM behind the DATA already queued, so that what was sent before the reset arrives.
func (c *conn) resetLocked(id uint32, code ErrCode) {
	if c.dead != nil {
		return
	}
	if c.out.Size() > 4*maxQueued {
		// Our own DATA stops far below. This is a peer that provokes resets and does not read them.
		c.endLocked(violation(EnhanceYourCalm, "peer does not read our resets"))
		return
	}
	var frame [frameHeaderLen + 4]byte
	c.out.Write(appendWords(frame[:0], frameRSTStream, 0, id, uint32(code)))
	c.forgotten.add(id)
	if c.client {
		if c.resets++; c.resets >= maxResets {
			c.draining = true
		}
	}
	c.wakeWriter()
}
