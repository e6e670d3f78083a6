package inpod

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"time"

	"github.com/ambit-mesh/ambit/api/zds"
)

// Info names a pod in Kubernetes' terms. The zero value means that the agent did not say.
type Info struct{ Name, Namespace, ServiceAccount string }

func (i Info) String() string { return i.Namespace + "/" + i.Name }

// Pod is what the agent hands over.
type Pod struct {
	UID  string
	Info Info
	// Netns belongs to Pods once Start returned nil, who closes it when the last connection of the pod has ended.
	Netns *Netns
}

// Pods runs the proxies of pods.
type Pods interface {
	// Start opens the pod's listeners. After an error nothing of the pod may be left running, and Start is called
	// again later with the same Pod. The context ends when Start should give up; the proxy outlives it.
	Start(ctx context.Context, p Pod) error
	// Stop ends the proxy of a pod at once and returns soon; what the proxy does to wind down is its own affair.
	// It is not called for a pod whose Start failed.
	Stop(uid string)
}

// ErrProtocol says that the agent broke the protocol in a way that leaves no common ground about which pods there are.
// The proxy should drain and end: its successor starts from a fresh snapshot.
var ErrProtocol = errors.New("CNI agent broke the protocol")

// Retry delays. istio/ztunnel src/inpod.rs and statemanager.rs, except that Istio's waits for the agent grow to 15 s: an
// agent that is back would miss its proxy for so long, and pods being made would fail meanwhile.
const (
	firstReconnect = 10 * time.Millisecond
	lastReconnect  = time.Second
	retryPending   = 5 * time.Second
	startLimit     = 5 * time.Second
)

// Config says where the agent is. The zero value of an optional field is its default.
type Config struct {
	// Socket is the path of the agent's socket.
	Socket string
	// Logger is slog.Default unless given.
	Logger *slog.Logger
	// RetryPending is how often pods that could not be started are tried again; 5 s.
	RetryPending time.Duration
}

// Client keeps the proxy's side of the conversation with the agent.
type Client struct {
	cfg   Config
	log   *slog.Logger
	state *state
}

// NewClient prepares a client; Run does the work.
func NewClient(cfg Config, pods Pods) *Client {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.RetryPending == 0 {
		cfg.RetryPending = retryPending
	}
	log := cfg.Logger.With("area", "inpod")
	return &Client{cfg: cfg, log: log, state: newState(pods, log)}
}

// Run connects, and reconnects, until ctx ends (nil) or the agent breaks the protocol (ErrProtocol). Pods keep running
// while there is no agent, and when Run returns: ending them is the caller's decision.
func (c *Client) Run(ctx context.Context) error {
	defer c.state.close()
	delay := firstReconnect
	for ctx.Err() == nil {
		snapshot, err := c.session(ctx)
		c.state.setConnected(false)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrProtocol):
			c.log.Error("ending: the agent and this proxy no longer agree about the pods", "err", err)
			return err
		case snapshot:
			delay = firstReconnect
		}
		c.log.Warn("no CNI agent; pods in the mesh keep running", "err", err, "retry", delay)
		if !c.pause(ctx, jitter(delay)) {
			return nil
		}
		delay = min(2*delay, lastReconnect)
	}
	return nil
}

// pause waits before the next connection, trying pods that are pending meanwhile.
func (c *Client) pause(ctx context.Context, d time.Duration) bool {
	end := time.NewTimer(d)
	defer end.Stop()
	retry := time.NewTicker(c.cfg.RetryPending)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-end.C:
			return true
		case <-retry.C:
			c.state.retry(ctx)
		}
	}
}

func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

// session is one connection. It reports whether the snapshot was complete.
func (c *Client) session(ctx context.Context) (snapshot bool, err error) {
	conn, err := zds.Dial(ctx, c.cfg.Socket)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := conn.Hello(); err != nil {
		return false, err
	}
	c.state.connected()
	for {
		req, err := c.next(ctx, conn)
		if err != nil {
			if errors.Is(err, zds.ErrMessage) || errors.Is(err, zds.ErrDescriptors) || errors.Is(err, zds.ErrTruncated) {
				// The agent waits for an answer to what we could not read; after that we start over.
				err = errors.Join(err, conn.Ack(err))
			}
			return snapshot, err
		}
		aerr := c.state.handle(ctx, req)
		req.Close()
		if req.GetSnapshotSent() != nil && aerr == nil {
			snapshot = true
		}
		if err := conn.Ack(aerr); err != nil {
			return snapshot, err
		}
		if errors.Is(aerr, ErrProtocol) {
			return snapshot, aerr
		}
	}
}

// next waits for a request, trying pending pods while none comes.
func (c *Client) next(ctx context.Context, conn *zds.ProxyConn) (*zds.Request, error) {
	for {
		var deadline time.Time
		if c.state.pendingCount() > 0 {
			deadline = time.Now().Add(c.cfg.RetryPending)
		}
		req, err := conn.Read(deadline)
		if !errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil {
			return req, err
		}
		c.state.retry(ctx)
	}
}

// Blockers names what stands between the proxy and readiness as far as pods are concerned; empty means ready.
func (c *Client) Blockers() []string { return c.state.view.Load().blockers() }

// Connected reports whether the agent is there.
func (c *Client) Connected() bool { return c.state.view.Load().connected }

// Changed is closed when Blockers or Dump may have changed since the call.
func (c *Client) Changed() <-chan struct{} { return c.state.view.Load().next }

// Dump lists the pods handed over, by UID.
func (c *Client) Dump() []Status { return c.state.view.Load().pods }

func pendingText(s Status) string { return fmt.Sprintf("pod %s (%s): %s", s.Info, s.UID, s.Problem) }
