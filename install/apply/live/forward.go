package live

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	httpstreamspdy "k8s.io/apimachinery/pkg/util/httpstream/spdy"
	forwarding "k8s.io/apimachinery/pkg/util/portforward"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/transport/websocket"
	upgrade "k8s.io/streaming/pkg/httpstream"
)

const (
	// dialPatience bounds how long the API server and the kubelet may take to open a forwarded connection.
	dialPatience = 15 * time.Second
	// lastWords is how long a stream that was cut is given to say why.
	lastWords = time.Second
	// streamPatience is how long a stream of an open connection may take to open.
	streamPatience = 5 * time.Second
)

// tunnel is one forwarded connection to a port of a pod. Each connection to the port is two streams of it.
type tunnel struct {
	httpstream.Connection
	requests atomic.Int64
	// broken is what the kubelet said when it could not connect. It answers nothing more on the connection then.
	broken atomic.Pointer[string]
}

func (t *tunnel) alive() bool {
	if t.broken.Load() != nil {
		return false
	}
	select {
	case <-t.CloseChan():
		return false
	default:
		return true
	}
}

// close ends the connection; whoever still reads from it is told so.
func (t *tunnel) close() { _ = t.Connection.Close() }

// Port connects to any port of a pod that listens on its loopback address.
func (m *Mesh) Port(namespace, pod string, port int) func(context.Context) (net.Conn, error) {
	return m.dialer(namespace, pod, port)
}

// dialer connects to a loopback port of a pod.
func (m *Mesh) dialer(namespace, pod string, port int) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		for {
			t, fresh, err := m.tunnel(ctx, namespace, pod, port)
			if err != nil {
				return nil, fmt.Errorf("forward to pod %s/%s: %w", namespace, pod, err)
			}
			c, err := t.open(port)
			if err == nil {
				return c, nil
			}
			// The kubelet may have given up a connection that lay idle; a new one that does not work will not get better.
			m.forget(namespace, pod, port, t)
			if fresh {
				return nil, fmt.Errorf("forward to port %d of pod %s/%s: %w", port, namespace, pod, err)
			}
		}
	}
}

func (m *Mesh) forget(namespace, pod string, port int, t *tunnel) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if key := tunnelKey(namespace, pod, port); m.tunnels[key] == t {
		delete(m.tunnels, key)
	}
	t.close()
}

// tunnelKey tells tunnels apart. An error at one port must not end what goes to another.
func tunnelKey(namespace, pod string, port int) string {
	return fmt.Sprintf("%s/%s:%d", namespace, pod, port)
}

// tunnel returns the connection for a port of a pod, a new one if there is none that lives.
func (m *Mesh) tunnel(ctx context.Context, namespace, pod string, port int) (t *tunnel, fresh bool, err error) {
	key := tunnelKey(namespace, pod, port)
	m.mu.Lock()
	if t := m.tunnels[key]; t != nil && t.alive() {
		m.mu.Unlock()
		return t, false, nil
	}
	m.mu.Unlock()
	// Two callers may each open one: the second is kept, the first serves out its caller.
	ctx, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	url := m.client.Core.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
	cfg := rest.CopyConfig(m.client.Config)
	cfg.Timeout = 0 // it outlives any single request
	conn, err := overWebSocket(ctx, cfg, url.String())
	if upgrade.IsUpgradeFailure(err) || upgrade.IsHTTPSProxyError(err) {
		// An API server before 1.31, a proxy that does not know WebSocket, or a role that may only "create" portforwards.
		conn, err = overSPDY(ctx, cfg, url.String())
	}
	if err != nil {
		return nil, false, err
	}
	t = &tunnel{Connection: conn}
	m.mu.Lock()
	if old := m.tunnels[key]; old != nil && !old.alive() {
		old.close()
	}
	m.tunnels[key] = t
	m.mu.Unlock()
	return t, true, nil
}

// overWebSocket opens a SPDY connection inside a WebSocket. KEP-4006.
func overWebSocket(ctx context.Context, cfg *rest.Config, url string) (httpstream.Connection, error) {
	rt, holder, err := websocket.RoundTripperFor(cfg)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	conn, err := websocket.Negotiate(rt, holder, req, forwarding.WebsocketsSPDYTunnelingPrefix+forwarding.PortForwardV1Name)
	if err != nil {
		return nil, err
	}
	return httpstreamspdy.NewClientConnectionWithPings(portforward.NewTunnelingConnection("ambitctl", conn), portforward.PingPeriod)
}

func overSPDY(ctx context.Context, cfg *rest.Config, url string) (httpstream.Connection, error) {
	rt, upgrader, err := spdy.RoundTripperFor(cfg)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	if err != nil {
		return nil, err
	}
	conn, _, err := spdy.Negotiate(upgrader, &http.Client{Transport: rt}, req, portforward.PortForwardProtocolV1Name)
	return conn, err
}

// open connects to a port of the pod: one stream for errors, one for data.
func (t *tunnel) open(port int) (net.Conn, error) {
	// The kubelet does not say that it has given up a connection. Without this, opening a stream takes 30 s to fail.
	defer time.AfterFunc(streamPatience, t.close).Stop()
	h := http.Header{}
	h.Set(corev1.StreamType, corev1.StreamTypeError)
	h.Set(corev1.PortHeader, strconv.Itoa(port))
	h.Set(corev1.PortForwardRequestIDHeader, strconv.FormatInt(t.requests.Add(1), 10))
	errs, err := t.CreateStream(h)
	if err != nil {
		return nil, err
	}
	errs.Close() // we say nothing on it
	h.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := t.CreateStream(h)
	if err != nil {
		errs.Reset()
		t.RemoveStreams(errs)
		return nil, err
	}
	c := &conn{tunnel: t, data: data, errs: errs, said: make(chan struct{}), port: port}
	go c.listen() // Close waits for it
	return c, nil
}

// conn is a connection to a port of a pod.
type conn struct {
	tunnel     *tunnel
	data, errs httpstream.Stream
	port       int
	closing    sync.Once

	said chan struct{} // closed when the kubelet has nothing more to say
}

func (c *conn) listen() {
	defer close(c.said)
	text, _ := io.ReadAll(io.LimitReader(c.errs, 4<<10))
	if said := strings.TrimSpace(string(text)); said != "" {
		c.tunnel.broken.Store(&said)
		c.tunnel.close() // what waits for answers on it waits in vain
	}
}

// Read says at the end of data why they ended, if the kubelet knows.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.data.Read(p)
	if err == nil || n > 0 {
		return n, nil
	}
	timer := time.NewTimer(lastWords)
	defer timer.Stop()
	select {
	case <-c.said:
	case <-timer.C:
		return 0, err
	}
	switch said := c.tunnel.broken.Load(); {
	case said == nil:
		return 0, err
	case strings.Contains(*said, "connection refused"):
		return 0, fmt.Errorf("%w: nothing listens on port %d in the pod", syscall.ECONNREFUSED, c.port)
	default:
		return 0, errors.New(*said)
	}
}

// Write sends.
func (c *conn) Write(p []byte) (int, error) { return c.data.Write(p) }

// Close ends the connection and waits for what listens.
func (c *conn) Close() error {
	c.closing.Do(func() {
		// Data nobody takes would hold up the other connections to the pod.
		c.data.Reset()
		c.errs.Reset()
		c.tunnel.RemoveStreams(c.data, c.errs)
		<-c.said
	})
	return nil
}

type podAddr int

// Network and String implement net.Addr.
func (podAddr) Network() string { return "port-forward" }

// String names the port.
func (a podAddr) String() string { return fmt.Sprintf("port %d of the pod", int(a)) }

// LocalAddr is no address of this machine.
func (c *conn) LocalAddr() net.Addr { return podAddr(0) }

// RemoteAddr is the port in the pod.
func (c *conn) RemoteAddr() net.Addr { return podAddr(c.port) }

// SetDeadline and its like are not for streams; callers bound their questions by a context, which closes the connection.
func (c *conn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing.
func (c *conn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }
