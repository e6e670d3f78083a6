package cluster

import (
	"context"
	"io"
	"time"

	"github.com/ambit-mesh/ambit/install/admin"
)

// Mesh is a whole mesh as ambitctl looks at it: its objects, and what runs it.
type Mesh interface {
	Cluster
	// String names the mesh in messages: "lab demo", "context kind-dev".
	String() string
	// DefaultNamespace is the one commands without --namespace are about.
	DefaultNamespace() string
	// Parts lists the running daemons of a kind, those first that are ready; there may be none.
	Parts(ctx context.Context, kind Kind) ([]Part, error)
	// Proxy is the waypoint or gateway that runs in a pod.
	Proxy(pod Object) Part
	// Logs opens what a part, or any pod, wrote; the caller closes it.
	Logs(ctx context.Context, of Part, want LogRange) (io.ReadCloser, error)
	// Words are commands that people run to look further.
	Words() Words
}

// Kind is what a part does.
type Kind string

// The kinds.
const (
	Control   Kind = "control plane"
	Authority Kind = "certificate authority"
	NodeProxy Kind = "ztunnel"
	Agent     Kind = "agent"
	Gateway   Kind = "waypoint"
)

// Part is one running daemon of a mesh.
type Part struct {
	Kind Kind
	// Node is where it runs, for what runs on every node.
	Node string
	// Namespace, Pod and Container are where its logs are; in a lab, Pod is the daemon's name.
	Namespace, Pod, Container string
	Ready                     bool
	// Restarts and Trouble are what the cluster says about its health.
	Restarts int64
	Trouble  string
	Endpoint admin.Endpoint
}

// LogRange bounds a log.
type LogRange struct {
	// Tail is how many lines from the end; Since how far back; 0 means no limit.
	Tail  int64
	Since time.Duration
	// Previous means the container that ran before this one.
	Previous bool
	// Bytes is the most that is read.
	Bytes int64
}

// Words are commands for people to run, as text.
type Words struct {
	// Logs shows a pod's log, Pods lists pods, Health shows how the mesh's own parts are, and Start sets one up.
	Logs                func(namespace, pod string) string
	Pods, Health, Start string
}
