// Package capture records what crosses a network interface and tells what of it a stranger on the wire could read.
//
// It reads packets from an AF_PACKET socket, writes pcap files, and sums up TCP and UDP flows: whether they carry TLS,
// readable HTTP, or something else. It decrypts nothing. Record runs on its caller's goroutine. Start reading at Record;
// Report is pure.
package capture

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/ambit-mesh/ambit/e2e/lab/netspace"
	"golang.org/x/sys/unix"
)

// snapLen is how much of each packet is kept: more than any, with segmentation offload.
const snapLen = 256 << 10

// Tap is an open capture. Packets are queued from the moment Open returns.
type Tap struct {
	fd int
}

// Open starts capturing on an interface of the network namespace at path.
func Open(path, device string) (*Tap, error) {
	t := &Tap{fd: -1}
	err := netspace.Do(path, func() error {
		link, err := net.InterfaceByName(device)
		if err != nil {
			return fmt.Errorf("interface %s: %w", device, err)
		}
		// Protocol 0 receives nothing: the queue starts with bind, so that no packet of another interface gets in.
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("packet socket (needs CAP_NET_RAW): %w", err)
		}
		t.fd = fd
		// The kernel may cap it; what does not fit is lost, as with any capture.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20)
		timeout := unix.Timeval{Usec: 50_000}
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
			return fmt.Errorf("packet socket: %w", err)
		}
		all := uint16(unix.ETH_P_ALL)
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all<<8 | all>>8, Ifindex: link.Index}); err != nil {
			return fmt.Errorf("packet socket on %s: %w", device, err)
		}
		return nil
	})
	if err != nil {
		if t.fd >= 0 {
			_ = unix.Close(t.fd)
		}
		return nil, fmt.Errorf("capture: %w", err)
	}
	return t, nil
}

// Close ends the capture.
func (t *Tap) Close() error { return unix.Close(t.fd) }

// Record hands every packet to the sinks until ctx ends, and then those that were queued by then.
func (t *Tap) Record(ctx context.Context, sinks ...func(at time.Time, packet []byte)) error {
	buf := make([]byte, snapLen)
	ending := false
	for {
		// Asked before the read, so that one whole pass over the queue follows the end.
		if ctx.Err() != nil {
			ending = true
		}
		flags := 0
		if ending {
			flags = unix.MSG_DONTWAIT
		}
		n, _, err := unix.Recvfrom(t.fd, buf, flags)
		switch {
		case errors.Is(err, unix.EAGAIN):
			if ending {
				return nil
			}
			continue
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENETDOWN):
			if ending {
				return nil
			}
			continue
		case err != nil:
			return fmt.Errorf("capture: %w", err)
		}
		now := time.Now()
		for _, sink := range sinks {
			sink(now, buf[:n])
		}
	}
}

// File writes packets in pcap format.
type File struct {
	w   io.WriteCloser
	err error
}

// Create makes a pcap file.
func Create(name string) (*File, error) {
	f, err := os.Create(name)
	if err != nil {
		return nil, fmt.Errorf("capture file: %w", err)
	}
	head := make([]byte, 24)
	binary.LittleEndian.PutUint32(head, 0xa1b23c4d) // nanosecond time stamps
	binary.LittleEndian.PutUint16(head[4:], 2)
	binary.LittleEndian.PutUint16(head[6:], 4)
	binary.LittleEndian.PutUint32(head[16:], snapLen)
	binary.LittleEndian.PutUint32(head[20:], 1) // Ethernet
	if _, err := f.Write(head); err != nil {
		return nil, errors.Join(fmt.Errorf("capture file: %w", err), f.Close())
	}
	return &File{w: f}, nil
}

// Add writes one packet. The first error is kept for Close.
func (f *File) Add(at time.Time, packet []byte) {
	head := make([]byte, 16, 16+len(packet))
	binary.LittleEndian.PutUint32(head, uint32(at.Unix()))
	binary.LittleEndian.PutUint32(head[4:], uint32(at.Nanosecond()))
	binary.LittleEndian.PutUint32(head[8:], uint32(len(packet)))
	binary.LittleEndian.PutUint32(head[12:], uint32(len(packet)))
	if _, err := f.w.Write(append(head, packet...)); err != nil && f.err == nil {
		f.err = err
	}
}

// Close finishes the file and says whether all of it was written.
func (f *File) Close() error {
	if err := errors.Join(f.err, f.w.Close()); err != nil {
		return fmt.Errorf("capture file: %w", err)
	}
	return nil
}

// Read reads a pcap file of this package's or of tcpdump's.
func Read(name string, sink func(at time.Time, packet []byte)) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("capture file: %w", err)
	}
	return Parse(data, sink)
}

// Parse reads pcap from memory.
func Parse(data []byte, sink func(at time.Time, packet []byte)) error {
	if len(data) < 24 {
		return errors.New("capture file: too short for pcap")
	}
	unit := time.Microsecond
	switch binary.LittleEndian.Uint32(data) {
	case 0xa1b2c3d4:
	case 0xa1b23c4d:
		unit = time.Nanosecond
	default:
		return errors.New("capture file: not a little-endian pcap file")
	}
	for data = data[24:]; len(data) >= 16; {
		n := binary.LittleEndian.Uint32(data[8:])
		at := time.Unix(int64(binary.LittleEndian.Uint32(data)), int64(binary.LittleEndian.Uint32(data[4:]))*int64(unit))
		data = data[16:]
		if uint64(n) > uint64(len(data)) {
			return errors.New("capture file: cut off in a packet")
		}
		sink(at, data[:n])
		data = data[n:]
	}
	return nil
}
