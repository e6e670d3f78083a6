package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/install/bugreport"
	"github.com/ambit-mesh/ambit/install/cluster"
)

// gatherer lists what a report is made of.
type gatherer struct {
	*app
	mesh  cluster.Mesh
	flags reportFlags
	given []string
}

// reported are the kinds of objects in a report. Kinds that a mesh does not have are left out without a word.
var reported = []string{
	"Namespace", "Node", "Pod", "Service", "ServiceAccount", "EndpointSlice", "Deployment", "DaemonSet", "ConfigMap", "Secret", "Event",
	"NetworkPolicy", "PodDisruptionBudget", "HorizontalPodAutoscaler", "Lease", "CustomResourceDefinition", "ValidatingWebhookConfiguration",
	"MutatingWebhookConfiguration", "ValidatingAdmissionPolicy",
	"GatewayClass", "Gateway", "ListenerSet", "HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "ReferenceGrant", "BackendTLSPolicy",
	"VirtualService", "DestinationRule", "ServiceEntry", "WorkloadEntry", "WorkloadGroup", "Sidecar", "EnvoyFilter", "ProxyConfig",
	"AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication", "Telemetry", "WasmPlugin", "TrafficExtension",
	"LocalRateLimitPolicy", "ExtensionPolicy",
}

// ownOnly are kinds of which only the mesh's own objects are of interest.
var ownOnly = []string{"Secret", "ConfigMap", "ServiceAccount", "Lease", "Deployment", "DaemonSet", "PodDisruptionBudget", "HorizontalPodAutoscaler"}

func (g *gatherer) items(ctx context.Context) []bugreport.Item {
	items := []bugreport.Item{
		{Path: "README.txt", Get: g.readme},
		g.says("summary/version.txt", "version"),
		g.says("summary/proxy-status.txt", "proxy-status", "-v", "1"),
		g.says("summary/config-refused.txt", "config", "refused"),
		g.says("summary/config-status.txt", "config", "status"),
		g.says("summary/enrolment.txt", "enrolment"),
		g.says("summary/waypoints.txt", "waypoint", "status", "-A", "--wait=false"),
		g.says("summary/certificates.txt", "ztunnel-config", "certificates"),
		g.says("summary/connections.txt", "ztunnel-config", "connections"),
		g.says("summary/authority.txt", "ca", "status"),
		g.says("summary/analyze.txt", "analyze", "--fail-on", "never"),
	}
	if !strings.HasPrefix(g.mesh.String(), "lab ") { // these are about clusters
		items = append(items, g.says("summary/check.txt", "check"), g.says("summary/status.txt", "status"))
	}
	for _, kind := range reported {
		items = append(items, bugreport.Item{Path: "objects/" + kind + ".json", Get: func(ctx context.Context, to io.Writer) error { return g.objects(ctx, kind, to) }})
	}
	return append(items, g.components(ctx)...)
}

func (g *gatherer) readme(_ context.Context, to io.Writer) error {
	_, err := fmt.Fprintf(to, `What ambitctl %s gathered about %s at %s.

summary/     what ambitctl's commands say: start here
objects/     objects of the mesh and of what it works for, by kind; without contents of Secrets
components/  what each part knows and does: the control plane, the authority, node proxies, agents, waypoints
logs/        what they wrote; PREVIOUS is the run of the container before this one
%s   what could not be had, and why
%s    all files with their sizes
`, g.env.Version, g.mesh, g.env.Now().UTC().Format("2006-01-02 15:04:05 MST"), bugreport.ErrorsFile, bugreport.IndexFile)
	return err
}

// wanted reports whether objects of a namespace are asked for.
func (g *gatherer) wanted(namespace string) bool {
	return len(g.flags.namespaces) == 0 || namespace == "" || namespace == g.app.namespace || slices.Contains(g.flags.namespaces, namespace)
}

// own reports whether an object is the mesh's own: one of its parts, or of what runs for a Gateway.
func (g *gatherer) own(o cluster.Object) bool {
	_, gateway := o.Label(mesh.LabelGatewayName)
	return gateway || o.Namespace() == g.app.namespace
}

func (g *gatherer) objects(ctx context.Context, kind string, to io.Writer) error {
	list, err := g.mesh.List(ctx, kind, "")
	if errors.Is(err, cluster.ErrNotFound) {
		return bugreport.ErrSaid // a kind that nobody has
	}
	if err != nil {
		return err
	}
	kept := []any{}
	for _, o := range list {
		own := g.own(o)
		if !g.wanted(o.Namespace()) || slices.Contains(ownOnly, kind) && !own || kind == "CustomResourceDefinition" && !interesting(o) {
			continue
		}
		if kind == "CustomResourceDefinition" {
			o = cluster.Object{"kind": kind, "metadata": o["metadata"], "versions": versionsOf(o), "status": o.At("status", "conditions")}
		}
		kept = append(kept, bugreport.Keep(o, own))
	}
	enc := json.NewEncoder(to)
	enc.SetIndent("", " ")
	return enc.Encode(kept)
}

// interesting are CRDs that a mesh reads.
func interesting(o cluster.Object) bool {
	group := o.Text("spec", "group")
	return strings.HasSuffix(group, "istio.io") || strings.HasSuffix(group, "ambit.io") || group == "gateway.networking.k8s.io"
}

// versionsOf leaves the schemas out, which are long and the same everywhere.
func versionsOf(o cluster.Object) []any {
	var out []any
	for _, v := range o.Items("spec", "versions") {
		out = append(out, map[string]any{"name": v["name"], "served": v["served"], "storage": v["storage"]})
	}
	return out
}

// questions are what parts of each kind are asked.
var questions = map[cluster.Kind][]string{
	cluster.Control:   {"/version", "/readyz", "/debug/refusals", "/debug/clients", "/debug/facts", "/config_dump", "/metrics", "/debug/pprof/goroutine?debug=1"},
	cluster.Authority: {"/config_dump", "/roots"},
	cluster.NodeProxy: {"/healthz/ready", "/config_dump", "/logging", "/metrics", "/debug/pprof/goroutine?debug=1"},
	cluster.Agent:     {"/readyz", "/status", "/pods", "/metrics"},
	cluster.Gateway:   {"/readyz", "/synced", "/problems", "/facts", "/config_dump?include_eds", "/clusters?format=json", "/listeners", "/certs", "/server_info", "/memory", "/metrics", "/debug/pprof/goroutine?debug=1"},
}

// components are what every part says, and its logs.
func (g *gatherer) components(ctx context.Context) []bugreport.Item {
	var items, logs []bugreport.Item
	for _, kind := range []cluster.Kind{cluster.Control, cluster.Authority, cluster.NodeProxy, cluster.Agent, cluster.Gateway} {
		parts, err := g.partsOf(ctx, kind)
		if err != nil {
			items = append(items, bugreport.Item{Path: "components/" + folder(kind) + "/list.txt", Get: func(context.Context, io.Writer) error { return err }})
		}
		for _, p := range parts {
			dir := fmt.Sprintf("components/%s/%s/", folder(kind), partName(p))
			var down atomic.Bool
			for _, q := range questions[kind] {
				items = append(items, g.answer(dir+fileName(q), p, q, &down))
			}
			if kind != cluster.Authority || strings.HasPrefix(p.Pod, "daemon/") { // in a cluster it is the control plane's process
				logs = append(logs, g.logs(p)...)
			}
		}
	}
	return append(items, logs...)
}

func (g *gatherer) partsOf(ctx context.Context, kind cluster.Kind) ([]cluster.Part, error) {
	if kind != cluster.Gateway {
		return g.mesh.Parts(ctx, kind)
	}
	pods, err := podsWith(ctx, g.mesh, "", mesh.LabelGatewayName)
	if err != nil {
		return nil, err
	}
	var out []cluster.Part
	for _, p := range pods {
		if g.wanted(p.Namespace()) {
			out = append(out, g.mesh.Proxy(p))
		}
	}
	return out, nil
}

// answer asks a part something. Once it is known that nobody listens there, it is not asked again.
func (g *gatherer) answer(path string, p cluster.Part, question string, down *atomic.Bool) bugreport.Item {
	return bugreport.Item{Path: path, Get: func(ctx context.Context, to io.Writer) error {
		if down.Load() {
			return bugreport.ErrSaid
		}
		in, err := p.Endpoint.Get(ctx, question)
		if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
			if down.Swap(true) {
				return bugreport.ErrSaid
			}
		}
		if err != nil {
			return err
		}
		defer in.Close()
		_, err = io.Copy(to, in)
		return err
	}}
}

func (g *gatherer) logs(p cluster.Part) []bugreport.Item {
	get := func(previous bool) func(context.Context, io.Writer) error {
		return func(ctx context.Context, to io.Writer) error {
			in, err := g.mesh.Logs(ctx, p, cluster.LogRange{Since: g.flags.since, Previous: previous})
			if err != nil {
				return err
			}
			defer in.Close()
			_, err = io.Copy(to, in)
			return err
		}
	}
	path := "logs/" + partName(p)
	items := []bugreport.Item{{Path: path + ".log", End: true, Get: get(false)}}
	if p.Restarts > 0 {
		items = append(items, bugreport.Item{Path: path + ".PREVIOUS.log", End: true, Optional: true, Get: get(true)})
	}
	return items
}

// partName tells a part from all others.
func partName(p cluster.Part) string {
	text := strings.TrimPrefix(p.Pod, "daemon/")
	if p.Namespace != "" {
		text = p.Namespace + "_" + text
	}
	if p.Kind == cluster.Authority && strings.HasPrefix(p.Pod, "daemon/") {
		return text
	}
	if p.Container != "" {
		text += "_" + p.Container
	}
	return text
}

func folder(k cluster.Kind) string { return strings.ReplaceAll(string(k), " ", "-") }

// fileName makes a path of the admin interface a file's name.
func fileName(question string) string {
	path, _, _ := strings.Cut(strings.TrimPrefix(question, "/"), "?")
	path = strings.ReplaceAll(path, "/", "_")
	switch path {
	case "config_dump", "facts", "problems", "debug_refusals", "debug_clients", "debug_facts", "pods", "status", "version", "clusters", "certs", "server_info", "memory":
		return path + ".json"
	case "roots":
		return path + ".pem"
	}
	return path + ".txt"
}
