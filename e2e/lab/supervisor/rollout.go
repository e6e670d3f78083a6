package supervisor

import (
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/e2e/lab/resource"
	"github.com/ambit-mesh/ambit/e2e/lab/wire"
	"github.com/ambit-mesh/ambit/e2e/lab/workloads"
)

// getRollout says whether what a kind and name stand for has settled; without a name, whether everything has.
func (s *Supervisor) getRollout(r *http.Request) (any, error) {
	q := r.URL.Query()
	out := wire.Rollout{Done: true}
	found := false
	ok := s.do(func() {
		for _, k := range slices.SortedFunc(maps.Keys(s.objects), compareKeys) {
			if !workloads.Runs(k.Kind) || q.Get("name") != "" && (k.Name != q.Get("name") || k.Namespace != namespace(r) || !resource.IsKind(q.Get("kind"), k.Kind)) {
				continue
			}
			found = true
			o := s.objects[k].object
			pods := s.podsOf(k)
			if !workloads.Settled(o, pods, workloads.Fitting(o, s.candidates())) {
				out = wire.Rollout{Waiting: fmt.Sprintf("%s: %s", k, s.waiting(k, len(pods)))}
				return
			}
		}
		for _, k := range slices.SortedFunc(maps.Keys(s.pods), compareKeys) {
			p := s.pods[k]
			if q.Get("name") == "" && p.owner.Kind == "" && !p.serving() && p.status.phase != "Succeeded" {
				out = wire.Rollout{Waiting: fmt.Sprintf("%s is %s %s", k, p.status.phase, p.status.message)}
			}
		}
	})
	if !ok {
		return nil, errEnding
	}
	if q.Get("name") != "" && !found {
		return nil, fmt.Errorf("%s %s/%s: not found", q.Get("kind"), namespace(r), q.Get("name"))
	}
	return out, nil
}

// getEnrolled says whether every pod that the mesh wants is captured, and no other. What counts is the CNI agent's mark.
func (s *Supervisor) getEnrolled(*http.Request) (any, error) {
	out := wire.Rollout{Done: true}
	if !s.do(func() {
		for _, k := range slices.SortedFunc(maps.Keys(s.pods), compareKeys) {
			p := s.pods[k]
			if p.ending || p.kubelet == nil || p.status.phase != "Running" {
				continue
			}
			mark := s.view(k).Annotations()[mesh.AnnotationRedirection]
			switch want := s.ambient(p); {
			case want && mark != mesh.RedirectionEnabled:
				out = wire.Rollout{Waiting: fmt.Sprintf("%s is not in the mesh yet", k)}
			case !want && mark != "" && s.hasDaemon("cni", p.node.host.Name):
				out = wire.Rollout{Waiting: fmt.Sprintf("%s is still in the mesh", k)}
			}
		}
	}) {
		return nil, errEnding
	}
	return out, nil
}

func (s *Supervisor) waiting(k resource.Key, n int) string {
	ready := 0
	why := s.problems[k.String()]
	for _, p := range s.pods {
		if p.owner != k {
			continue
		}
		if p.serving() {
			ready++
		}
		if p.status.message != "" {
			why = p.status.message
		}
		for _, c := range p.status.containers {
			if c.message != "" {
				why = c.message
			}
		}
	}
	text := fmt.Sprintf("%d of %d pods are ready", ready, n)
	if why != "" {
		text += " (" + why + ")"
	}
	return text
}
