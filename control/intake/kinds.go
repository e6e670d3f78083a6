package intake

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/control/object"
)

// known is a kind the mesh reads.
type known struct {
	kind       object.Kind
	versions   []string // the preferred one first
	namespaced bool
	// read decodes, checks and converts. It returns nil when something was refused.
	read func(*reader) object.Object
}

// group is an API group the mesh has part in. Kinds in read are read; the others are known to exist and left alone.
type group struct {
	read    map[string]known
	ignored []string
}

const (
	groupCore       = ""
	groupDiscovery  = "discovery.k8s.io"
	groupNetworking = "networking.istio.io"
	groupSecurity   = "security.istio.io"
	groupGateway    = "gateway.networking.k8s.io"
	groupTelemetry  = "telemetry.istio.io"
	groupExtensions = "extensions.istio.io"
)

// verdict is what becomes of an apiVersion and kind.
type verdict struct {
	known   known
	read    bool   // known is set
	ignored string // "apps/Deployment": left alone
	// field, problem and fix are set when the pair is refused.
	field, problem, fix string
}

// classify looks a kind up and explains what is wrong with one that is nearly right.
func (d *Decoder) classify(apiVersion, kindName string) verdict {
	g, version, hasGroup := strings.Cut(apiVersion, "/")
	if !hasGroup {
		g, version = groupCore, apiVersion
	}
	all := d.groups
	grp, ours := all[g]
	if !ours {
		names := make([]string, 0, len(all))
		for n := range all {
			names = append(names, n)
		}
		slices.Sort(names)
		if best := closeGroup(g, names); best != "" {
			return verdict{field: "apiVersion", problem: fmt.Sprintf("there is no API group %q", clip(g)), fix: fmt.Sprintf("did you mean %s/v1?", best)}
		}
		return verdict{ignored: g + "/" + kindName}
	}
	if k, ok := grp.read[kindName]; ok {
		if slices.Contains(k.versions, version) {
			return verdict{known: k, read: true}
		}
		return verdict{field: "apiVersion", problem: fmt.Sprintf("%s has no version %q", kindName, clip(version)), fix: "write apiVersion: " + join(g, k.versions[0])}
	}
	if slices.Contains(grp.ignored, kindName) {
		return verdict{ignored: join(g, kindName)}
	}
	return unknownKind(all, g, grp, kindName)
}

func unknownKind(all map[string]group, g string, grp group, kindName string) verdict {
	v := verdict{field: "kind", problem: fmt.Sprintf("there is no kind %q in %s", clip(kindName), groupName(g))}
	for other, og := range all {
		if k, ok := og.read[kindName]; ok {
			v.field, v.fix = "apiVersion", fmt.Sprintf("%s is written with apiVersion: %s", kindName, join(other, k.versions[0]))
			return v
		}
		if slices.Contains(og.ignored, kindName) {
			v.field, v.fix = "apiVersion", fmt.Sprintf("%s is a kind of %s", kindName, groupName(other))
			return v
		}
	}
	names := slices.Clone(grp.ignored)
	for n := range grp.read {
		names = append(names, n)
	}
	slices.Sort(names)
	v.fix = "known kinds are " + strings.Join(names, ", ")
	if best := nearest(kindName, names); best != "" {
		v.fix = fmt.Sprintf("did you mean %s?", best)
	} else {
		for other, og := range all {
			for n := range og.read {
				if nearest(kindName, []string{n}) != "" {
					v.fix = fmt.Sprintf("did you mean %s of %s?", n, groupName(other))
				}
			}
		}
	}
	return v
}

func join(g, v string) string {
	if g == groupCore {
		return v
	}
	return g + "/" + v
}

func groupName(g string) string {
	if g == groupCore {
		return "the core group (apiVersion: v1)"
	}
	return g
}

// closeGroup is nearest for group names, but never takes a name for a slip that is two letters or more away or that is as
// short as "apps": other people's groups must pass.
func closeGroup(g string, names []string) string {
	for _, n := range names {
		if len(n) > 6 && g != n && distance(g, n) <= 2 {
			return n
		}
	}
	if g == "istio.io" {
		return groupSecurity
	}
	return ""
}
