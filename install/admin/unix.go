package admin

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

// maxSocketPath is what a unix socket's address has room for, unix(7).
const maxSocketPath = 107

// DialUnix connects to a unix socket, also one whose path is longer than a socket's address may be.
func DialUnix(ctx context.Context, path string) (net.Conn, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	if len(path) <= maxSocketPath {
		return d.DialContext(ctx, "unix", path)
	}
	// The folder has a short name as an open file of this process.
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
}
