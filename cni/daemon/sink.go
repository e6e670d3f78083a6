package daemon

import (
	"maps"
	"time"

	"github.com/ambit-mesh/ambit/cni/enroll"
)

// told notes that the source knows the pod with this UID, so that its silence means something. The caller holds mu.
func (a *Agent) told(k enroll.Key, uid string) {
	if rec := a.records[k]; rec != nil && !rec.untold.IsZero() && rec.pod.UID == uid {
		next := *rec
		next.untold = time.Time{}
		a.records[k] = &next
	}
}

// sink is the agent as its source sees it.
type sink struct{ a *Agent }

func (s sink) SetPod(p enroll.Pod) {
	s.a.mu.Lock()
	s.a.pods[p.Key()] = p
	s.a.told(p.Key(), p.UID)
	s.a.mu.Unlock()
	s.a.metrics.events.WithLabelValues("pod").Inc()
	s.a.queue.Add(p.Key())
}

func (s sink) DeletePod(k enroll.Key) {
	s.a.mu.Lock()
	s.a.told(k, s.a.pods[k].UID)
	delete(s.a.pods, k)
	s.a.mu.Unlock()
	s.a.metrics.events.WithLabelValues("delete").Inc()
	s.a.queue.Add(k)
}

func (s sink) SetNamespace(name string, labels map[string]string) {
	s.a.mu.Lock()
	old, known := s.a.namespaces[name]
	same := known && maps.Equal(old, labels)
	s.a.namespaces[name] = labels
	s.a.mu.Unlock()
	if !same {
		s.touch(name)
	}
}

func (s sink) DeleteNamespace(name string) {
	s.a.mu.Lock()
	delete(s.a.namespaces, name)
	s.a.mu.Unlock()
	s.touch(name)
}

// touch looks again at every pod of a namespace.
func (s sink) touch(name string) {
	s.a.metrics.events.WithLabelValues("namespace").Inc()
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	for k := range s.a.pods {
		if k.Namespace == name {
			s.a.queue.Add(k)
		}
	}
}

func (s sink) Synced() { close(s.a.synced) }
