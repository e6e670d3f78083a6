package ctl

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/install/cluster"
)

// workloadKinds are those a pod may be named by, with the short names kubectl has for them.
var workloadKinds = map[string]string{
	"deployment": "Deployment", "deployments": "Deployment", "deploy": "Deployment",
	"replicaset": "ReplicaSet", "replicasets": "ReplicaSet", "rs": "ReplicaSet",
	"statefulset": "StatefulSet", "statefulsets": "StatefulSet", "sts": "StatefulSet",
	"daemonset": "DaemonSet", "daemonsets": "DaemonSet", "ds": "DaemonSet",
	"job": "Job", "jobs": "Job",
	"cronjob": "CronJob", "cronjobs": "CronJob", "cj": "CronJob",
}

// isPod says whether a kind is written that means the pod itself.
func isPod(kind string) bool { return slices.Contains([]string{"pod", "pods", "po"}, kind) }

// locatePod finds a pod: NAME, NAME.NAMESPACE, NAMESPACE/NAME, pod/NAME, or one of a workload, KIND/NAME; and the nodes of all.
func (a *app) locatePod(ctx context.Context, what, namespace string) (found cluster.Object, nodes map[string]string, err error) {
	c, err := a.cluster()
	if err != nil {
		return nil, nil, err
	}
	pods, err := c.List(ctx, "Pod", "")
	if err != nil {
		return nil, nil, err
	}
	nodes = map[string]string{}
	for _, p := range pods {
		nodes[p.Namespace()+"/"+p.Name()] = p.Text("spec", "nodeName")
	}
	if found = findPod(pods, what, namespace); found != nil {
		return found, nodes, nil
	}
	return nil, nil, a.noPod(pods, what, namespace)
}

// findPod chooses the pod that is meant, nil without one. Of a workload's one that runs is preferred.
func findPod(pods []cluster.Object, what, namespace string) (found cluster.Object) {
	first, name, slash := strings.Cut(what, "/")
	kind := workloadKinds[strings.ToLower(first)]
	for _, p := range pods {
		full := p.Namespace() + "/" + p.Name()
		switch {
		case kind != "" && what == full: // in a namespace that is called like a kind
			return p
		case kind != "":
			if p.Namespace() != namespace || !owned(p, kind, name) {
				continue
			}
			if p.Text("status", "phase") == "Running" {
				return p
			}
			if found == nil {
				found = p
			}
		case slash && isPod(first) && namespace+"/"+name == full,
			slash && what == full,
			!slash && (namespace+"/"+what == full || what == p.Name()+"."+p.Namespace()):
			return p
		}
	}
	return found
}

// owned reports whether a workload made a pod: it is the pod's controller, or that of its controller.
func owned(p cluster.Object, kind, name string) bool {
	for _, ref := range p.Items("metadata", "ownerReferences") {
		if controls, _ := ref.At("controller").(bool); !controls {
			continue
		}
		owner := ref.Text("name")
		if ref.Text("kind") == kind {
			return owner == name
		}
		made, ok := strings.CutPrefix(owner, name+"-")
		switch {
		case !ok || made == "" || strings.Contains(made, "-"):
			return false
		case kind == "Deployment" && ref.Text("kind") == "ReplicaSet":
			// Kubernetes pkg/controller/deployment: a ReplicaSet is called after its Deployment and the hash of its pods.
			hash, labelled := p.Label("pod-template-hash")
			return !labelled || hash == made
		case kind == "CronJob" && ref.Text("kind") == "Job":
			// Kubernetes pkg/controller/cronjob getJobName: minutes since 1970.
			return strings.Trim(made, "0123456789") == ""
		}
	}
	return false
}

// noPod says why there is no such pod.
func (a *app) noPod(pods []cluster.Object, what, namespace string) error {
	namespaces := map[string]bool{}
	for _, p := range pods {
		namespaces[p.Namespace()] = true
	}
	first, name, slash := strings.Cut(what, "/")
	kind := workloadKinds[strings.ToLower(first)]
	if slash && kind == "" && !isPod(first) {
		if !namespaces[first] {
			return fmt.Errorf("%q is neither a namespace with pods nor a kind that has some; namespaces with pods are %s, kinds are %s",
				first, someOf(slices.Sorted(maps.Keys(namespaces))), strings.Join([]string{"deployment", "replicaset", "statefulset", "daemonset", "job", "cronjob"}, ", "))
		}
		namespace = first
	}
	if !slash {
		name, _, _ = strings.Cut(what, ".")
	}
	var similar []string
	for _, p := range pods {
		if strings.HasPrefix(p.Name(), name) {
			similar = append(similar, p.Namespace()+"/"+p.Name())
		}
	}
	hint := fmt.Sprintf("%q lists them", a.words().Pods)
	if len(similar) > 0 {
		hint = "did you mean " + strings.Join(similar[:min(3, len(similar))], " or ") + "?"
	}
	if kind != "" {
		return fmt.Errorf("no pod of namespace %s is of %s %s; %s", namespace, strings.ToLower(kind), name, hint)
	}
	return fmt.Errorf("there is no pod %q in namespace %s; %s", what, namespace, hint)
}
