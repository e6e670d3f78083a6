package relay

import (
	"io"
	"net"
	"syscall"

	"github.com/ambit-mesh/ambit/ztunnel/hbone"
	"github.com/ambit-mesh/ambit/ztunnel/hbone/buffer"
	"golang.org/x/sys/unix"
)

func sockets(src, dst hbone.Duplex) (s, d *net.TCPConn, ok bool) {
	s, ok1 := src.(*net.TCPConn)
	d, ok2 := dst.(*net.TCPConn)
	return s, d, ok1 && ok2
}

// bulkAfter is how many full buffers in a row make a direction bulk.
const bulkAfter = 2

// pipeSize is what a pipe can hold between its two splices.
const pipeSize = 1 << 20

// splice copies through a buffer while messages are small and lets the kernel move pages once they are not. Whenever
// the source runs dry the pipe goes away: Go's own ReadFrom keeps one per direction, which idle connections cannot
// afford.
func (d *direction) splice(src, dst *net.TCPConn) error {
	sr, err := src.SyscallConn()
	if err != nil {
		return d.read(err)
	}
	dw, err := dst.SyscallConn()
	if err != nil {
		return d.wrote(err)
	}
	in := buffer.NewSource(sr)
	full := 0
	for {
		if full >= bulkAfter {
			switch err := d.bulk(sr, dw); err {
			case nil:
				full = 0
			case io.EOF:
				return nil
			default:
				return err
			}
		}
		b, err := in.Next(buffer.Medium)
		if err != nil {
			return d.read(err)
		}
		if b == nil {
			return nil
		}
		n := b.Len()
		if n >= buffer.Medium {
			full++
		} else {
			full = 0
		}
		_, err = dst.Write(b.Bytes())
		b.Free()
		if err != nil {
			return d.wrote(err)
		}
		d.moved(n)
	}
}

// bulk splices until the source has nothing ready; then it returns nil, and io.EOF at the source's end.
func (d *direction) bulk(src, dst syscall.RawConn) error {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		return nil // out of descriptors: the buffer does it as well
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	// Best effort: above the user's pipe quota the default size has to do.
	unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize)
	for {
		n, err := spliceNow(src.Read, func(fd int) (int64, error) {
			return unix.Splice(fd, nil, fds[1], nil, pipeSize, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		}, false)
		switch {
		case err == unix.EAGAIN:
			return nil
		case err != nil:
			return d.read(err)
		case n == 0:
			return io.EOF
		}
		for left := n; left > 0; {
			m, err := spliceNow(dst.Write, func(fd int) (int64, error) {
				return unix.Splice(fds[0], nil, fd, nil, int(left), unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
			}, true)
			if err != nil {
				return d.wrote(err)
			}
			left -= m
			d.moved(int(m))
		}
	}
}

// spliceNow makes one splice with a socket, waiting for the socket first if wait is set.
func spliceNow(on func(func(uintptr) bool) error, call func(fd int) (int64, error), wait bool) (n int64, err error) {
	lerr := on(func(fd uintptr) bool {
		for {
			n, err = call(int(fd))
			if err != unix.EINTR {
				break
			}
		}
		return !wait || err != unix.EAGAIN
	})
	if lerr != nil {
		return 0, lerr
	}
	return n, err
}
