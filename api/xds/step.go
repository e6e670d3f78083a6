package xds

import (
	"slices"
	"sync"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// A Step makes one of what several collections become together. A client that cares (Stepper) is told of each response
// whether others of the same step follow; other clients, and other servers, know nothing of it.
//
// Clients ask for it with a feature in their node; the server answers in control_plane.identifier, which the protocol leaves
// to servers.
type Step struct {
	// mu is held for writing while collections change, and for reading while a stream looks what to send.
	mu sync.RWMutex
}

// Do runs change, which applies to collections, as one step. A nil Step just runs it.
func (s *Step) Do(change func()) {
	if s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
	}
	change()
}

func (s *Step) look(at func() error) error {
	if s != nil {
		s.mu.RLock()
		defer s.mu.RUnlock()
	}
	return at()
}

// Stepper is a Handler that wants to know what belongs together.
type Stepper interface {
	// Step is called with true before Apply of a response that is part of a step, and with false after Apply of its last one.
	// For responses that are part of none, such as first answers, it is not called.
	Step(under bool)
}

const featureSteps = "ambit.io/steps"

// Marks of responses.
const (
	markMore = "ambit.io/step:more"
	markLast = "ambit.io/step:last"
)

// introduced is the node of a client with what its handler can do.
func introduced(node *corev3.Node, h Handler) *corev3.Node {
	if _, ok := h.(Stepper); !ok {
		return node
	}
	node = proto.CloneOf(node)
	if node == nil {
		node = &corev3.Node{}
	}
	node.ClientFeatures = append(node.ClientFeatures, featureSteps)
	return node
}

func wantsSteps(node *corev3.Node) bool {
	return slices.Contains(node.GetClientFeatures(), featureSteps)
}

// maxParts bounds what one step is made of. A larger one is sent without marks, a chunk of each type at a time.
const maxParts = 64

// pushStep sends what changed, marked, for clients that want it so.
func (st *stream) pushStep() error {
	type part struct {
		w *watch
		b *batch
	}
	var parts []part
	more := false
	err := st.srv.cfg.Step.look(func() error {
		for _, w := range st.watches {
			for w.pending() && len(parts) < maxParts {
				b, err := w.changes()
				if err != nil {
					return err
				}
				if !b.empty() {
					parts = append(parts, part{w, b})
				}
			}
			more = more || w.pending()
		}
		return nil
	})
	if err != nil {
		return err
	}
	last := -1 // of those that are this stream's own: others are shared with streams that know no marks
	for i, p := range parts {
		if p.b.push == nil && !more {
			p.b.mark, last = markMore, i
		}
	}
	if last >= 0 {
		parts[last].b.mark = markLast
	}
	for _, p := range parts {
		if err := st.send(p.w, p.b); err != nil {
			return err
		}
	}
	if more {
		st.poke()
	}
	return nil
}

// appendMark writes control_plane {identifier}.
func appendMark(head []byte, mark string) []byte {
	if mark == "" {
		return head
	}
	head = protowire.AppendTag(head, fieldResponseControlPlane, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(protowire.SizeTag(fieldIdentifier)+protowire.SizeBytes(len(mark))))
	return appendString(head, fieldIdentifier, mark)
}
