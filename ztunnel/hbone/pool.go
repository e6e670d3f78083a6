package hbone

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/ca/identity"
)

// Key says which streams may share a connection. It includes the source identity and address because the peer
// authorizes by them: two pods must never share a tunnel. Istio ambient wire contract, pool key; istio/ztunnel
// src/proxy/pool.rs WorkloadKey.
type Key struct {
	// Source is the identity our certificate proves.
	Source identity.ID
	// Accept is the canonical list of identities the peer may have, joined by the caller.
	Accept string
	// Addr is the socket we dial.
	Addr netip.AddrPort
	// SourceIP is the address of the pod we act for.
	SourceIP netip.Addr
	// Dest is the uid of the destination workload, so that a reused address never meets an old tunnel.
	Dest string
}

// PoolConfig tunes a Pool; zero values mean the defaults named.
type PoolConfig struct {
	// Dial connects and shakes hands. Its context ends after DialTimeout and with the pool, not with the caller
	// whose Open happened to be first.
	Dial func(ctx context.Context, key Key) (net.Conn, error)
	// Usable is asked about a connection that was dialed, at a moment from which on Cut knows it: what Cut would end but came
	// too early for is found here. Nil means yes. It must not block.
	Usable func(net.Conn) error
	// Config is used for every connection.
	Config Config
	// IdleTimeout is how long a connection without streams is kept. Default 5 min.
	IdleTimeout time.Duration
	// DialTimeout bounds one Dial. Default 10 s.
	DialTimeout time.Duration
	// MaxStreamsPerConn is when a further connection is opened. Default 100.
	MaxStreamsPerConn int
	// MaxConnsPerKey bounds the connections of one key. Default 64.
	MaxConnsPerKey int
}

// Pool shares connections to peers among streams. Run owns their goroutines.
type Pool struct {
	cfg PoolConfig
	wg  sync.WaitGroup

	mu sync.Mutex
	// guarded by mu
	peers  map[Key]*peer
	live   map[*ClientConn]struct{} // every connection, those too that finish outside peers
	closed bool
}

type peer struct {
	conns []*ClientConn
	dial  *dialing // at most one at a time
}

// dialing is one connection attempt that everybody who needs it waits for.
type dialing struct {
	done   chan struct{} // closed when conn or err is set
	conn   *ClientConn
	err    error
	cancel context.CancelFunc
}

// NewPool makes an empty pool. It starts nothing.
func NewPool(cfg PoolConfig) *Pool {
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = 5 * time.Minute
	}
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = 10 * time.Second
	}
	if cfg.MaxStreamsPerConn == 0 {
		cfg.MaxStreamsPerConn = 100
	}
	if cfg.MaxConnsPerKey == 0 {
		cfg.MaxConnsPerKey = 64
	}
	cfg.Config.MaxStreams = cfg.MaxStreamsPerConn
	return &Pool{cfg: cfg, peers: make(map[Key]*peer), live: make(map[*ClientConn]struct{})}
}

// Run releases idle connections until ctx ends, then closes all and waits until their goroutines are gone.
func (p *Pool) Run(ctx context.Context) error {
	tick := time.NewTicker(max(p.cfg.IdleTimeout/10, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.sweep()
		case <-ctx.Done():
			p.close()
			p.wg.Wait()
			return nil
		}
	}
}

// Open opens a tunnel to authority on a connection for key, dialling one when none has room. Errors of the peer's
// answer are *StatusError; a connection that turns out to be draining is replaced once.
func (p *Pool) Open(ctx context.Context, key Key, authority string, fields []Header) (*Stream, error) {
	var failed *ClientConn
	for replaced := false; ; {
		cc, err := p.conn(ctx, key, failed)
		if err != nil {
			return nil, err
		}
		s, err := cc.Open(ctx, authority, fields)
		switch {
		case ctx.Err() != nil:
			return s, err
		case errors.Is(err, ErrFull):
			// Others were quicker. That is no fault of the connection's, and the number of connections bounds how
			// often it can happen.
		case errors.Is(err, ErrDraining) && !replaced:
			replaced = true
		default:
			return s, err
		}
		failed = cc
	}
}

// conn returns a connection with room, never avoid.
func (p *Pool) conn(ctx context.Context, key Key, avoid *ClientConn) (*ClientConn, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, fmt.Errorf("open tunnel to %s: %w", key.Addr, ErrClosed)
	}
	pr := p.peers[key]
	if pr == nil {
		pr = &peer{}
		p.peers[key] = pr
	}
	best, busy := pr.pick(avoid)
	room := len(pr.conns) < p.cfg.MaxConnsPerKey
	if best != nil {
		if busy && room && pr.dial == nil && len(pr.conns) < busyConns {
			p.dialLocked(ctx, key, pr) // for those who come next
		}
		p.mu.Unlock()
		return best, nil
	}
	if pr.dial == nil && !room {
		p.mu.Unlock()
		return nil, fmt.Errorf("open tunnel to %s: all %d connections: %w", key.Addr, p.cfg.MaxConnsPerKey, ErrFull)
	}
	if pr.dial == nil {
		p.dialLocked(ctx, key, pr)
	}
	d := pr.dial
	p.mu.Unlock()
	select {
	case <-d.done:
		return d.conn, d.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// busyConns is how many connections a key may have because of load alone, as opposed to running out of streams.
const busyConns = 2

// pick returns the least used connection with room and whether all of those are busy.
func (pr *peer) pick(avoid *ClientConn) (best *ClientConn, busy bool) {
	least, busy := 0, true
	for _, cc := range pr.conns {
		free, used, loaded := cc.load()
		if cc == avoid || free == 0 {
			continue
		}
		score := used
		if loaded {
			score += 1 << 20
		}
		if best == nil || score < least {
			best, least = cc, score
		}
		busy = busy && loaded
	}
	return best, busy
}

func (p *Pool) dialLocked(ctx context.Context, key Key, pr *peer) {
	dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.cfg.DialTimeout)
	d := &dialing{done: make(chan struct{}), cancel: cancel}
	pr.dial = d
	p.wg.Go(func() { p.connect(dctx, key, pr, d) })
}

// connect dials, hands the connection to those who wait, and serves it to its end.
func (p *Pool) connect(ctx context.Context, key Key, pr *peer, d *dialing) {
	defer d.cancel()
	nc, err := p.cfg.Dial(ctx, key)
	p.mu.Lock()
	pr.dial = nil
	if err == nil && p.closed {
		nc.Close()
		err = ErrClosed
	}
	if err == nil && p.cfg.Usable != nil {
		if err = p.cfg.Usable(nc); err != nil {
			nc.Close()
		}
	}
	if err != nil {
		d.err = fmt.Errorf("open tunnel to %s: %w", key.Addr, err)
		p.forgetLocked(key, pr)
		p.mu.Unlock()
		close(d.done)
		return
	}
	d.conn = Client(nc, p.cfg.Config)
	pr.conns = append(pr.conns, d.conn)
	p.live[d.conn] = struct{}{}
	p.mu.Unlock()
	close(d.done)
	d.conn.Run(context.WithoutCancel(ctx)) // its streams report why it ended
	p.mu.Lock()
	pr.remove(d.conn)
	delete(p.live, d.conn)
	p.forgetLocked(key, pr)
	p.mu.Unlock()
}

func (pr *peer) remove(cc *ClientConn) {
	if i := slices.Index(pr.conns, cc); i >= 0 {
		pr.conns = slices.Delete(pr.conns, i, i+1)
	}
}

func (p *Pool) forgetLocked(key Key, pr *peer) {
	if len(pr.conns) == 0 && pr.dial == nil && p.peers[key] == pr {
		delete(p.peers, key)
	}
}

// sweep drains connections that had no streams for IdleTimeout, and takes ended ones out of the way.
func (p *Pool) sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pr := range p.peers {
		for _, cc := range pr.conns {
			if cc.idleFor() >= p.cfg.IdleTimeout {
				cc.Drain()
			}
		}
	}
}

// Evict opens no more streams on connections whose key matches; open streams finish on them. Use it when a
// destination is gone or an identity is no longer ours.
func (p *Pool) Evict(match func(Key) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, pr := range p.peers {
		if !match(key) {
			continue
		}
		// Under a fresh entry the next Open dials anew even while the old connections finish.
		delete(p.peers, key)
		for _, cc := range pr.conns {
			cc.Drain()
		}
		if pr.dial != nil {
			pr.dial.cancel()
		}
	}
}

// Cut ends connections at once, with all their streams, for which why returns an error; that is what the streams end with.
func (p *Pool) Cut(why func(net.Conn) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for cc := range p.live {
		if err := why(cc.NetConn()); err != nil {
			cc.c.end(err)
		}
	}
}

// Drain lets open streams finish and refuses new ones.
func (p *Pool) Drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, pr := range p.peers {
		for _, cc := range pr.conns {
			cc.Drain()
		}
	}
}

func (p *Pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, pr := range p.peers {
		if pr.dial != nil {
			pr.dial.cancel()
		}
		for _, cc := range pr.conns {
			cc.Close()
		}
	}
}

// Conns returns how many connections and open streams the pool holds.
func (p *Pool) Conns() (conns, streams int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pr := range p.peers {
		conns += len(pr.conns)
		for _, cc := range pr.conns {
			streams += cc.InUse()
		}
	}
	return conns, streams
}
