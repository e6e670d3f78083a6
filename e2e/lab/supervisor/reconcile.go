package supervisor

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"reflect"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/api/folder"
	"github.com/ambit-mesh/ambit/e2e/lab/fabric"
	"github.com/ambit-mesh/ambit/e2e/lab/names"
	"github.com/ambit-mesh/ambit/e2e/lab/netspace"
	"github.com/ambit-mesh/ambit/e2e/lab/resource"
	"github.com/ambit-mesh/ambit/e2e/lab/services"
	"github.com/ambit-mesh/ambit/e2e/lab/vip"
	"github.com/ambit-mesh/ambit/e2e/lab/workloads"
)

// AnnotationNetns tells the CNI agent where a pod's network namespace is.
const AnnotationNetns = "lab.ambit.io/netns"

// AnnotationExternal marks a pod that stands for a process the lab runs as a daemon: it has a place and an address, and
// nothing is started for it.
const AnnotationExternal = "lab.ambit.io/external"

// AnnotationPlace asks for a place in the node's pod range, like "7" for 10.244.1.7: stories about addresses that change
// hands need not wait until the range comes round. A place that is taken, or is none, is not given.
const AnnotationPlace = "lab.ambit.io/place"

// pod is a pod as its API server sees it. Owned by Run's goroutine; spec, addrs and place are immutable.
type pod struct {
	key   resource.Key
	doc   resource.Object
	spec  *resource.PodSpec
	owner resource.Key
	hash  string
	order int

	node    *node // nil until placed
	place   int   // of its addresses in the node's range
	addrs   []netip.Addr
	ending  bool
	status  podStatus
	kubelet *kubelet // nil until placed, and for external pods
}

// reconcile takes the next step towards what the objects ask for. New pods first, then routing, then endings: a pod that
// is told to end gets no new connections by then.
func (s *Supervisor) reconcile() {
	s.bury()
	var ending []*pod
	for _, k := range slices.SortedFunc(maps.Keys(s.objects), compareKeys) {
		st := s.objects[k]
		switch {
		case s.terminating(k.Namespace):
		case workloads.Runs(k.Kind):
			ending = append(ending, s.control(k, st.object)...)
		case k.Kind == "Service":
			s.allocate(k, st)
		}
	}
	for _, p := range s.pods {
		if p.owner.Kind != "" && s.objects[p.owner] == nil && !p.ending {
			ending = append(ending, p)
		}
	}
	for _, p := range s.pods {
		if p.node == nil && !p.ending {
			s.schedule(p)
		}
	}
	for _, p := range ending {
		s.markEnding(p)
	}
	s.publish()
	for _, p := range ending {
		s.endPod(p, nil)
	}
}

func compareKeys(a, b resource.Key) int {
	return strings.Compare(a.Kind+"\x00"+a.Namespace+"\x00"+a.Name, b.Kind+"\x00"+b.Namespace+"\x00"+b.Name)
}

// control runs the controller of one object and returns the pods it wants to end.
func (s *Supervisor) control(k resource.Key, o resource.Object) []*pod {
	if err := workloads.Check(o); err != nil {
		s.problem(k, err)
		return nil
	}
	steps := workloads.Decide(o, s.podsOf(k), workloads.Fitting(o, s.candidates()), s.made[k])
	for _, doc := range steps.Create {
		s.made[k]++
		if err := s.addPod(doc, k); err != nil {
			s.problem(k, err)
			return nil
		}
	}
	var ending []*pod
	for _, name := range steps.Delete {
		if p, ok := s.pods[resource.Key{Kind: "Pod", Namespace: k.Namespace, Name: name}]; ok {
			ending = append(ending, p)
		}
	}
	return ending
}

func (s *Supervisor) podsOf(owner resource.Key) []workloads.Pod {
	var list []workloads.Pod
	for _, p := range s.pods {
		if p.owner != owner {
			continue
		}
		w := workloads.Pod{
			Namespace: p.key.Namespace, Name: p.key.Name, Hash: p.hash, Order: p.order,
			Ready: p.serving(), Ending: p.ending, Succeeded: p.status.phase == "Succeeded", Failed: p.status.phase == "Failed",
		}
		if p.node != nil {
			w.Node = p.node.host.Name
		} else {
			w.Node = p.spec.NodeName
		}
		list = append(list, w)
	}
	return list
}

func (p *pod) serving() bool { return p.status.ready && !p.ending && (p.node == nil || !p.node.failed) }

func (s *Supervisor) candidates() []workloads.Node {
	list := make([]workloads.Node, len(s.nodes))
	for i, n := range s.nodes {
		list[i] = workloads.Node{Name: n.host.Name, Labels: n.labels, Ready: !n.failed, Owned: map[string]int{}}
		for _, p := range s.pods {
			if p.node == n {
				list[i].Pods++
				list[i].Owned[p.owner.String()]++
			}
		}
	}
	return list
}

// applyPod creates a pod of its own, or changes the labels and annotations of one, which is all that may change.
func (s *Supervisor) applyPod(o resource.Object) (string, error) {
	if _, err := resource.ParsePodSpec(o, "spec"); err != nil {
		return "", err
	}
	p, ok := s.pods[o.Key()]
	if !ok {
		return "created", s.addPod(o, resource.Key{})
	}
	if p.ending {
		return "", errors.New("a pod of that name is still ending: apply it again when it is gone")
	}
	before := p.doc.Clone()
	p.doc.SetLabels(o.Labels(), nil)
	for k, v := range o.Annotations() {
		p.doc.Set(v, "metadata", "annotations", k)
	}
	if same(before, p.doc) {
		return "unchanged", nil
	}
	return "configured", s.writePod(p)
}

func (s *Supervisor) addPod(doc resource.Object, owner resource.Key) error {
	spec, err := resource.ParsePodSpec(doc, "spec")
	if err != nil {
		return err
	}
	if spec.ServiceAccountName == "" {
		spec.ServiceAccountName = "default"
		doc.Set("default", "spec", "serviceAccountName")
	}
	s.order++
	doc.Set(newUID(), "metadata", "uid")
	doc.Set(now(), "metadata", "creationTimestamp")
	p := &pod{key: doc.Key(), doc: doc, spec: spec, owner: owner, hash: doc.Labels()[workloads.LabelHash], order: s.order}
	p.status.phase = "Pending"
	s.pods[p.key] = p
	s.dirty = true
	return s.writePod(p)
}

// schedule gives the pod a node and addresses and starts its kubelet.
func (s *Supervisor) schedule(p *pod) {
	name := workloads.Place(p.spec, p.owner.String(), s.candidates())
	if name == "" {
		if p.status.reason != "Unschedulable" {
			p.status.reason, p.status.message = "Unschedulable", s.whyUnschedulable(p)
			s.problem(p.key, errors.New(p.status.message))
			_ = s.writePod(p)
		}
		return
	}
	n := s.node(name)
	if p.spec.HostNetwork {
		p.addrs = n.host.Addrs
	} else {
		if p.place = n.address(p.doc.Annotations()[AnnotationPlace]); p.place == 0 {
			s.problem(p.key, fmt.Errorf("node %s has no free pod address in %v", name, n.host.PodCIDRs))
			return
		}
		p.addrs = n.host.PodAddrs(p.place)
	}
	s.problem(p.key, nil)
	p.node = n
	p.status.reason, p.status.message = "", ""
	p.doc.Set(name, "spec", "nodeName")
	if p.doc.Annotations()[AnnotationExternal] == "true" {
		p.status.phase, p.status.ready, p.status.hasAddress = "Running", true, true
	} else {
		if !p.spec.HostNetwork {
			p.doc.Set(netspace.Path(fabric.PodNetns(s.start.ID, p.key.Namespace, p.key.Name)), "metadata", "annotations", AnnotationNetns)
		}
		p.kubelet = s.newKubelet(p)
		k := p.kubelet
		s.wg.Go(k.run)
	}
	if err := s.writePod(p); err != nil {
		s.problem(p.key, err)
	}
}

func (s *Supervisor) whyUnschedulable(p *pod) string {
	if p.spec.NodeName != "" && s.node(p.spec.NodeName) == nil {
		return fmt.Sprintf("there is no node %q: nodes are node1 to node%d", p.spec.NodeName, len(s.nodes))
	}
	return fmt.Sprintf("no ready node fits nodeName %q and nodeSelector %v", p.spec.NodeName, p.spec.NodeSelector)
}

// markEnding takes the pod out of routing.
func (s *Supervisor) markEnding(p *pod) {
	if !p.ending {
		p.ending = true
		s.dirty = true
	}
}

// endPod asks a pod to end, giving it grace seconds, or its own number if nil.
func (s *Supervisor) endPod(p *pod, grace *int) {
	s.markEnding(p)
	g := p.spec.Grace()
	if grace != nil {
		g = *grace
	}
	if p.doc.Text("metadata", "deletionTimestamp") == "" {
		p.doc.Set(now(), "metadata", "deletionTimestamp")
		p.doc.Set(float64(g), "metadata", "deletionGracePeriodSeconds")
		if err := s.writePod(p); err != nil {
			s.problem(p.key, err)
		}
		if p.kubelet == nil {
			s.forgetPod(p)
			return
		}
		p.kubelet.end(g)
		return
	}
	if p.kubelet != nil && grace != nil && *grace == 0 {
		p.kubelet.hurryUp()
	}
}

// forgetPod is the end of a pod whose processes and namespace are gone.
func (s *Supervisor) forgetPod(p *pod) {
	delete(s.pods, p.key)
	if p.node != nil && p.place != 0 {
		delete(p.node.used, p.place)
	}
	s.problem(p.key, nil)
	s.dirty = true
	if err := folder.Remove(s.lab.ConfigDir, podFile(p.key)); err != nil && !errors.Is(err, folder.ErrNotFound) {
		s.log.Warn("pod file stays", "pod", p.key.String(), "error", err)
	}
}

func podFile(k resource.Key) string {
	return path.Join(PodsDir, k.Namespace+"_"+k.Name+".yaml")
}

// publish makes names and virtual addresses follow the pods.
func (s *Supervisor) publish() {
	var svcs, eps []resource.Object
	for k, st := range s.objects {
		switch k.Kind {
		case "Service":
			svcs = append(svcs, st.object)
		case "EndpointSlice":
			eps = append(eps, st.object)
		}
	}
	var pods []services.Pod
	for _, p := range s.pods {
		if !p.status.hasAddress {
			continue
		}
		q := services.Pod{
			Namespace: p.key.Namespace, Name: p.key.Name, Labels: p.doc.Labels(), Addrs: p.addrs, Ready: p.serving(), Spec: p.spec,
			Hostname: p.spec.Hostname, Subdomain: p.spec.Subdomain,
		}
		if !p.ending {
			pods = append(pods, q)
		}
	}
	list := services.Resolve(svcs, eps, pods)
	if s.served != nil && reflect.DeepEqual(list, s.served) {
		return
	}
	s.served = list
	s.dns.Set(names.NewTable(list, s.extraNames()))
	for _, h := range s.plan.Hosts {
		if err := vip.Apply(netspace.Path(h.Netns), list); err != nil {
			s.problem(resource.Key{Kind: "Host", Name: h.Name}, err)
		}
	}
}
