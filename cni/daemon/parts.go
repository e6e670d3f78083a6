package daemon

import (
	"context"

	"github.com/ambit-mesh/ambit/api/netns"
	"github.com/ambit-mesh/ambit/cni/enroll"
)

// Source is where pods and namespaces come from, and where the annotation goes.
type Source interface {
	// Run tells sink what there is and what changes, until ctx ends.
	Run(ctx context.Context, sink enroll.Sink) error
	// Annotate sets the pod's redirection annotation; empty removes it.
	Annotate(ctx context.Context, p enroll.Pod, value string) error
}

// Asker is a Source that can be asked about one pod before it tells of it by itself. That there is no such pod on the node is
// enroll.ErrNoPod; any other error says nothing about it.
type Asker interface {
	Get(ctx context.Context, k enroll.Key) (enroll.Pod, map[string]string, error)
}

// Teller is a Source with a place for what the operator should see of a pod.
type Teller interface {
	Tell(ctx context.Context, p enroll.Pod, warning bool, reason, text string) error
}

// Sandboxes finds the network namespaces of pods that run, by the UID the node runs them under. Nothing found is
// sandbox.ErrNotFound.
type Sandboxes interface {
	Open(uid string) (*netns.Netns, error)
}

// Installer keeps the plugin installed on the node.
type Installer interface {
	Run(ctx context.Context) error
	// Err is what stands in the way of the runtime calling the plugin, and nil if it does.
	Err() error
	// Warning is what is not as it should be of a plugin that is called all the same, and nil if nothing.
	Warning() error
	// Remove takes the plugin away again, after Run has ended.
	Remove() error
}

// Parts are what an agent works with beside the kernel. Only Source is required.
type Parts struct {
	Source    Source
	Sandboxes Sandboxes
	Installer Installer
	// Successor asks whether there will be another agent on this node when this one has ended; if not, it has to leave
	// everything as it was before the mesh. Nil means yes.
	// A no that is not sure is one if no other agent shows itself.
	Successor func(ctx context.Context) (stays, sure bool, why string)
}
