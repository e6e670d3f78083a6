package zds

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/proto"
)

// Listener is where the agent waits for node proxies.
type Listener struct {
	ln *net.UnixListener
}

// Listen opens the agent's socket at path, taking it over from whoever had it before: the socket is made under another
// name and moved into place, so a proxy that reconnects during the agent's restart never finds the path missing.
// Closing the listener leaves the path alone, because by then a successor may own it.
func Listen(path string) (*Listener, error) {
	tmp := filepath.Join(filepath.Dir(path), fmt.Sprintf(".z%d", os.Getpid()))
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove stale socket: %w", err)
	}
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: tmp, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("listen for node proxies at %s (the directory must exist and the path be shorter than 108 bytes): %w", path, err)
	}
	ln.SetUnlinkOnClose(false)
	if err = os.Chmod(tmp, 0o600); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		ln.Close()
		os.Remove(tmp)
		return nil, fmt.Errorf("put the node proxies' socket at %s: %w", path, err)
	}
	return &Listener{ln: ln}, nil
}

// Accept waits for the next proxy. It returns net.ErrClosed after Close.
func (l *Listener) Accept() (*AgentConn, error) {
	nc, err := l.ln.AcceptUnix()
	if err != nil {
		return nil, err
	}
	return NewAgentConn(nc), nil
}

// Close ends Accept. Connections already accepted stay open.
func (l *Listener) Close() error { return l.ln.Close() }

// AgentConn is the agent's end of one connection. One goroutine at a time may talk on it; Close may come from another.
type AgentConn struct {
	packetConn
}

// NewAgentConn takes over nc, which must be of network "unixpacket".
func NewAgentConn(nc *net.UnixConn) *AgentConn { return &AgentConn{newPacketConn(nc)} }

// Close ends the connection.
func (c *AgentConn) Close() error { return c.nc.Close() }

// Hello reads the proxy's first message and checks its version.
func (c *AgentConn) Hello() error {
	b, files, err := c.read(time.Now().Add(Timeout))
	if err != nil {
		return fmt.Errorf("read hello: %w", err)
	}
	closeAll(files)
	if len(files) != 0 {
		return fmt.Errorf("read hello: %w: %d, want none", ErrDescriptors, len(files))
	}
	var hello ZdsHello
	if err := proto.Unmarshal(b, &hello); err != nil {
		return fmt.Errorf("read hello: %w: %w", ErrMessage, err)
	}
	if hello.GetVersion() != Version_V1 {
		return fmt.Errorf("read hello: %w: the proxy speaks version %d, this agent version %d", ErrMessage, hello.GetVersion(), Version_V1)
	}
	return nil
}

// Add hands over a pod and its network namespace and waits for the ack. The caller keeps netns.
func (c *AgentConn) Add(uid string, info *WorkloadInfo, netns *os.File) error {
	return c.call(&WorkloadRequest{Payload: &WorkloadRequest_Add{Add: &AddWorkload{Uid: uid, WorkloadInfo: info}}}, netns)
}

// Keep says, before the snapshot is complete, that a pod is to stay although its namespace cannot be handed over.
func (c *AgentConn) Keep(uid string) error {
	return c.call(&WorkloadRequest{Payload: &WorkloadRequest_Keep{Keep: &KeepWorkload{Uid: uid}}}, nil)
}

// Del says that a pod is no longer of the mesh.
func (c *AgentConn) Del(uid string) error {
	return c.call(&WorkloadRequest{Payload: &WorkloadRequest_Del{Del: &DelWorkload{Uid: uid}}}, nil)
}

// SnapshotSent says that every pod of the node has been named.
func (c *AgentConn) SnapshotSent() error {
	return c.call(&WorkloadRequest{Payload: &WorkloadRequest_SnapshotSent{SnapshotSent: &SnapshotSent{}}}, nil)
}

// call sends one request and waits for its ack. Any error but an AckError means that the connection is done for.
func (c *AgentConn) call(req *WorkloadRequest, netns *os.File) error {
	if err := c.write(req, netns, Timeout); err != nil {
		return fmt.Errorf("send to node proxy: %w", err)
	}
	b, files, err := c.read(time.Now().Add(Timeout))
	if err != nil {
		return fmt.Errorf("read ack of node proxy: %w", err)
	}
	closeAll(files)
	return parseAck(b, len(files))
}

func parseAck(b []byte, files int) error {
	if files != 0 {
		return fmt.Errorf("read ack of node proxy: %w: %d, want none", ErrDescriptors, files)
	}
	var resp WorkloadResponse
	if err := proto.Unmarshal(b, &resp); err != nil {
		return fmt.Errorf("read ack of node proxy: %w: %w", ErrMessage, err)
	}
	ack := resp.GetAck()
	if ack == nil {
		return fmt.Errorf("read ack of node proxy: %w: not an ack", ErrMessage)
	}
	if ack.GetError() != "" {
		return &AckError{Text: ack.GetError()}
	}
	return nil
}

// livenessWait is how long Alive listens. Istio's agent does the same: a proxy has nothing to say between requests, so
// silence is life. istio/istio cni/pkg/nodeagent/ztunnelserver.go.
const livenessWait = 10 * time.Millisecond

// Alive reports an error if the proxy has hung up or speaks out of turn. It is called when the connection is idle.
func (c *AgentConn) Alive() error {
	_, files, err := c.read(time.Now().Add(livenessWait))
	switch {
	case err == nil:
		closeAll(files)
		return fmt.Errorf("%w: the proxy spoke without being asked", ErrMessage)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil
	default:
		return fmt.Errorf("node proxy is gone: %w", err)
	}
}
