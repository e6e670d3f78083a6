// Package wire is what a lab's supervisor and its clients say to each other: JSON over HTTP on a unix socket.
//
// It has types and a client, and no behaviour. Start reading at Client.
package wire

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/ambit-mesh/ambit/e2e/lab/resource"
)

// Start is what a supervisor is started with, as a file in the lab's folder.
type Start struct {
	Name string `json:"name"`
	// ID is what the lab's namespaces and control groups are called by; see lab.Up.
	ID        string   `json:"id"`
	Nodes     int      `json:"nodes"`
	DualStack bool     `json:"dualStack"`
	Path      []string `json:"path"`
	// NodeLabels are added to the nodes' own, by node name.
	NodeLabels map[string]map[string]string `json:"nodeLabels,omitempty"`
	// Names are names of the outside world, with the addresses they stand for.
	Names map[string][]string `json:"names,omitempty"`
}

// Daemon is a process that the supervisor keeps running on a node or on the control host, outside of any pod.
type Daemon struct {
	// Name is unique in the lab, as in "ztunnel@node1".
	Name string `json:"name"`
	// Kind groups daemons for faults: ztunnel, control, ca, cni.
	Kind string `json:"kind"`
	// Host is a node's name or "control".
	Host string   `json:"host"`
	Args []string `json:"args"`
	// Env is added to a small environment of the lab's.
	Env []string `json:"env,omitempty"`
	Dir string   `json:"dir,omitempty"`
	// Ready is asked with GET until it says 200: an http URL inside the host, or "unix:/socket:/path".
	Ready string `json:"ready,omitempty"`
	// Grace is how long the process may take to end when asked to; 0 means 5 s.
	Grace time.Duration `json:"grace,omitempty"`
	// Once is for a process that is not started again when it ends.
	Once bool `json:"once,omitempty"`
}

// DaemonStatus is how a daemon is.
type DaemonStatus struct {
	Daemon
	// State is running, waiting (to be started again), failed (on purpose, until healed), stopped or done.
	State    string    `json:"state"`
	Ready    bool      `json:"readyNow"`
	NotReady string    `json:"notReady,omitempty"`
	Pid      int       `json:"pid,omitempty"`
	Restarts int       `json:"restarts"`
	Started  time.Time `json:"started"`
	// LastExit says how it ended last.
	LastExit string `json:"lastExit,omitempty"`
	Log      string `json:"log"`
}

// Status is how the lab is.
type Status struct {
	Pid      int            `json:"pid"`
	Started  time.Time      `json:"started"`
	Daemons  []DaemonStatus `json:"daemons"`
	Problems []Problem      `json:"problems"`
	Faults   []Fault        `json:"faults"`
}

// Problem is something the lab cannot do as asked.
type Problem struct {
	Object  string `json:"object"`
	Problem string `json:"problem"`
}

// Result is what became of one document.
type Result struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	// Action is created, configured, unchanged, deleted or refused.
	Action string `json:"action"`
	Line   int    `json:"line,omitempty"`
	Error  string `json:"error,omitempty"`
}

// Ref names an object in a request.
type Ref struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// Label is a request to set and remove labels.
type Label struct {
	Ref
	Set    map[string]string `json:"set,omitempty"`
	Remove []string          `json:"remove,omitempty"`
}

// Scale is a request for another number of replicas.
type Scale struct {
	Ref
	Replicas int `json:"replicas"`
}

// Fault is something broken on purpose: Kind is node, link, ztunnel, cni, ca or control, and Host says where.
type Fault struct {
	Kind string `json:"kind"`
	Host string `json:"host"`
	// Restart is for a crash that is repaired at once instead of by Heal.
	Restart bool `json:"restart,omitempty"`
}

// PodProcess is what it takes to enter a pod or read its logs.
type PodProcess struct {
	Node       string          `json:"node"`
	Netns      string          `json:"netns"`
	Containers []ContainerInfo `json:"containers"`
}

// ContainerInfo is a container's process and its surroundings.
type ContainerInfo struct {
	Name string   `json:"name"`
	Pid  int      `json:"pid"`
	Env  []string `json:"env"`
	Dir  string   `json:"dir"`
	Log  string   `json:"log"`
}

// Rollout says whether a rollout is complete and, if not, what it waits for.
type Rollout struct {
	Done    bool   `json:"done"`
	Waiting string `json:"waiting,omitempty"`
}

// Client talks to one supervisor.
type Client struct {
	http   *http.Client
	socket string
}

// NewClient makes a client of the supervisor at a unix socket.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &Client{http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}, socket: socket}
}

// Call sends body, which is bytes or something to encode, and decodes the answer into out unless that is nil.
func (c *Client) Call(ctx context.Context, method, path string, query url.Values, body, out any) error {
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case []byte:
		r = bytes.NewReader(b)
	default:
		data, err := json.Marshal(b)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		r = bytes.NewReader(data)
	}
	u := url.URL{Scheme: "http", Host: "lab", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), r)
	if err != nil {
		return fmt.Errorf("request: %w", err)
	}
	resp, err := c.http.Do(req)
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("labs are for root: try again with sudo (%s: permission denied)", c.socket)
	}
	if err != nil {
		return fmt.Errorf("the lab's supervisor does not answer on %s (crashed? \"ambit-lab down\" cleans up): %w", c.socket, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("read the supervisor's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(string(bytes.TrimSpace(data)))
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("decode the supervisor's answer: %w", err)
	}
	return nil
}

// Objects is a list of objects in an answer.
type Objects struct {
	Items []resource.Object `json:"items"`
}
