package hbone

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/ztunnel/hbone/buffer"
	"golang.org/x/net/http2/hpack"
)

// conn is what both roles share: one HTTP/2 connection, its streams, windows and queues.
//
//	reader (the goroutine in run)          writer (started by run) and Stream.Write callers
//	  net.Conn.Read                          whoever finds nobody flushing writes what is queued
//	  parser ─► frames ─► streams            ctl (control frames) first, then out (DATA)
//	       └─► answers into ctl ─► wake the writer; the reader itself never writes, so two
//	           peers whose buffers are both full cannot wait for each other
type conn struct {
	// immutable after newConn
	nc     net.Conn
	wire   *Wire // below nc, if TLS runs over one
	cfg    Config
	client bool
	// onRequest starts the handler of a new request; set on servers. Called with mu held.
	onRequest func(*Stream, *headerBlock)
	// tooManyRequests reports that handlers of streams already gone still hold the room; set on servers.
	tooManyRequests func() bool
	wake            chan struct{} // capacity 1: there is something for the writer
	done            chan struct{} // closed when run has returned

	mu sync.Mutex
	// guarded by mu
	started   bool
	streams   map[uint32]*Stream
	idleSince time.Time // when streams became empty
	forgotten idRing    // streams we reset lately; the peer may not know yet
	nextID    uint32    // client: id of the next stream
	lastPeer  uint32    // server: highest stream id the peer has used
	dead      error     // why the connection ended; set once
	graceful  bool      // dead, but everything queued still goes out

	// sending, guarded by mu
	ctl       []byte
	ctlSpare  []byte
	out       buffer.Queue
	flushing  bool
	gathering bool // somebody is about to flush
	henc      *hpack.Encoder
	hbuf      bytes.Buffer
	sendWin   int64
	blocked   []*Stream // want to send, wait for sendWin or for room in out

	// receiving, guarded by mu
	recvWin int64 // what the peer may still send
	credit  int64 // consumed, not announced

	// the peer's settings, guarded by mu
	peerInitWin    int64
	peerMaxFrame   int
	peerMaxStreams int
	gotSettings    bool

	// ending, guarded by mu
	draining   bool   // we take or open no more streams
	goAway     error  // the peer's GOAWAY, if any
	refuseFrom uint32 // server: streams above this id are refused; maxStreamID until the second GOAWAY
	drainPing  bool   // the PING between the two GOAWAYs is out
	drainTimer *time.Timer
	resets     int // client: streams we have reset

	// liveness, guarded by mu
	alive      *time.Timer
	heard      bool // something arrived since the last tick
	pingOut    bool
	pingSentAt time.Time
	floods     floodMeter
}

func newConn(nc net.Conn, cfg Config, client bool) *conn {
	c := &conn{
		nc: nc, wire: wireOf(nc), cfg: cfg.withDefaults(client), client: client,
		wake: make(chan struct{}, 1), done: make(chan struct{}),
		streams: make(map[uint32]*Stream), nextID: 1,
		sendWin: initialWindow, peerInitWin: initialWindow,
		peerMaxFrame: minMaxFrame, peerMaxStreams: 100,
		refuseFrom: maxStreamID,
	}
	c.henc = hpack.NewEncoder(&c.hbuf)
	c.recvWin = int64(c.cfg.ConnWindow)
	c.idleSince = time.Now()
	c.greet()
	return c
}

// greet queues our preface and settings. RFC 9113 §3.4.
func (c *conn) greet() {
	settings := []setting{
		{settingInitialWindowSize, uint32(c.cfg.StreamWindow)},
		{settingMaxFrameSize, uint32(c.cfg.MaxFrame)},
		{settingMaxHeaderListSize, uint32(c.cfg.HeaderList)},
	}
	if c.client {
		c.ctl = append(c.ctl, preface...)
		settings = append(settings, setting{settingEnablePush, 0})
	} else {
		settings = append(settings, setting{settingMaxStreams, uint32(c.cfg.MaxStreams)})
	}
	c.ctl = appendSettings(c.ctl, settings...)
	if grow := c.cfg.ConnWindow - initialWindow; grow > 0 {
		c.ctl = appendWords(c.ctl, frameWindowUpdate, 0, 0, uint32(grow))
	}
}

// run serves the connection until it ends and returns why; nil after an orderly end.
func (c *conn) run() error {
	c.mu.Lock()
	if c.started {
		c.mu.Unlock()
		return errors.New("hbone connection was started twice")
	}
	c.started = true
	c.alive = time.AfterFunc(c.cfg.SettingsTimeout, c.tick)
	c.mu.Unlock()

	var writer sync.WaitGroup
	writer.Go(c.writeLoop)
	c.wakeWriter()
	err := c.readLoop()

	c.mu.Lock()
	c.endLocked(err)
	err, graceful := c.dead, c.graceful
	c.alive.Stop()
	if c.drainTimer != nil {
		c.drainTimer.Stop()
	}
	c.mu.Unlock()
	// The last words (a GOAWAY, or the tail of the last streams) get a moment, a stuck peer does not get more.
	linger := hardLinger
	if graceful {
		linger = flushLinger
	}
	c.nc.SetWriteDeadline(time.Now().Add(linger))
	c.wakeWriter()
	writer.Wait()
	c.hangUp(graceful)
	c.mu.Lock()
	c.out.Discard()
	c.mu.Unlock()
	close(c.done)
	if graceful || errors.Is(err, ErrClosed) {
		return nil
	}
	return err
}

// How long an ending connection waits: for its last frames to leave, and for the peer to have read them.
const (
	flushLinger   = 5 * time.Second
	hardLinger    = 250 * time.Millisecond
	goodbyeLinger = 2 * time.Second
)

// hangUp closes the connection after the peer has, or has had time to: a TCP socket that is closed while bytes arrive, be
// it only a WINDOW_UPDATE, is reset, and the tail of what we sent is lost with it.
func (c *conn) hangUp(graceful bool) {
	defer c.nc.Close()
	wait := goodbyeLinger
	var v *ProtocolViolation
	switch {
	case graceful:
	case errors.As(c.dead, &v):
		wait = hardLinger // it has its GOAWAY to read
	default:
		return
	}
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	c.nc.SetReadDeadline(time.Now().Add(wait))
	io.CopyN(io.Discard, c.nc, 1<<20)
}

// end makes the connection end with err: nil means in good order, with everything queued still sent, ErrClosed at once on
// our own wish. Safe from any goroutine.
func (c *conn) end(err error) {
	c.mu.Lock()
	c.endLocked(err)
	c.mu.Unlock()
}

// endLocked fails all streams and interrupts the reader, whose goroutine does the rest in run.
func (c *conn) endLocked(err error) {
	if c.dead != nil {
		return
	}
	c.dead, c.graceful = err, err == nil
	if err == nil {
		c.dead = ErrClosed
	}
	code := NoError
	var v *ProtocolViolation
	if errors.As(err, &v) {
		code = v.Code
		c.goAwayLocked(code, v.Reason)
	} else {
		c.goAwayLocked(code, "")
	}
	for _, s := range c.streams {
		s.failLocked(c.dead)
	}
	clear(c.streams)
	c.blocked = nil
	c.nc.SetReadDeadline(time.Unix(1, 0))
	c.wakeWriter()
}

// finishIfIdleLocked ends a draining connection once its last stream is gone.
func (c *conn) finishIfIdleLocked() {
	if len(c.streams) > 0 || c.dead != nil || !c.draining {
		return
	}
	if !c.client && c.refuseFrom == maxStreamID {
		return // between the two GOAWAYs: new streams may still arrive
	}
	c.endLocked(nil)
}

func (c *conn) goAwayLocked(code ErrCode, debug string) {
	last := c.lastPeer
	if c.client {
		last = 0 // we accept no pushed streams
	}
	c.ctl = appendFrameHeader(c.ctl, frameHeader{length: 8 + len(debug), typ: frameGoAway})
	c.ctl = append(c.ctl, byte(last>>24), byte(last>>16), byte(last>>8), byte(last),
		byte(code>>24), byte(code>>16), byte(code>>8), byte(code))
	c.ctl = append(c.ctl, debug...)
}

// tick watches over the peer's life: first that it speaks HTTP/2 at all, then that it answers.
func (c *conn) tick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead != nil {
		return
	}
	switch {
	case !c.gotSettings:
		c.endLocked(violation(SettingsTimeout, "no SETTINGS frame within %s", c.cfg.SettingsTimeout))
		return
	case c.cfg.PingInterval < 0:
		return
	case c.heard:
		c.heard, c.pingOut = false, false
	case !c.pingOut:
		c.pingOut, c.pingSentAt = true, time.Now()
		c.ctl = appendPing(c.ctl, 0, keepalivePing)
		c.wakeWriter()
	case time.Since(c.pingSentAt) >= c.cfg.PingTimeout:
		c.endLocked(ErrPingTimeout)
		return
	}
	next := c.cfg.PingInterval
	if c.pingOut {
		next = c.cfg.PingTimeout - time.Since(c.pingSentAt)
	}
	c.alive.Reset(next)
}

// PING payloads of ours, to tell the answers apart.
const (
	keepalivePing uint64 = 0x616d6269742e6b61
	drainPing     uint64 = 0x616d6269742e676f
)

func appendPing(b []byte, flags byte, payload uint64) []byte {
	return appendWords(b, framePing, flags, 0, uint32(payload>>32), uint32(payload))
}

// idRing remembers the last few stream ids put into it.
type idRing struct {
	ids  [64]uint32
	next int
}

func (r *idRing) add(id uint32) {
	r.ids[r.next] = id
	r.next = (r.next + 1) % len(r.ids)
}

func (r *idRing) has(id uint32) bool {
	for _, v := range r.ids {
		if v == id {
			return true
		}
	}
	return false
}
