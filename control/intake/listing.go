package intake

import (
	"cmp"
	"slices"

	"github.com/ambit-mesh/ambit/control/object"
)

// Resource is a kind that is read, as an API server knows it.
type Resource struct {
	Kind object.Kind
	// Group is empty for Kubernetes' core.
	Group string
	// Versions are those that are understood, the preferred one first.
	Versions []string
}

// Resources lists the kinds that are read, in the order of object.Kind.
func Resources() []Resource {
	var out []Resource
	for name, g := range groups() {
		for _, k := range g.read {
			out = append(out, Resource{Kind: k.kind, Group: name, Versions: slices.Clone(k.versions)})
		}
	}
	slices.SortFunc(out, func(a, b Resource) int { return cmp.Compare(a.Kind, b.Kind) })
	return out
}
