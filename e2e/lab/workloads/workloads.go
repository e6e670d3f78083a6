// Package workloads decides which pods should exist: it turns Deployments, ReplicaSets, StatefulSets, DaemonSets and Jobs
// and the pods there are into pods to create and pods to delete.
//
// It is pure: no clock, no files, no processes. Called again after each change it converges, one safe step at a time; it
// does not know how pods are made or ended. Start reading at Decide.
package workloads

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/ambit-mesh/ambit/e2e/lab/resource"
)

// LabelHash tells the pods of one version of a template from those of another.
const LabelHash = "pod-template-hash"

// AnnotationRestarted is how a rollout restart changes a template.
const AnnotationRestarted = "kubectl.kubernetes.io/restartedAt"

// Pod is a pod as controllers see it.
type Pod struct {
	Namespace, Name, Node string
	// Hash is the template version it was made from.
	Hash                             string
	Ready, Ending, Succeeded, Failed bool
	// Order is the pod's place among those made; later ones are greater.
	Order int
}

// Steps is what to do now.
type Steps struct {
	// Create holds complete pods but for identity and placement. A DaemonSet's name their node.
	Create []resource.Object
	// Delete names pods to end.
	Delete []string
}

// Runs says whether objects of the kind have pods.
func Runs(kind string) bool {
	return slices.Contains([]string{"Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job"}, kind)
}

// Check says what is wrong with an object that Runs, as far as its pods go.
func Check(o resource.Object) error {
	if _, err := resource.ParsePodSpec(o, "spec", "template", "spec"); err != nil {
		return err
	}
	if o.Kind() == "Job" {
		return nil
	}
	selector := o.Strings("spec", "selector", "matchLabels")
	if !resource.Matches(selector, o.Strings("spec", "template", "metadata", "labels")) {
		return fmt.Errorf("spec.selector.matchLabels %v does not match spec.template.metadata.labels", selector)
	}
	return nil
}

// Hash names the version of the object's pod template.
func Hash(o resource.Object) string {
	// Maps marshal in the order of their keys, so equal templates have equal bytes.
	data, err := json.Marshal(o.At("spec", "template"))
	if err != nil {
		return "invalid"
	}
	h := fnv.New64a()
	_, _ = h.Write(data)
	return letters(h.Sum64(), 9)
}

// letters spells a number without vowels and look-alikes, as Kubernetes does for generated names.
func letters(n uint64, length int) string {
	const alphabet = "bcdfghjklmnpqrstvwxz2456789"
	var b strings.Builder
	for range length {
		b.WriteByte(alphabet[n%uint64(len(alphabet))])
		n /= uint64(len(alphabet))
	}
	return b.String()
}

// Decide returns the next steps for one object. pods are all of its pods, nodes the names of the nodes its template
// may run on, made is how many pods it has ever had, which makes names unique without chance.
func Decide(o resource.Object, pods []Pod, nodes []string, made int) Steps {
	d := decision{o: o, hash: Hash(o), made: made}
	slices.SortFunc(pods, func(a, b Pod) int { return a.Order - b.Order })
	switch o.Kind() {
	case "Deployment", "ReplicaSet":
		d.deployment(pods)
	case "StatefulSet":
		d.statefulSet(pods)
	case "DaemonSet":
		d.daemonSet(pods, nodes)
	case "Job":
		d.job(pods)
	}
	return d.steps
}

type decision struct {
	o     resource.Object
	hash  string
	made  int
	steps Steps
}

func (d *decision) delete(p Pod) { d.steps.Delete = append(d.steps.Delete, p.Name) }

// deployment replaces pods of old templates: new ones come first, and an old one goes only when enough others are ready.
func (d *decision) deployment(pods []Pod) {
	want := d.o.Number(1, "spec", "replicas")
	surge, slack := d.strategy(want)
	var current, old []Pod
	total, ready := 0, 0
	for _, p := range pods {
		if p.Ending {
			continue
		}
		if p.Succeeded || p.Failed {
			// Evicted or ended for good; a Deployment's pods are meant to run.
			d.delete(p)
			continue
		}
		total++
		if p.Ready {
			ready++
		}
		// A ReplicaSet does not replace pods of an older template.
		if p.Hash == d.hash || d.o.Kind() == "ReplicaSet" {
			current = append(current, p)
		} else {
			old = append(old, p)
		}
	}
	if d.recreate() && len(old) > 0 {
		for _, p := range old {
			d.delete(p)
		}
		return
	}
	for n := len(current); n < want && total < want+surge; n++ {
		d.create(d.generated(), "")
		total++
	}
	// Surplus of the current template goes newest first, unready before ready.
	for _, p := range unreadyFirst(current) {
		if len(current) <= want {
			break
		}
		d.delete(p)
		current = current[:len(current)-1]
		if p.Ready {
			ready--
		}
	}
	for _, p := range unreadyFirst(old) {
		switch {
		case !p.Ready:
			d.delete(p)
		case ready > want-slack:
			d.delete(p)
			ready--
		}
	}
}

func unreadyFirst(pods []Pod) []Pod {
	sorted := slices.Clone(pods)
	slices.SortStableFunc(sorted, func(a, b Pod) int {
		if a.Ready != b.Ready {
			if b.Ready {
				return -1
			}
			return 1
		}
		return b.Order - a.Order
	})
	return sorted
}

func (d *decision) recreate() bool { return d.o.Text("spec", "strategy", "type") == "Recreate" }

func (d *decision) strategy(want int) (surge, slack int) {
	surge = share(d.o.At("spec", "strategy", "rollingUpdate", "maxSurge"), want, true)
	slack = share(d.o.At("spec", "strategy", "rollingUpdate", "maxUnavailable"), want, false)
	if surge == 0 && slack == 0 {
		surge = 1
	}
	if d.recreate() {
		surge = 0
	}
	return surge, slack
}

// share reads a number or a percentage, 25 % if there is none.
func share(v any, of int, up bool) int {
	percent := 25.0
	switch v := v.(type) {
	case float64:
		return int(v)
	case string:
		if f, err := strconv.ParseFloat(strings.TrimSuffix(v, "%"), 64); err == nil {
			percent = f
		}
	}
	n := float64(of) * percent / 100
	if up {
		return int(math.Ceil(n))
	}
	return int(n)
}

// statefulSet keeps name-0 … name-<n-1>, one step at a time: each waits for those before it to be ready.
func (d *decision) statefulSet(pods []Pod) {
	want := d.o.Number(1, "spec", "replicas")
	byName := map[string]Pod{}
	for _, p := range pods {
		byName[p.Name] = p
	}
	parallel := d.o.Text("spec", "podManagementPolicy") == "Parallel"
	names := make([]string, want)
	allReady := true
	for i := range names {
		names[i] = fmt.Sprintf("%s-%d", d.o.Name(), i)
		p, ok := byName[names[i]]
		if !ok && (allReady || parallel) {
			d.create(names[i], "")
		}
		allReady = allReady && ok && p.Ready && !p.Ending
	}
	for _, p := range pods {
		if !p.Ending && !slices.Contains(names, p.Name) {
			d.delete(p)
		}
	}
	if !allReady {
		// A pod that never gets ready must not keep its own fix from being rolled out.
		for _, p := range pods {
			if !p.Ending && !p.Ready && p.Hash != d.hash {
				d.delete(p)
			}
		}
		return
	}
	for i := len(names) - 1; i >= 0; i-- {
		if p := byName[names[i]]; p.Hash != d.hash {
			d.delete(p)
			return
		}
	}
}

// daemonSet keeps one pod per node, replacing old ones one node at a time.
func (d *decision) daemonSet(pods []Pod, nodes []string) {
	have := map[string]bool{}
	allReady := true
	var old []Pod
	for _, p := range pods {
		if p.Ending {
			have[p.Node], allReady = true, false
			continue
		}
		if !slices.Contains(nodes, p.Node) || have[p.Node] || p.Succeeded || p.Failed {
			d.delete(p)
			continue
		}
		have[p.Node] = true
		allReady = allReady && p.Ready
		if p.Hash != d.hash {
			old = append(old, p)
		}
	}
	for _, n := range nodes {
		if !have[n] {
			d.create(d.generated(), n)
			allReady = false
		}
	}
	for _, p := range old {
		if allReady || !p.Ready {
			d.delete(p)
			return
		}
	}
}

// job runs pods until enough have succeeded.
func (d *decision) job(pods []Pod) {
	want := d.o.Number(1, "spec", "completions")
	parallel := d.o.Number(1, "spec", "parallelism")
	succeeded, failed, active := 0, 0, 0
	for _, p := range pods {
		switch {
		case p.Succeeded:
			succeeded++
		case p.Failed:
			failed++
		case !p.Ending:
			active++
		}
	}
	if failed > d.o.Number(6, "spec", "backoffLimit") {
		return
	}
	for ; active < min(parallel, want-succeeded); active++ {
		d.create(d.generated(), "")
	}
}

// generated is the name of the next pod of an object whose pods have no names of their own.
func (d *decision) generated() string {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s/%s/%s/%d", d.o.Namespace(), d.o.Name(), d.hash, d.made)
	d.made++
	suffix := letters(h.Sum64(), 5)
	if d.o.Kind() == "Deployment" {
		return d.o.Name() + "-" + d.hash + "-" + suffix
	}
	return d.o.Name() + "-" + suffix
}

// create adds a pod made from the template. Its owner is spelled as a cluster would: what a Deployment owns are
// ReplicaSets, and readers of pods find the Deployment by that name.
func (d *decision) create(name, node string) {
	pod := resource.Object{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{}, "spec": map[string]any{}}
	template := resource.Object{"t": d.o.At("spec", "template")}.Clone()
	labels := template.Strings("t", "metadata", "labels")
	ownerKind, ownerName, ownerAPI := d.o.Kind(), d.o.Name(), d.o.Text("apiVersion")
	switch d.o.Kind() {
	case "Deployment":
		ownerKind, ownerName = "ReplicaSet", d.o.Name()+"-"+d.hash
	case "StatefulSet":
		labels["statefulset.kubernetes.io/pod-name"] = name
	case "Job":
		labels["batch.kubernetes.io/job-name"], labels["job-name"] = d.o.Name(), d.o.Name()
	}
	labels[LabelHash] = d.hash
	pod.SetLabels(labels, nil)
	if a := template.At("t", "metadata", "annotations"); a != nil {
		pod.Set(a, "metadata", "annotations")
	}
	if spec, ok := template.At("t", "spec").(map[string]any); ok {
		pod["spec"] = spec
	}
	pod.Set(name, "metadata", "name")
	pod.Set(d.o.Namespace(), "metadata", "namespace")
	pod.Set([]any{map[string]any{
		"apiVersion": ownerAPI, "kind": ownerKind, "name": ownerName, "uid": d.o.UID(), "controller": true,
	}}, "metadata", "ownerReferences")
	if node != "" {
		pod.Set(node, "spec", "nodeName")
	}
	if d.o.Kind() == "StatefulSet" {
		pod.Set(name, "spec", "hostname")
		if s := d.o.Text("spec", "serviceName"); s != "" {
			pod.Set(s, "spec", "subdomain")
		}
	}
	if d.o.Kind() == "Job" && pod.Text("spec", "restartPolicy") == "" {
		pod.Set("Never", "spec", "restartPolicy")
	}
	d.steps.Create = append(d.steps.Create, pod)
}
