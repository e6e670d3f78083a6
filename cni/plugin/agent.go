package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Paths of the agent's plugin socket.
const (
	// AddPath takes a pod that is being made. istio/istio cni/pkg/nodeagent/cni-watcher.go.
	AddPath = "/cmdadd"
	// CheckPath tells whether a pod is for the mesh. It is an addition of ours, for nodes without an API server.
	CheckPath = "/check"
)

// timeout bounds a whole request.
const timeout = 5 * time.Second

// Request is what the plugin tells the agent, in the JSON Istio's agent expects.
type Request struct {
	Netns        string
	PodName      string
	PodNamespace string
	IPs          []IPConfig
	// PodUID is an addition of ours: a pod that was made anew under its old name is another one.
	PodUID string `json:",omitempty"`
}

// IPConfig is one address of a pod, as Go encodes the IPConfig of a CNI 1.0 result.
type IPConfig struct {
	Interface *int
	Address   net.IPNet
	Gateway   net.IP
}

// Eligibility is the answer to a check.
type Eligibility struct {
	Eligible bool
	Reason   string
	// Captured is whether it is redirected already.
	Captured bool
}

// Agent talks to the agent of the node.
type Agent struct {
	// RunDir holds pluginevent.sock.
	RunDir string
}

// Add announces a pod and returns when its traffic is captured.
func (a Agent) Add(ctx context.Context, r Request) error {
	_, err := a.post(ctx, AddPath, r)
	return err
}

// patience is how long an agent may be away before a pod fails to start: while it is replaced, waiting here is quicker than
// being tried again by the kubelet.
const patience = 4 * time.Second

// await is Add, for an agent that may be on its way.
func (a Agent) await(ctx context.Context, r Request) error {
	for start := time.Now(); ; {
		err := a.Add(ctx, r)
		away := errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT)
		if !away || time.Since(start) > patience || !sleep(ctx, 50*time.Millisecond) {
			return err
		}
	}
}

// Check asks whether the pod is for the mesh.
func (a Agent) Check(ctx context.Context, namespace, name, uid string) (Eligibility, error) {
	var e Eligibility
	body, err := a.post(ctx, CheckPath, Request{PodNamespace: namespace, PodName: name, PodUID: uid})
	if err == nil {
		err = json.Unmarshal(body, &e)
	}
	return e, err
}

func (a Agent) post(ctx context.Context, path string, r Request) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	body, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := unixClient(filepath.Join(a.RunDir, "pluginevent.sock")).Do(req)
	if err != nil {
		return nil, fmt.Errorf("the mesh's CNI agent does not answer on this node (DaemonSet ambit-cni-node): %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return nil, fmt.Errorf("read the CNI agent's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("CNI agent: %s: %s", resp.Status, strings.TrimSpace(string(answer)))
	}
	return answer, nil
}

// unixClient speaks HTTP over a unix socket, one request a connection.
func unixClient(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
}
