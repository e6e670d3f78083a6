package xds

import (
	"context"
	"log/slog"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
)

// ServerConfig tunes a Server. The zero value serves everyone.
type ServerConfig struct {
	// Logger receives connects, disconnects and refusals. Nil discards them.
	Logger *slog.Logger
	// Registerer receives the server's metrics. Nil keeps them unexposed.
	Registerer prometheus.Registerer
	// Authorize decides on a stream's first request; ctx carries the peer and the metadata. Its error ends the stream.
	Authorize func(ctx context.Context, node *corev3.Node) error
	// OnNACK is told of every refusal a client reports. It is called on the stream's goroutine and must not block.
	OnNACK func(NACK)
	// MaxConnectionAge is how long a connection lives before the client is asked to connect anew, ±10 %. Zero means 30 minutes.
	MaxConnectionAge time.Duration
}

// NACK is a client's report that it could not use some resources.
type NACK struct {
	NodeID, TypeURL, Message string
}

// Server serves collections over delta ADS.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
}

// NewServer returns a server of the given collections, one for each resource type.
func NewServer(cfg ServerConfig, cs ...*Collection) *Server { return &Server{} }

// Options are the gRPC server options the Server needs: its codec, keepalive, connection recycling and small buffers.
// Other services may be registered on the same gRPC server.
func (s *Server) Options() []grpc.ServerOption { return nil }

// Register adds the service to a gRPC server that was created with Options.
func (s *Server) Register(g grpc.ServiceRegistrar) {
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, s)
}

// ClientStatus is one connected client, for people who look.
type ClientStatus struct {
	NodeID    string       `json:"nodeId"`
	Peer      string       `json:"peer"`
	Connected time.Time    `json:"connected"`
	Types     []TypeStatus `json:"types"`
}

// TypeStatus is what a client has of one resource type.
type TypeStatus struct {
	TypeURL      string    `json:"typeUrl"`
	Wildcard     bool      `json:"wildcard"`
	Subscribed   int       `json:"subscribed"`
	SentVersion  string    `json:"sentVersion"`
	AckedVersion string    `json:"ackedVersion"`
	NACK         string    `json:"nack,omitempty"`
	NACKTime     time.Time `json:"nackTime,omitzero"`
}

// Clients lists the connected clients in order of node id.
func (s *Server) Clients() []ClientStatus { return nil }
