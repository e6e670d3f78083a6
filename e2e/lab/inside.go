package lab

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/ambit-mesh/ambit/e2e/lab/capture"
	"github.com/ambit-mesh/ambit/e2e/lab/sandbox"
)

// link is the name of a host's interface on the fabric.
const link = "eth0"

// Capture watches a host's link until ctx ends and sums up what crossed it. With a file name the packets are kept too,
// in pcap format.
func (l *Lab) Capture(ctx context.Context, host, file string) (*capture.Report, error) {
	t, err := l.Tap(host)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	report := &capture.Report{}
	if file == "" {
		return report, t.Record(ctx, report.Add)
	}
	f, err := capture.Create(file)
	if err != nil {
		return nil, err
	}
	return report, errors.Join(t.Record(ctx, report.Add, f.Add), f.Close())
}

// Tap starts a capture on a host's link. Packets are queued from now on; the caller records and closes it.
func (l *Lab) Tap(host string) (*capture.Tap, error) {
	path, err := l.hostNetns(host)
	if err != nil {
		return nil, err
	}
	return capture.Open(path, link)
}

func (l *Lab) hostNetns(host string) (string, error) {
	if host == ControlHost {
		return l.Control.Netns, nil
	}
	n, ok := l.Node(host)
	if !ok {
		return "", fmt.Errorf("there is no node %q: they are node1 to node%d, and %q", host, len(l.Nodes), ControlHost)
	}
	return n.Netns, nil
}

// ExecHost runs a command in the network of a node or of the control host, and returns its exit code.
func (l *Lab) ExecHost(ctx context.Context, host string, args []string, stdio sandbox.Stdio) (int, error) {
	path, err := l.hostNetns(host)
	if err != nil {
		return 0, err
	}
	dir := filepath.Join(l.Dir, "hosts", host)
	code, err := sandbox.Visit(ctx, path, filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "hosts"), args, stdio)
	if err != nil {
		return 0, fmt.Errorf("on %s: %w", host, err)
	}
	return code, nil
}
