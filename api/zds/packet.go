package zds

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"
)

// MaxMessage is the longest message either end sends or accepts. Istio's agent and ztunnel read into buffers of this
// size (istio/ztunnel src/inpod/packet.rs, istio/istio cni/pkg/nodeagent/ztunnelserver.go).
const MaxMessage = 1024

// Timeout bounds each read and write of the agent within a request, and the proxy's writes.
const Timeout = 5 * time.Second

// maxFDs is how many descriptors a packet may carry before the kernel cuts it: more than the one that is legal, so
// that a peer sending two is told so instead of being reported as truncation.
const maxFDs = 4

var (
	// ErrTooLarge says that a message would not fit into one packet.
	ErrTooLarge = errors.New("message is longer than a packet may be")
	// ErrTruncated says that the kernel cut a packet or its descriptors: the peer broke the limits.
	ErrTruncated = errors.New("packet was cut by the kernel")
	// ErrDescriptors says that a message came with the wrong number of file descriptors.
	ErrDescriptors = errors.New("wrong number of file descriptors")
	// ErrMessage says that a packet is not the message that was due.
	ErrMessage = errors.New("unexpected message")
)

// AckError is the refusal of a request by the proxy, in the proxy's words. The connection stays good.
type AckError struct{ Text string }

func (e *AckError) Error() string { return "node proxy refused: " + e.Text }

// packetConn moves one message and its descriptors at a time. Reads and writes may overlap, two reads may not.
type packetConn struct {
	nc  *net.UnixConn
	buf []byte // one byte longer than a message, so that a packet of the forbidden length is seen
	oob []byte
}

func newPacketConn(nc *net.UnixConn) packetConn {
	return packetConn{nc: nc, buf: make([]byte, MaxMessage+1), oob: make([]byte, syscall.CmsgSpace(4*maxFDs))}
}

// write sends m, with f beside it unless f is nil. The caller keeps f. After os.ErrClosed f was closed already and
// nothing was sent.
func (p *packetConn) write(m proto.Message, f *os.File, timeout time.Duration) error {
	b, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	if len(b) > MaxMessage {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(b), MaxMessage)
	}
	if len(b) == 0 {
		// An empty packet reads like the end of the connection.
		return fmt.Errorf("%w: empty", ErrMessage)
	}
	if err := p.nc.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if f == nil {
		_, _, err = p.nc.WriteMsgUnix(b, nil, nil)
		return err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("descriptor to send: %w", err)
	}
	// Control holds the file open while the kernel copies the descriptor.
	var werr error
	if err := raw.Control(func(fd uintptr) {
		_, _, werr = p.nc.WriteMsgUnix(b, syscall.UnixRights(int(fd)), nil)
	}); err != nil {
		// Nothing was sent. Package os does not say that this is why.
		return fmt.Errorf("descriptor to send: %w: %w", os.ErrClosed, err)
	}
	return werr
}

// read receives one packet. The bytes are good until the next read; the files are the caller's to close.
// A zero deadline waits forever. A read that times out has consumed nothing.
func (p *packetConn) read(deadline time.Time) ([]byte, []*os.File, error) {
	if err := p.nc.SetReadDeadline(deadline); err != nil {
		return nil, nil, err
	}
	n, oobn, flags, _, err := p.nc.ReadMsgUnix(p.buf, p.oob)
	files, cerr := parseFiles(p.oob[:oobn])
	switch {
	case err != nil:
	case cerr != nil:
		err = cerr
	case n == 0:
		err = io.EOF
	case flags&syscall.MSG_TRUNC != 0 || n > MaxMessage:
		err = fmt.Errorf("%w: longer than %d bytes", ErrTruncated, MaxMessage)
	case flags&syscall.MSG_CTRUNC != 0:
		err = fmt.Errorf("%w: more than %d file descriptors, or this process may open no more files", ErrTruncated, maxFDs)
	}
	if err != nil {
		closeAll(files)
		return nil, nil, err
	}
	return p.buf[:n], files, nil
}

func parseFiles(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("ancillary data: %w", err)
	}
	var files []*os.File
	for _, m := range messages {
		if m.Header.Level != syscall.SOL_SOCKET || m.Header.Type != syscall.SCM_RIGHTS {
			continue
		}
		fds, err := syscall.ParseUnixRights(&m)
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("ancillary data: %w", err)
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "netns"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
