// Package enroll decides which pods are in the mesh and how their traffic is to be redirected. It is pure: pods and
// namespaces in, decisions with a reason out.
//
// It does not know where pods come from, what a redirection rule is, or what has been done already; that is the daemon's
// business. It starts no goroutine. Start reading at Policy.Decide.
package enroll

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/api/mesh"
)

// Pod is what the agent needs to know of a pod.
type Pod struct {
	UID            string
	Namespace      string
	Name           string
	ServiceAccount string
	Node           string
	Labels         map[string]string
	Annotations    map[string]string
	HostNetwork    bool
	Phase          string
	IPs            []netip.Addr
	// Netns is the path of the pod's network namespace, if the pod's object tells it.
	Netns string
	// RuntimeUID is the UID the node runs the pod under, if that is another one; so it is with static pods.
	RuntimeUID string
}

// ErrNoPod is the answer of a source that knows for sure that the node has no such pod.
var ErrNoPod = errors.New("no such pod on this node")

// Key names a pod.
func (p Pod) Key() Key { return Key{p.Namespace, p.Name} }

// Terminal reports whether the pod has ended for good, so that its address may belong to another one by now.
func (p Pod) Terminal() bool { return p.Phase == "Succeeded" || p.Phase == "Failed" }

// Key names a pod within the cluster.
type Key struct{ Namespace, Name string }

func (k Key) String() string { return k.Namespace + "/" + k.Name }

// Policy says whose traffic is captured.
type Policy struct {
	// Selectors are alternatives; a pod enrols if any of them takes it. Nil means DefaultSelectors.
	Selectors []Selector
	// SystemNamespace is where the node proxies themselves run; empty means mesh.SystemNamespace.
	SystemNamespace string
	// ExcludeNamespaces are never enrolled.
	ExcludeNamespaces []string
}

// Decision is whether a pod belongs to the mesh, and why, in words for the operator.
type Decision struct {
	Enrolled bool
	Reason   string
}

// Decide applies the checks of Istio's agent in its order (istio/istio cni/pkg/util/podutil.go).
func (pol Policy) Decide(p Pod, namespaceLabels map[string]string) Decision {
	system := pol.SystemNamespace
	if system == "" {
		system = mesh.SystemNamespace
	}
	no := func(format string, args ...any) Decision { return Decision{Reason: fmt.Sprintf(format, args...)} }
	switch {
	case slices.Contains(pol.ExcludeNamespaces, p.Namespace):
		return no("namespace %s is excluded", p.Namespace)
	case p.HostNetwork:
		return no("pod uses the node's network")
	case p.Terminal():
		return no("pod has ended (%s)", p.Phase)
	case p.Namespace == system && p.Labels["app"] == "ztunnel":
		return no("pod is a node proxy")
	case p.Annotations[mesh.AnnotationSidecarStatus] != "":
		return no("pod has a sidecar (annotation %s)", mesh.AnnotationSidecarStatus)
	}
	selectors := pol.Selectors
	if selectors == nil {
		selectors = DefaultSelectors()
	}
	for i, s := range selectors {
		if s.Matches(p.Labels, namespaceLabels) {
			return Decision{Enrolled: true, Reason: taken(i+1, p, namespaceLabels)}
		}
	}
	if p.Labels[mesh.LabelDataplaneMode] == mesh.DataplaneModeNone {
		return no("the pod opts out: it is labelled %s=%s", mesh.LabelDataplaneMode, mesh.DataplaneModeNone)
	}
	return no("no enablement selector takes the pod: neither it nor its namespace is labelled %s=%s",
		mesh.LabelDataplaneMode, mesh.DataplaneModeAmbient)
}

// taken says why a selector matched, by the label that people set where there is one.
func taken(selector int, p Pod, namespaceLabels map[string]string) string {
	switch mesh.DataplaneModeAmbient {
	case p.Labels[mesh.LabelDataplaneMode]:
		return fmt.Sprintf("the pod is labelled %s=%s", mesh.LabelDataplaneMode, mesh.DataplaneModeAmbient)
	case namespaceLabels[mesh.LabelDataplaneMode]:
		return fmt.Sprintf("namespace %s is labelled %s=%s", p.Namespace, mesh.LabelDataplaneMode, mesh.DataplaneModeAmbient)
	}
	return fmt.Sprintf("enablement selector %d takes the pod", selector)
}

// Redirection is what a pod's annotations ask for.
type Redirection struct {
	DNS               bool
	BypassInbound     bool
	VirtualInterfaces []string
}

// RedirectionOf reads the annotations; dnsDefault holds where the pod is silent. Values that mean nothing are ignored,
// as Istio's agent does.
func RedirectionOf(p Pod, dnsDefault bool) Redirection {
	r := Redirection{DNS: dnsDefault, BypassInbound: p.Annotations[mesh.AnnotationBypassInbound] == "true"}
	switch p.Annotations[mesh.AnnotationDNSCapture] {
	case "true":
		r.DNS = true
	case "false":
		r.DNS = false
	}
	for name := range strings.SplitSeq(p.Annotations[mesh.AnnotationVirtualInterfaces], ",") {
		// Names longer than the kernel's limit exist on no pod; in a rule they would be an error for the whole set.
		if name = strings.TrimSpace(name); validInterface(name) && !slices.Contains(r.VirtualInterfaces, name) {
			r.VirtualInterfaces = append(r.VirtualInterfaces, name)
		}
	}
	return r
}

// validInterface follows dev_valid_name of the kernel, and keeps to characters that no rule language gives a meaning.
func validInterface(name string) bool {
	if name == "" || len(name) > 15 || name == "." || name == ".." || name[0] == '-' {
		return false
	}
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-', c == '@':
		default:
			return false
		}
	}
	return true
}
