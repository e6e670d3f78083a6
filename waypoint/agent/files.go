package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/ambit-mesh/ambit/waypoint/envoy"
)

// runDir returns a folder only this user may enter: who can connect to the socket in it gets this pod's private key.
func runDir(path string) (dir string, cleanup func(), err error) {
	if path != "" {
		if err := os.MkdirAll(path, 0o700); err != nil {
			return "", nil, fmt.Errorf("run directory (--run-dir): %w", err)
		}
		if err := os.Chmod(path, 0o700); err != nil {
			return "", nil, fmt.Errorf("run directory (--run-dir): %w", err)
		}
		return path, func() {}, nil
	}
	var errs []error
	for _, parent := range []string{"", "."} {
		dir, err := os.MkdirTemp(parent, "ambit-waypoint-")
		if err == nil {
			dir, err = filepath.Abs(dir)
		}
		if err == nil {
			return dir, func() { os.RemoveAll(dir) }, nil
		}
		errs = append(errs, err)
	}
	return "", nil, fmt.Errorf("no writable place for sockets; name one with --run-dir: %w", errors.Join(errs...))
}

func (a *agent) writeBootstrap() error {
	b, err := envoy.Bootstrap(a.opts)
	if err != nil {
		return err
	}
	text, err := protojson.MarshalOptions{Multiline: true}.Marshal(b)
	if err != nil {
		return fmt.Errorf("encode the bootstrap of Envoy: %w", err)
	}
	if err := os.WriteFile(a.config, text, 0o600); err != nil {
		return fmt.Errorf("write the bootstrap of Envoy: %w", err)
	}
	return nil
}

// listenUnix opens a unix socket for this user alone, in place of one a predecessor left.
func listenUnix(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("clear socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for Envoy: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("protect socket: %w", err)
	}
	return l, nil
}
