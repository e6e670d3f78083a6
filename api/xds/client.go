package xds

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/mesh"
)

// ClientConfig says where the control plane is and who is calling.
type ClientConfig struct {
	// Target is the server's host:port.
	Target string
	// ServerName is the name the server's certificate must carry; empty means the host of Target.
	ServerName string
	// TLS is called for every connection, so that a rotated root takes effect at the next one. Nil means plaintext.
	TLS func() (*tls.Config, error)
	// Token is called for every stream; what it returns is sent as a bearer token. Nil or an empty token means none.
	Token func() (string, error)
	// Headers are sent along with every stream, for example clusterid.
	Headers map[string]string
	// Node introduces the client to the server.
	Node *corev3.Node
	// OnDemand asks for no addresses at first; names are subscribed by Demand. Policies are always subscribed to as a
	// whole: a policy nobody asked for would be a policy skipped. Otherwise the client subscribes to everything.
	OnDemand bool
	// Named asks for nothing but the names given to Subscribe, of every type except policies. Resources of a gateway are always asked for like that.
	Named bool
	// Dial replaces the TCP connection, for tests and unix sockets. Nil dials Target.
	Dial func(ctx context.Context) (net.Conn, error)
	// Logger receives state changes. Nil discards them.
	Logger *slog.Logger
	// Registerer receives the client's metrics. Nil keeps them unexposed.
	Registerer prometheus.Registerer
}

// Raw is one received resource. Body is valid only until Handler.Apply returns: decode it there.
type Raw struct {
	Name    string
	Version string
	Body    []byte
}

// Rejected names a resource the handler could not use. The rest of the response stays applied.
type Rejected struct {
	Name string
	Err  error
}

// Handler applies what the server sends. It is called from one goroutine, once for each response, in order.
type Handler interface {
	// Apply removes and inserts resources of one type. What it returns is refused by name towards the server. Where names are asked for,
	// removed also carries names that were asked for and do not exist, spelled as they were asked.
	Apply(typeURL string, upserts []Raw, removed []string) (rejected []Rejected)
}

// Client keeps one delta ADS stream to the control plane.
type Client struct {
	cfg     ClientConfig
	log     *slog.Logger
	handler Handler
	metrics clientMetrics
	types   []string
	synced  chan struct{}
	ended   atomic.Pointer[error] // why the last stream ended; nil while one is of use

	// Owned by Run.
	known    map[string]map[string]string // type → name → version the handler has
	answered map[string]bool

	mu       sync.Mutex
	demanded map[string]map[string]struct{} // guarded by mu: type → names, for the next reconnect
	queue    []demandChange                 // guarded by mu: not yet sent on the present stream
	kick     chan struct{}                  // capacity 1: the queue is not empty
}

type demandChange struct {
	typeURL, name string
	drop          bool
	again         bool // ask even if subscribed
}

// Reconnecting follows Istio's node proxy: 10 ms doubling to 15 s; here with jitter, so that a fleet does not return in step.
const (
	minBackoff = 10 * time.Millisecond
	maxBackoff = 15 * time.Second
)

// NewClient prepares a client of the given resource types. Nothing happens before Run.
func NewClient(cfg ClientConfig, h Handler, types ...string) *Client {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Client{
		cfg: cfg, log: cfg.Logger, handler: h, types: types,
		metrics:  newClientMetrics(cfg.Registerer),
		synced:   make(chan struct{}),
		known:    make(map[string]map[string]string),
		answered: make(map[string]bool),
		demanded: make(map[string]map[string]struct{}),
		kick:     make(chan struct{}, 1),
	}
	for _, t := range types {
		c.known[t] = make(map[string]string)
		c.demanded[t] = make(map[string]struct{})
	}
	return c
}

// Synced is closed once the first answer of every type has been applied and acknowledged.
func (c *Client) Synced() <-chan struct{} { return c.synced }

// Demand subscribes an on-demand client to one more name: a canonical one or "network/ip". It does not block. A name that is
// already subscribed is asked for again, so that a caller whose state lost it gets an answer.
func (c *Client) Demand(typeURL, name string) {
	c.change(demandChange{typeURL: typeURL, name: name, again: true})
}

// Release ends the subscription to a demanded name. The server sends no more of it; the handler's state is the caller's to clear.
func (c *Client) Release(typeURL, name string) {
	c.change(demandChange{typeURL: typeURL, name: name, drop: true})
}

// Subscribe adds names to a subscription that goes by name (ClientConfig.Named): canonical ones, "network/ip", or the scope of
// a gateway (mesh.GatewayScope). It may be called at any time, does not block, and holds over reconnects. Names that are subscribed already are left alone.
func (c *Client) Subscribe(typeURL string, names ...string) {
	for _, name := range names {
		c.change(demandChange{typeURL: typeURL, name: name})
	}
}

// Unsubscribe takes names back. What the handler has only because of them it is told as removed, once the server has agreed.
func (c *Client) Unsubscribe(typeURL string, names ...string) {
	for _, name := range names {
		c.change(demandChange{typeURL: typeURL, name: name, drop: true})
	}
}

func (c *Client) change(d demandChange) {
	c.mu.Lock()
	defer c.mu.Unlock()
	names := c.demanded[d.typeURL]
	if names == nil || c.whole(d.typeURL) {
		return
	}
	_, has := names[d.name]
	if has != d.drop && !d.again {
		return // nothing would change
	}
	if d.drop {
		delete(names, d.name)
	} else {
		names[d.name] = struct{}{}
	}
	c.queue = append(c.queue, d)
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// whole reports whether a type is subscribed to as a whole; otherwise its resources are asked for by name.
func (c *Client) whole(typeURL string) bool {
	return typeURL == mesh.TypeAuthorization || !c.named(typeURL) && !c.cfg.OnDemand
}

// named reports whether the names of a type that are asked for are kept exactly, rather than as Istio's node proxy does on demand.
func (c *Client) named(typeURL string) bool {
	return mesh.IsWaypointType(typeURL) || c.cfg.Named && typeURL != mesh.TypeAuthorization
}

// Run connects, and reconnects whenever the stream ends, until ctx is done. It then returns nil.
func (c *Client) Run(ctx context.Context) error {
	node, err := proto.MarshalOptions{Deterministic: true}.Marshal(introduced(c.cfg.Node, c.handler))
	if err != nil {
		return fmt.Errorf("encode the xds node: %w", err)
	}
	backoff := minBackoff
	for {
		served, err := c.session(ctx, node)
		if ctx.Err() != nil {
			return nil
		}
		c.ended.Store(&err)
		reason := classify(err)
		c.metrics.terminations.WithLabelValues(reason).Inc()
		// A stream that was of use is replaced at once, whatever ended it. One that never got an answer is not: a server
		// that hangs up on every request must not be hammered.
		if served {
			backoff = minBackoff
		}
		wait := jitter(backoff)
		level := slog.LevelWarn
		if reason == reasonReconnect || reason == reasonComplete {
			level = slog.LevelDebug
		}
		c.log.Log(ctx, level, "xds stream ended, reconnecting", "peer", c.cfg.Target, "reason", reason, "err", err, "dur", wait)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// LastError is why there is no stream now; nil while there is one that is of use, or before the first attempt ended.
func (c *Client) LastError() error {
	if err := c.ended.Load(); err != nil {
		return *err
	}
	return nil
}

// jitter spreads a wait over 50 to 100 % of it.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d/2+1)
}
