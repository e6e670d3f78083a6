package zds

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
)

// Request is what the agent asks, with the descriptor that came along.
type Request struct {
	*WorkloadRequest

	netns *os.File
}

// TakeNetns passes the network namespace of an Add on to the caller, who has to close it; nil for any other request
// and from the second call on.
func (r *Request) TakeNetns() *os.File {
	f := r.netns
	r.netns = nil
	return f
}

// Close closes the descriptor unless it was taken.
func (r *Request) Close() {
	if r.netns != nil {
		r.netns.Close()
		r.netns = nil
	}
}

// ProxyConn is the proxy's end of a connection. One goroutine at a time may talk on it; Close may come from another.
type ProxyConn struct {
	packetConn
}

// Dial connects to the agent's socket.
func Dial(ctx context.Context, path string) (*ProxyConn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unixpacket", path)
	if err != nil {
		return nil, fmt.Errorf("connect to the CNI agent: %w", err)
	}
	return NewProxyConn(nc.(*net.UnixConn)), nil
}

// NewProxyConn takes over nc, which must be of network "unixpacket".
func NewProxyConn(nc *net.UnixConn) *ProxyConn { return &ProxyConn{newPacketConn(nc)} }

// Close ends the connection.
func (c *ProxyConn) Close() error { return c.nc.Close() }

// Hello sends the first message.
func (c *ProxyConn) Hello() error {
	if err := c.write(&ZdsHello{Version: Version_V1}, nil, Timeout); err != nil {
		return fmt.Errorf("say hello to the CNI agent: %w", err)
	}
	return nil
}

// Read waits for the next request until the deadline (zero: forever). After os.ErrDeadlineExceeded the connection is
// still good; after ErrMessage, ErrDescriptors or ErrTruncated the caller answers with Ack(err) and reconnects.
func (c *ProxyConn) Read(deadline time.Time) (*Request, error) {
	b, files, err := c.read(deadline)
	if err != nil {
		return nil, fmt.Errorf("read from the CNI agent: %w", err)
	}
	req, err := parseRequest(b, files)
	if err != nil {
		closeAll(files)
		return nil, fmt.Errorf("read from the CNI agent: %w", err)
	}
	return req, nil
}

// parseRequest takes the files over only if it returns no error.
func parseRequest(b []byte, files []*os.File) (*Request, error) {
	var m WorkloadRequest
	if err := proto.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMessage, err)
	}
	want := 0
	switch m.GetPayload().(type) {
	case *WorkloadRequest_Add:
		want = 1
	case *WorkloadRequest_Del, *WorkloadRequest_Keep, *WorkloadRequest_SnapshotSent:
	default:
		return nil, fmt.Errorf("%w: a request of a kind this proxy does not know", ErrMessage)
	}
	if len(files) != want {
		return nil, fmt.Errorf("%w: %d, want %d", ErrDescriptors, len(files), want)
	}
	req := &Request{WorkloadRequest: &m}
	if want == 1 {
		req.netns = files[0]
	}
	return req, nil
}

// Ack answers the request read last: done if err is nil, else refused with its text.
func (c *ProxyConn) Ack(err error) error {
	ack := &Ack{}
	if err != nil {
		ack.Error = clip(err.Error(), MaxMessage-64)
	}
	if err := c.write(&WorkloadResponse{Payload: &WorkloadResponse_Ack{Ack: ack}}, nil, Timeout); err != nil {
		return fmt.Errorf("answer the CNI agent: %w", err)
	}
	return nil
}

// clip shortens an error text to what a packet holds; proto strings have to be valid UTF-8.
func clip(s string, limit int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "")
	}
	return s
}
