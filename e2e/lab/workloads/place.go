package workloads

import (
	"maps"
	"slices"

	"github.com/ambit-mesh/ambit/e2e/lab/resource"
)

// Place chooses a node for a pod: the one with the fewest pods of the same owner, then with the fewest pods at all,
// then the first. An empty result means that no node fits.
func Place(spec *resource.PodSpec, owner string, nodes []Node) string {
	best := -1
	for i, n := range nodes {
		if !n.Ready || spec.NodeName != "" && spec.NodeName != n.Name {
			continue
		}
		if len(spec.NodeSelector) > 0 && !resource.Matches(spec.NodeSelector, n.Labels) {
			continue
		}
		if best < 0 || n.Owned[owner] < nodes[best].Owned[owner] ||
			n.Owned[owner] == nodes[best].Owned[owner] && n.Pods < nodes[best].Pods {
			best = i
		}
	}
	if best < 0 {
		return ""
	}
	return nodes[best].Name
}

// Node is a node as the scheduler sees it.
type Node struct {
	Name   string
	Labels map[string]string
	Ready  bool
	Pods   int
	// Owned counts the node's pods by owner.
	Owned map[string]int
}

// Fitting returns the names of the nodes that an object's template may run on.
func Fitting(o resource.Object, nodes []Node) []string {
	selector := o.Strings("spec", "template", "spec", "nodeSelector")
	var names []string
	for _, n := range nodes {
		if len(selector) == 0 || resource.Matches(selector, n.Labels) {
			names = append(names, n.Name)
		}
	}
	return names
}

// Status is what the object's status says about its pods.
func Status(o resource.Object, pods []Pod) map[string]any {
	hash := Hash(o)
	n := map[string]float64{}
	for _, p := range pods {
		if p.Ending {
			continue
		}
		n["replicas"]++
		if p.Hash == hash {
			n["updatedReplicas"]++
		}
		if p.Ready {
			n["readyReplicas"]++
			n["availableReplicas"]++
		}
		if p.Succeeded {
			n["succeeded"]++
		}
		if p.Failed {
			n["failed"]++
		}
	}
	status := map[string]any{}
	for _, k := range slices.Sorted(maps.Keys(n)) {
		status[k] = n[k]
	}
	return status
}

// Settled says whether the object's pods are all of the current template, ready, and as many as wanted.
func Settled(o resource.Object, pods []Pod, nodes []string) bool {
	want := o.Number(1, "spec", "replicas")
	switch o.Kind() {
	case "DaemonSet":
		want = len(nodes)
	case "Job":
		return int(numberOf(Status(o, pods)["succeeded"])) >= o.Number(1, "spec", "completions")
	}
	hash := Hash(o)
	for _, p := range pods {
		if p.Ending || !p.Ready || p.Hash != hash && o.Kind() != "ReplicaSet" {
			return false
		}
	}
	return len(pods) == want
}

func numberOf(v any) float64 {
	f, _ := v.(float64)
	return f
}
