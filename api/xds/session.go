package xds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// How the connection is kept, as Istio's node proxy does it. Istio ambient wire contract, xDS transport.
const (
	maxReceived    = 200 << 20
	connectTimeout = 5 * time.Second
	pingInterval   = 30 * time.Second
	pingTimeout    = 10 * time.Second
	tcpIdle        = 300 * time.Second
	tcpInterval    = 75 * time.Second
	tcpProbes      = 9
	window         = 1 << 20
)

// Why a connection ended, as the metric's label says it. istio/ztunnel src/xds/metrics.rs ConnectionTerminationReason.
const (
	reasonConnectionError = "ConnectionError" // never connected
	reasonError           = "Error"           // the server refused or broke the protocol
	reasonReconnect       = "Reconnect"       // recycled or cut: usual, replaced at once
	reasonComplete        = "Complete"        // the server closed the stream in order
)

// connectError marks failures before there was a stream.
type connectError struct{ err error }

func (e *connectError) Error() string { return e.err.Error() }
func (e *connectError) Unwrap() error { return e.err }

func classify(err error) (reason string) {
	var failed *connectError
	switch {
	case err == nil || errors.Is(err, io.EOF):
		return reasonComplete
	case errors.As(err, &failed):
		return reasonConnectionError
	}
	switch st, _ := status.FromError(err); st.Code() {
	case codes.Unknown, codes.Canceled, codes.DeadlineExceeded, codes.Aborted:
		return reasonReconnect
	case codes.Unavailable:
		for _, usual := range []string{"transport is closing", "closing transport", "goaway", "EOF", "connection reset"} {
			if strings.Contains(st.Message(), usual) {
				return reasonReconnect
			}
		}
	}
	return reasonError
}

// session is one connection with one stream. It reports whether the server answered anything.
func (c *Client) session(ctx context.Context, node []byte) (served bool, err error) {
	conn, err := c.dial()
	if err != nil {
		return false, &connectError{err}
	}
	// The receiving goroutine ends with the stream, so cancel before waiting, and wait before closing the connection.
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer func() {
		cancel()
		wg.Wait()
		conn.Close()
	}()

	rpc, err := c.stream(ctx, conn)
	if err != nil {
		return false, err
	}
	if err := c.subscribe(rpc, node); err != nil {
		return false, err
	}
	responses := make(chan *received)
	failed := make(chan error, 1)
	wg.Go(func() { failed <- receive(ctx, rpc, responses) })
	for {
		select {
		case <-ctx.Done():
			return served, ctx.Err()
		case err := <-failed:
			return served, err
		case <-c.kick:
			if err := c.sendDemands(rpc); err != nil {
				return served, sendError(responses, failed, err)
			}
		case r := <-responses:
			if !served {
				c.ended.Store(nil)
				c.log.Info("xds stream established", "peer", c.cfg.Target)
			}
			served = true
			if err := c.apply(rpc, r); err != nil {
				return served, sendError(responses, failed, err)
			}
		}
	}
}

// sendError prefers what the receiving side knows: gRPC tells a sender no more than EOF. What still arrived before the end cannot be
// acknowledged any more and is dropped; the next stream brings it again.
func sendError(responses <-chan *received, failed <-chan error, err error) error {
	for errors.Is(err, io.EOF) {
		select {
		case r := <-responses:
			r.release()
		case err = <-failed:
			return err
		}
	}
	return err
}

func receive(ctx context.Context, rpc grpc.ClientStream, responses chan<- *received) error {
	for {
		r := new(received)
		if err := rpc.RecvMsg(r); err != nil {
			return err
		}
		select {
		case responses <- r:
		case <-ctx.Done():
			r.release()
			return ctx.Err()
		}
	}
}

func (c *Client) dial() (*grpc.ClientConn, error) {
	security := insecure.NewCredentials()
	if c.cfg.TLS != nil {
		cfg, err := c.cfg.TLS()
		if err != nil {
			return nil, fmt.Errorf("prepare TLS towards %s: %w", c.cfg.Target, err)
		}
		if c.cfg.ServerName != "" {
			cfg = cfg.Clone()
			cfg.ServerName = c.cfg.ServerName
		}
		security = credentials.NewTLS(cfg)
	}
	// One attempt per session: pacing the attempts is Run's business, hence neither gRPC's retries nor its name resolution.
	return grpc.NewClient("passthrough:///"+c.cfg.Target,
		grpc.WithTransportCredentials(security),
		grpc.WithContextDialer(c.dialTCP),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: connectTimeout}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingInterval, Timeout: pingTimeout, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceived), grpc.ForceCodecV2(newCodec())),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithIdleTimeout(0),
		grpc.WithSharedWriteBuffer(true),
		// Fixed windows: guessing them costs a PING with every response, at both ends.
		grpc.WithStaticStreamWindowSize(window),
		grpc.WithStaticConnWindowSize(window),
	)
}

func (c *Client) dialTCP(ctx context.Context, target string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if c.cfg.Dial != nil {
		return c.cfg.Dial(ctx)
	}
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: tcpIdle, Interval: tcpInterval, Count: tcpProbes}}
	return d.DialContext(ctx, "tcp", target)
}

// stream opens the call. The token is read now, every time: kubelet replaces it while we run.
func (c *Client) stream(ctx context.Context, conn *grpc.ClientConn) (grpc.ClientStream, error) {
	for k, v := range c.cfg.Headers {
		ctx = metadata.AppendToOutgoingContext(ctx, k, v)
	}
	if c.cfg.Token != nil {
		token, err := c.cfg.Token()
		if err != nil {
			return nil, &connectError{fmt.Errorf("read the token for %s: %w", c.cfg.Target, err)}
		}
		if token != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
		}
	}
	rpc, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return nil, &connectError{fmt.Errorf("connect to the control plane at %s: %w", c.cfg.Target, err)}
	}
	return rpc, nil
}

// subscribe opens every type, naming what the handler already has so that only the difference comes back.
func (c *Client) subscribe(rpc grpc.ClientStream, node []byte) error {
	for i, typeURL := range c.types {
		req := &request{typeURL: typeURL, node: node}
		if i > 0 {
			req.node = nil // the first request of a stream introduces the client
		}
		req.known = knownOf(c.known[typeURL])
		if !c.whole(typeURL) {
			// Without it, no names would mean everything.
			req.unsubscribe = []string{wildcard}
			if !c.named(typeURL) {
				req.subscribe = []string{wildcard}
			}
			req.subscribe = append(req.subscribe, c.takeDemands(typeURL)...)
		}
		if err := rpc.SendMsg(req); err != nil {
			return fmt.Errorf("subscribe to %s: %w", typeURL, err)
		}
	}
	return nil
}

// takeDemands returns all demanded names of a type for a new stream, which makes what is queued for it superfluous.
func (c *Client) takeDemands(typeURL string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = slices.DeleteFunc(c.queue, func(d demandChange) bool { return d.typeURL == typeURL })
	names := make([]string, 0, len(c.demanded[typeURL]))
	for name := range c.demanded[typeURL] {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// sendDemands asks for everything queued, in one request per type.
func (c *Client) sendDemands(rpc grpc.ClientStream) error {
	c.mu.Lock()
	queue := c.queue
	c.queue = nil
	c.mu.Unlock()
	for _, typeURL := range c.types {
		last := make(map[string]bool) // name → dropped; only a name's last change counts
		for _, d := range queue {
			if d.typeURL == typeURL {
				last[d.name] = d.drop
			}
		}
		if len(last) == 0 {
			continue
		}
		req := &request{typeURL: typeURL}
		for name, drop := range last {
			if drop {
				if !c.named(typeURL) {
					delete(c.known[typeURL], name) // or the next stream would subscribe to it again
				}
				req.unsubscribe = append(req.unsubscribe, name)
			} else {
				req.subscribe = append(req.subscribe, name)
			}
		}
		if err := rpc.SendMsg(req); err != nil {
			return err
		}
	}
	return nil
}

// apply hands a response to the handler and acknowledges it, refusing by name what the handler could not use.
func (c *Client) apply(rpc grpc.ClientStream, r *received) error {
	defer r.release()
	c.metrics.messages.WithLabelValues(r.typeURL).Inc()
	c.metrics.bytes.WithLabelValues(r.typeURL).Add(float64(r.size))
	known, ours := c.known[r.typeURL]
	if !ours {
		return status.Errorf(codes.InvalidArgument, "the server sent %q, which was not asked for", r.typeURL)
	}
	stepper, _ := c.handler.(Stepper)
	if stepper != nil && (r.mark == markMore || r.mark == markLast) {
		stepper.Step(true)
	}
	rejected := c.handler.Apply(r.typeURL, r.upserts, r.removed)
	if stepper != nil && r.mark == markLast {
		defer stepper.Step(false)
	}
	for _, name := range r.removed {
		delete(known, name)
	}
	for _, raw := range r.upserts {
		known[raw.Name] = raw.Version
	}
	ack := &request{typeURL: r.typeURL, nonce: r.nonce}
	if len(rejected) > 0 {
		ack.refused = true
		ack.refusal = refusalText(rejected)
		for _, rej := range rejected {
			// Known, but in no version: after a reconnect the server shall send it again, or say that it is gone.
			known[rej.Name] = ""
		}
		c.log.Warn("refusing resources from the control plane", "type", r.typeURL, "err", ack.refusal)
	}
	if err := rpc.SendMsg(ack); err != nil {
		return err
	}
	c.markAnswered(r.typeURL)
	return nil
}

// maxRefusal keeps a NACK of thousands of resources a message one can log.
const maxRefusal = 16 << 10

func refusalText(rejected []Rejected) string {
	var b strings.Builder
	for i, r := range rejected {
		if b.Len() > maxRefusal {
			fmt.Fprintf(&b, "; and %d more", len(rejected)-i)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s: %v", r.Name, r.Err)
	}
	return strings.ToValidUTF8(b.String(), "?")
}

func (c *Client) markAnswered(typeURL string) {
	if len(c.answered) == len(c.types) {
		return
	}
	c.answered[typeURL] = true
	if len(c.answered) == len(c.types) {
		close(c.synced)
	}
}
