package handoff

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/api/netns"
	"github.com/ambit-mesh/ambit/api/zds"
)

// idle is Istio's: istio/istio cni/pkg/nodeagent/ztunnelserver.go.
const idle = 5 * time.Second

// order is something to tell one proxy. What an add says is looked up when it is sent, so a queue never holds an
// outdated namespace.
type order struct {
	uid  string
	del  bool
	done chan struct{} // closed when answered or given up, if not nil
}

// conn is one proxy. Its queue holds at most one order for each pod: the newest.
type conn struct {
	mu    sync.Mutex
	queue []order        // guarded by mu
	at    map[string]int // guarded by mu: where a pod's order is in queue
	dead  bool           // guarded by mu
	wake  chan struct{}  // holds one token if there is something to do
}

func newConn() *conn { return &conn{at: map[string]int{}, wake: make(chan struct{}, 1)} }

// enqueue never blocks. A pod's earlier order that was not sent yet is replaced in its place.
func (c *conn) enqueue(o order) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		o.finish()
		return
	}
	if i, ok := c.at[o.uid]; ok {
		c.queue[i].finish()
		c.queue[i] = o
		return
	}
	c.at[o.uid] = len(c.queue)
	c.queue = append(c.queue, o)
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// take empties the queue.
func (c *conn) take() []order {
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.queue
	c.queue = nil
	clear(c.at)
	return q
}

// kill gives up on what is queued and on what may still come.
func (c *conn) kill(rest []order) {
	c.mu.Lock()
	c.dead = true
	rest = append(rest, c.queue...)
	c.queue = nil
	c.mu.Unlock()
	for _, o := range rest {
		o.finish()
	}
}

func (o order) finish() {
	if o.done != nil {
		close(o.done)
	}
}

// serve is the life of one connection.
func (s *Server) serve(ctx context.Context, zc *zds.AgentConn) {
	defer zc.Close()
	defer context.AfterFunc(ctx, func() { zc.Close() })()
	if err := zc.Hello(); err != nil {
		s.log.Warn("a node proxy connected and failed to introduce itself", "err", err)
		return
	}
	c := newConn()
	uids := s.join(c)
	s.log.Info("node proxy connected", "pods", len(uids))
	rest, err := s.talk(ctx, zc, c, uids)
	s.leave(c)
	c.kill(rest)
	if ctx.Err() == nil {
		s.log.Info("node proxy disconnected", "err", err)
	}
}

// talk sends the snapshot, then what is queued, until the connection breaks. It returns the orders it took and did not
// carry out.
func (s *Server) talk(ctx context.Context, zc *zds.AgentConn, c *conn, snapshot []string) ([]order, error) {
	for _, uid := range snapshot {
		if err := s.add(zc, uid, true); err != nil {
			return nil, fmt.Errorf("snapshot: %w", err)
		}
	}
	if err := zc.SnapshotSent(); err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	ticker := time.NewTicker(s.idle)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, nil
		case <-ticker.C:
			if err := zc.Alive(); err != nil {
				return nil, err
			}
		case <-c.wake:
			orders := c.take()
			for i, o := range orders {
				if err := s.carryOut(zc, o); err != nil {
					return orders[i:], err
				}
				o.finish()
			}
			ticker.Reset(s.idle)
		}
	}
}

func (s *Server) carryOut(zc *zds.AgentConn, o order) error {
	if !o.del {
		return s.add(zc, o.uid, false)
	}
	// If the pod was added again meanwhile, that order stands behind this one in the newest proxy's queue.
	err := zc.Del(o.uid)
	if refused := (*zds.AckError)(nil); errors.As(err, &refused) {
		s.log.Warn("node proxy refused to drop a pod", "uid", o.uid, "err", err)
		return nil
	}
	return err
}

// add tells the proxy of a pod if it is still on the list. A refusal concerns the pod; any other error the connection.
func (s *Server) add(zc *zds.AgentConn, uid string, snapshot bool) error {
	e, ns, err := s.lend(uid)
	switch {
	case e == nil:
		return nil
	case err != nil:
		// Out of descriptors, most likely. A proxy that has the pod keeps it, and the next one gets it.
		s.log.Warn("pod cannot be handed over", "uid", uid, "err", err)
		s.ack(e, err)
	case ns != nil:
		defer ns.Close()
		return s.hand(zc, e, ns)
	}
	if !snapshot {
		return nil
	}
	return s.refusal(e, zc.Keep(uid))
}

// hand passes a pod's namespace on.
func (s *Server) hand(zc *zds.AgentConn, e *entry, ns *netns.Netns) error {
	err := zc.Add(e.pod.UID, e.pod.info(), ns.File())
	refused := (*zds.AckError)(nil)
	if err != nil && !errors.As(err, &refused) && !errors.Is(err, zds.ErrTooLarge) {
		return err
	}
	s.ack(e, err)
	return nil
}

func (s *Server) refusal(e *entry, err error) error {
	if refused := (*zds.AckError)(nil); errors.As(err, &refused) {
		s.log.Warn("node proxy refused to keep a pod", "uid", e.pod.UID, "err", err)
		return nil
	}
	return err
}
