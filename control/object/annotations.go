package object

import "strings"

// annotation suffixes and prefixes of the mesh; anything else an object carries is of no use to the model, and a
// deployment tool's annotations can be as large as the object itself.
var meshDomains = [...]string{"istio.io", "ambit.io"}

// KeepAnnotation reports whether the model may read the annotation: its domain is istio.io, ambit.io or one below them.
// The lab's own are left out: each pod has a different one, and only the node agents read them.
func KeepAnnotation(key string) bool {
	domain, _, ok := strings.Cut(key, "/")
	if !ok || domain == "lab.ambit.io" {
		return false
	}
	for _, d := range meshDomains {
		if domain == d || strings.HasSuffix(domain, "."+d) {
			return true
		}
	}
	return false
}
