package check

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

func (j *judge) mesh(f Facts) {
	m := f.Mesh
	if m.Complete {
		j.ok("installation", "Ambit %s is installed in %s, profile %s", m.Version, f.Namespace.Name, m.Profile)
	} else {
		j.fail("installation", "ambitctl upgrade", "the installation of %s was broken off", m.Version)
	}
	for _, p := range m.Parts {
		j.part(f.Namespace.Name, p)
	}
	j.agents(f)
	j.certificates(f)
	if n := len(m.Lost); n > 0 {
		j.fail("definitions", "ambitctl upgrade, and apply the objects of these kinds again", "%d definitions of the mesh's kinds are missing (%s): the API server has none of their objects any more; those that were in force stay so until it serves the kinds again", n, strings.Join(m.Lost, ", "))
	}
	switch {
	case m.Unknown != "":
		j.fail("control-plane", "kubectl -n "+f.Namespace.Name+" logs deploy/ambitd", "the control plane does not answer: %s", m.Unknown)
	case m.Refused > 0:
		j.warn("configuration", "ambitctl config refused", "%d documents are refused, or have no effect", m.Refused)
	default:
		j.ok("configuration", "nothing is refused of the configuration")
	}
	j.versions(m.Proxies)
}

// Title names the part, with its namespace where that is not the mesh's own.
func (p Part) Title() string {
	if p.Namespace == "" {
		return p.Name
	}
	return p.Namespace + "/" + p.Name
}

func (j *judge) part(namespace string, p Part) {
	namespace = cmp.Or(p.Namespace, namespace)
	fix := fmt.Sprintf("kubectl -n %s describe %s %s", namespace, strings.ToLower(p.Kind), p.Name)
	switch {
	case p.Missing:
		j.fail("parts", "ambitctl upgrade", "%s %s is missing", strings.ToLower(p.Kind), p.Title())
	case p.Have < p.Want:
		text := fmt.Sprintf("%s: %d of %d pods ready", p.Title(), p.Have, p.Want)
		if len(p.Trouble) > 0 {
			text += ": " + strings.Join(p.Trouble, "; ")
		}
		j.fail("parts", fix, "%s", text)
	case !p.Settled && len(p.Trouble) > 0:
		j.fail("parts", fix, "%s is being rolled out, and does not get on: %s", p.Title(), strings.Join(p.Trouble, "; "))
	case !p.Settled:
		j.warn("parts", "kubectl -n "+namespace+" rollout status "+strings.ToLower(p.Kind)+" "+p.Name, "%s is being rolled out", p.Title())
	default:
		j.ok("parts", "%s: %d of %d pods ready", p.Title(), p.Have, p.Want)
	}
}

// agents: what is enrolled must be captured, on every node.
func (j *judge) agents(f Facts) {
	m := f.Mesh
	desired, taken := 0, 0
	for _, a := range m.Nodes {
		desired += a.Desired
		taken += min(a.Captured, a.Taken)
		logs := fmt.Sprintf("kubectl -n %s logs -l k8s-app=ambit-cni-node --field-selector spec.nodeName=%s", f.Namespace.Name, a.Node)
		switch {
		case a.Plugin != "":
			j.fail("cni", logs, "on node %s new pods are not brought in: %s", a.Node, a.Plugin)
		case a.PluginWarning != "":
			j.warn("cni", logs, "on node %s new pods are brought in, but: %s", a.Node, a.PluginWarning)
		}
		if a.Proxies == 0 {
			j.fail("node-proxies", fmt.Sprintf("kubectl -n %s get pods -l app=ztunnel --field-selector spec.nodeName=%s", f.Namespace.Name, a.Node), "no node proxy is connected on node %s: pods of the mesh there have no network", a.Node)
		}
		for _, pod := range slices.Sorted(maps.Keys(a.Waiting)) {
			ns, name, _ := strings.Cut(pod, "/")
			j.fail("pods", fmt.Sprintf("kubectl -n %s describe pod %s", ns, name), "pod %s on node %s: %s", pod, a.Node, a.Waiting[pod])
		}
	}
	for _, node := range slices.Sorted(maps.Keys(m.Silent)) {
		j.fail("cni", fmt.Sprintf("kubectl -n %s get pods -l k8s-app=ambit-cni-node --field-selector spec.nodeName=%s", f.Namespace.Name, node), "the agent of node %s does not answer: %s", node, m.Silent[node])
	}
	if taken < desired {
		j.fail("pods", "ambitctl enrolment", "%d of %d pods are in the mesh", taken, desired)
	} else if len(m.Silent) == 0 {
		j.ok("pods", "%d of %d pods that belong to the mesh are in it", taken, desired)
	}
}

func (j *judge) certificates(f Facts) {
	m := f.Mesh
	if !m.Root.IsZero() {
		left := m.Root.Sub(f.Now)
		switch {
		case left <= 0:
			j.fail("certificates", "ambitctl ca rotate", "the mesh's root certificate ended on %s", m.Root.Format(time.DateOnly))
		case left < rootWarning:
			j.warn("certificates", "ambitctl ca rotate", "the mesh's root certificate ends on %s", m.Root.Format(time.DateOnly))
		default:
			j.ok("certificates", "the root certificate is good until %s", m.Root.Format(time.DateOnly))
		}
	}
	for _, c := range m.Certificates {
		// What it serves with lasts for days, and is renewed by itself.
		fix, early := "replace the Secret cacerts; see docs/kubernetes/authority.md", issuerWarning
		if c.Kind == Serving {
			fix, early = "ambitctl ca status, and kubectl -n "+f.Namespace.Name+" logs deploy/ambitd", 0
		}
		switch left := c.NotAfter.Sub(f.Now); {
		case left <= 0:
			j.fail("certificates", fix, "the authority's %s certificate (%s) ended at %s", c.Kind, c.Subject, c.NotAfter.Format(time.RFC3339))
		case left < early:
			j.warn("certificates", fix, "the authority's %s certificate (%s) ends on %s", c.Kind, c.Subject, c.NotAfter.Format(time.DateOnly))
		}
	}
	for _, w := range m.Warned {
		j.warn("certificates", "ambitctl ca status", "the authority warns: %s", w)
	}
}

// Kinds of the authority's certificates.
const (
	Issuer       = "issuer"
	Intermediate = "intermediate"
	Serving      = "serving"
)

// versions: proxies of several are what a rollout that stopped leaves behind.
func (j *judge) versions(proxies map[string]int) {
	var all []string
	for _, v := range slices.Sorted(maps.Keys(proxies)) {
		all = append(all, fmt.Sprintf("%d of %s", proxies[v], cmp.Or(v, "no version")))
	}
	switch len(all) {
	case 0:
	case 1:
		j.ok("versions", "proxies that are connected: %s", all[0])
	default:
		j.warn("versions", "wait for a rollout that is under way (ambitctl status), then \"ambitctl upgrade\"", "proxies that are connected are of several versions: %s", strings.Join(all, ", "))
	}
}
