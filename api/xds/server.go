package xds

import (
	"cmp"
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// ServerConfig tunes a Server. The zero value serves everyone.
type ServerConfig struct {
	// Logger receives connects, disconnects and refusals. Nil discards them.
	Logger *slog.Logger
	// Registerer receives the server's metrics. Nil keeps them unexposed.
	Registerer prometheus.Registerer
	// Admit decides on a stream before anything is read from it; ctx carries the peer and the metadata. Whoever has no valid
	// credentials should end here, because a first request may be large. Its error ends the stream.
	Admit func(ctx context.Context) error
	// Authorize decides on a stream's first request; ctx carries the peer and the metadata. Its error ends the stream.
	Authorize func(ctx context.Context, node *corev3.Node) error
	// AuthorizeScope decides, on a subscription to a gateway's scope or to a fact of it (mesh.IsWaypointType), whether the client may
	// read what belongs to the gateway ("namespace/name"). Its error ends the stream, as PermissionDenied. Nil lets everyone.
	AuthorizeScope func(ctx context.Context, scope string) error
	// OnNACK is told of every refusal a client reports. It is called on the stream's goroutine and must not block.
	OnNACK func(NACK)
	// MaxConnectionAge is how long a connection lives before the client is asked to connect anew, ±10 %. Clients of a
	// control plane with several replicas spread over them that way, and tokens are checked again. Zero means 30 minutes.
	MaxConnectionAge time.Duration
	// Step is what whoever changes several collections at once does it with; see Step. Nil if nobody does.
	Step *Step
}

// NACK is a client's report that it could not use some resources.
type NACK struct {
	NodeID, TypeURL, Message string
}

// Server serves collections over delta ADS. It refuses nobody for want of capacity: clients cost memory in proportion to what they
// subscribed to by name, and a client that reads slowly costs nothing but its connection.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer

	cfg         ServerConfig
	log         *slog.Logger
	metrics     serverMetrics
	collections map[string]*Collection
	slots       chan struct{} // see admit
	receivers   sync.WaitGroup

	mu       sync.Mutex
	streams  map[*stream]struct{} // guarded by mu
	draining bool                 // guarded by mu
}

// Limits towards clients. Istio's proxies accept messages up to 200 MiB; what a resuming client sends grows with what it has.
const (
	maxResponse     = 128 << 20
	maxRequest      = 64 << 20
	maxPeerStreams  = 100
	concurrentFirst = 4
	patienceFirst   = 15 * time.Second
	holdFirst       = 3 * time.Second
	ageGrace        = 10 * time.Second
)

// NewServer returns a server of the given collections, one for each resource type.
func NewServer(cfg ServerConfig, cs ...*Collection) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.MaxConnectionAge = cmp.Or(cfg.MaxConnectionAge, 30*time.Minute)
	s := &Server{
		cfg:         cfg,
		log:         cfg.Logger,
		collections: make(map[string]*Collection, len(cs)),
		slots:       make(chan struct{}, concurrentFirst),
		streams:     make(map[*stream]struct{}),
	}
	for _, c := range cs {
		s.collections[c.typeURL] = c
	}
	s.metrics = newServerMetrics(cfg.Registerer, s)
	return s
}

// Options are the gRPC server options the Server needs: its codec, keepalive, connection recycling and small buffers.
// Other services may be registered on the same gRPC server.
func (s *Server) Options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxConcurrentStreams(maxPeerStreams),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: 30 * time.Second, Timeout: 10 * time.Second,
			// Streams end by themselves after the GOAWAY, see lifetime. What gRPC does to the rest is to cut them, which their
			// client notices only a second later.
			MaxConnectionAge: s.cfg.MaxConnectionAge, MaxConnectionAgeGrace: s.cfg.MaxConnectionAge/2 + ageGrace,
		}),
		grpc.WaitForHandlers(true), // so that Wait after Stop waits for all there will ever be
		// Node proxies send a PING every 30 s, with or without a stream.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		// Requests are small: what 200 connections would reserve for reading is better left unreserved.
		grpc.StaticStreamWindowSize(64 << 10),
		grpc.StaticConnWindowSize(128 << 10),
		grpc.ReadBufferSize(4 << 10),
		grpc.SharedWriteBuffer(true),
	}
}

// Register adds the service to a gRPC server that was created with Options.
func (s *Server) Register(g grpc.ServiceRegistrar) {
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, s)
}

// lifetime is how long a stream lives: until after its connection got the GOAWAY, which gRPC sends at the maximum age ±10 %.
func (s *Server) lifetime() time.Duration {
	age := s.cfg.MaxConnectionAge
	return age + age/10 + rand.N(age/10+1)
}

// Drain ends every stream in order, and every new one as soon as it opens. A gRPC server's GracefulStop has nothing left to wait for then.
func (s *Server) Drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	for st := range s.streams {
		st.end()
	}
}

// Wait returns when every goroutine of every stream has ended. Stop the gRPC server first.
func (s *Server) Wait() { s.receivers.Wait() }

// StreamAggregatedResources is the state-of-the-world variant, which no client of ours speaks.
func (s *Server) StreamAggregatedResources(discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return status.Error(codes.Unimplemented, "this control plane speaks delta xDS only; call DeltaAggregatedResources (Envoy: api_type DELTA_GRPC)")
}

// DeltaAggregatedResources serves one client until it leaves.
func (s *Server) DeltaAggregatedResources(rpc discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	ctx := rpc.Context()
	if s.cfg.Admit != nil {
		if err := s.cfg.Admit(ctx); err != nil {
			return refusal(err, codes.Unauthenticated)
		}
	}
	st := &stream{
		srv: s, rpc: rpc,
		requests:  make(chan *request),
		wake:      make(chan struct{}, 1),
		peer:      peerAddress(ctx),
		connected: time.Now(),
	}
	s.mu.Lock()
	s.streams[st] = struct{}{}
	if s.draining {
		st.end()
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.streams, st)
		s.mu.Unlock()
	}()
	err := st.serve(ctx)
	s.log.Info("xds client disconnected", "peer", st.peer, "node", st.nodeID, "dur", time.Since(st.connected), "err", err)
	return err
}

// admit lets few streams at a time read their first requests: after a restart of the server every client names all it
// has, and holding all of that at once is what memory would peak on. A client that takes its time gives its place to the next.
func (s *Server) admit(ctx context.Context) (done func()) {
	patience := time.NewTimer(patienceFirst)
	defer patience.Stop()
	select {
	case s.slots <- struct{}{}:
	case <-patience.C:
		return func() {}
	case <-ctx.Done():
		return func() {}
	}
	release := sync.OnceFunc(func() { <-s.slots })
	timer := time.AfterFunc(holdFirst, release)
	return func() {
		timer.Stop()
		release()
	}
}

// ClientStatus is one connected client, for people who look.
type ClientStatus struct {
	NodeID    string    `json:"nodeId"`
	Peer      string    `json:"peer"`
	Connected time.Time `json:"connected"`
	// Cluster and Version are what the client says of itself.
	Cluster string `json:"cluster,omitempty"`
	Version string `json:"version,omitempty"`
	// Agent is the program it says it is, Features the extensions it says it understands, and NodeName the node it runs on.
	Agent    string   `json:"agent,omitempty"`
	Features []string `json:"features,omitempty"`
	NodeName string   `json:"nodeName,omitempty"`
	// Server is the name of the instance of the control plane that answers, where it has one.
	Server string       `json:"server,omitempty"`
	Types  []TypeStatus `json:"types"`
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
func (s *Server) Clients() []ClientStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]ClientStatus, 0, len(s.streams))
	for st := range s.streams {
		out = append(out, st.describe())
	}
	slices.SortFunc(out, func(a, b ClientStatus) int {
		return cmp.Or(cmp.Compare(a.NodeID, b.NodeID), cmp.Compare(a.Peer, b.Peer))
	})
	return out
}
