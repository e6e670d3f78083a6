package supervisor

import (
	"cmp"
	"maps"
	"slices"

	"github.com/ambit-mesh/ambit/e2e/lab/resource"
)

// terminate begins the end of a namespace. Its pods go first, then what else is in it, and the Namespace last: as long as a
// pod serves its grace period, the policies that protect it are there.
func (s *Supervisor) terminate(k resource.Key, o resource.Object) error {
	if o.Text("metadata", "deletionTimestamp") == "" {
		o = o.Clone()
		o.Set(now(), "metadata", "deletionTimestamp")
		o.Set("Terminating", "status", "phase")
		if err := s.put(o); err != nil {
			return err
		}
	}
	for other, p := range s.pods {
		if other.Namespace == k.Name {
			s.endPod(p, nil)
		}
	}
	s.bury()
	s.dirty = true
	return nil
}

// terminating says whether a namespace is on its way out.
func (s *Supervisor) terminating(namespace string) bool {
	st, ok := s.objects[resource.Key{Kind: "Namespace", Name: namespace}]
	return ok && st.object.Text("metadata", "deletionTimestamp") != ""
}

// bury removes namespaces on their way out that have no pods any more, with everything in them.
func (s *Supervisor) bury() {
	for _, k := range slices.SortedFunc(maps.Keys(s.objects), compareKeys) {
		if k.Kind != "Namespace" || !s.terminating(k.Name) || s.hasPods(k.Name) {
			continue
		}
		var inside []resource.Key
		for other := range s.objects {
			if other.Namespace == k.Name {
				inside = append(inside, other)
			}
		}
		// What others are made for goes before them, or they would be made again.
		slices.SortFunc(inside, func(a, b resource.Key) int {
			return cmp.Or(cmp.Compare(makesOthers(b.Kind), makesOthers(a.Kind)), compareKeys(a, b))
		})
		for _, other := range append(inside, k) {
			if err := s.forget(other, s.objects[other]); err != nil {
				s.problem(k, err)
				break
			}
		}
	}
}

func makesOthers(kind string) int {
	if kind == "Gateway" {
		return 1
	}
	return 0
}

func (s *Supervisor) hasPods(namespace string) bool {
	for k := range s.pods {
		if k.Namespace == namespace {
			return true
		}
	}
	return false
}
