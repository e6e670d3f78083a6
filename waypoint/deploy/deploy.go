// Package deploy says what runs for a Gateway: it renders the ServiceAccount, Deployment and Service of a waypoint or of an
// ingress gateway, and, where they are asked for, an autoscaler and a disruption budget.
//
// It is pure: values in, documents out, and equal input gives equal output. It does not know how documents are stored,
// who runs them, whether they run, or how YAML is read. It starts no goroutines. Start reading at Render.
package deploy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/ambit-mesh/ambit/api/mesh"
)

// Object is a Kubernetes document as decoded from JSON: maps, slices, strings, bools, int64 and float64.
type Object = map[string]any

// Class is a GatewayClass that the mesh runs Gateways of.
type Class struct {
	Name, Controller string
	// Description is for people.
	Description string
	// Managed is the value of the label that marks rendered objects.
	Managed string
	// ServiceType is the type of the rendered Service.
	ServiceType string
	// suffix follows the Gateway's name in the names of what is rendered.
	suffix string
	// waypoint tells proxies inside the mesh from those at its edge.
	waypoint bool
}

// Classes are the ones that Render knows. Istio pilot/pkg/config/kube/gatewaycommon classInfos
func Classes() []Class {
	return []Class{
		{
			Name: mesh.GatewayClassIngress, Controller: "istio.io/gateway-controller", Managed: "istio.io-gateway-controller",
			ServiceType: "LoadBalancer", suffix: "-" + mesh.GatewayClassIngress, Description: "Gateways at the edge of the mesh",
		},
		{
			Name: mesh.GatewayClassWaypoint, Controller: "istio.io/mesh-controller", Managed: "istio.io-mesh-controller",
			ServiceType: "ClusterIP", waypoint: true, Description: "Waypoints, the mesh's proxies for HTTP",
		},
	}
}

// ClassOf finds a class by its name.
func ClassOf(name string) (Class, bool) {
	all := Classes()
	i := slices.IndexFunc(all, func(c Class) bool { return c.Name == name })
	if i < 0 {
		return Class{}, false
	}
	return all[i], true
}

// Gateway is what is read of a Gateway.
type Gateway struct {
	Namespace, Name, UID, Class string
	// Like is the class it is run as, when its own is another one of the same controller.
	Like                string
	Labels, Annotations map[string]string
	// InfrastructureLabels and InfrastructureAnnotations are spec.infrastructure's, for everything that is rendered.
	InfrastructureLabels, InfrastructureAnnotations map[string]string
	Listeners                                       []Listener
	// Addresses are those of spec.addresses that are IPs.
	Addresses []string
}

// Listener is a port of a Gateway.
type Listener struct {
	Name, Protocol string
	Port           int
}

func (g Gateway) like() string { return cmp.Or(g.Like, g.Class) }

// ServiceName is the name of the rendered Service and Deployment.
func (g Gateway) ServiceName() string {
	c, _ := ClassOf(g.like())
	return cmp.Or(g.Annotations[mesh.AnnotationNameOverride], g.Name+c.suffix)
}

// ServiceAccount is the account its pods run as, and thereby their identity.
func (g Gateway) ServiceAccount() string {
	return cmp.Or(g.Annotations[mesh.AnnotationServiceAccount], g.ServiceName())
}

// ownAccount says whether the account is rendered; one that the Gateway names belongs to whoever made it.
func (g Gateway) ownAccount() bool { return g.Annotations[mesh.AnnotationServiceAccount] == "" }

// Selector is the label that every pod of the Gateway carries.
func (g Gateway) Selector() map[string]string {
	return map[string]string{mesh.LabelGatewayName: g.Name}
}

// Overlay changes what is rendered: documents of the same shape, merged as kubectl merges a patch. Nil leaves a part alone.
type Overlay struct {
	// Source names where it came from, for errors.
	Source string
	// Documents are by the keys of the ConfigMap that holds them; see OverlayKeys.
	Documents map[string]Object
	// Confined overlays are by whoever has the Gateway, who need not be one who may run what he likes: what they may change
	// is listed, see ErrConfined.
	Confined bool
}

// OverlayKeys are the names of an overlay's documents. Istio pilot/pkg/config/kube/gatewaycommon overlay keys
func OverlayKeys() []string {
	return []string{keyDeployment, keyService, keyServiceAccount, keyAutoscaler, keyBudget}
}

const (
	keyDeployment     = "deployment"
	keyService        = "service"
	keyServiceAccount = "serviceAccount"
	keyAutoscaler     = "horizontalPodAutoscaler"
	keyBudget         = "podDisruptionBudget"
)

// maxName is the longest name of a Service (RFC 1123 label).
const maxName = 63

// Render returns the documents of a Gateway, in the order in which they should be made. Overlays apply one after the other.
func Render(g Gateway, overlays []Overlay, c Config) ([]Object, error) {
	class, ok := ClassOf(g.like())
	if !ok {
		return nil, fmt.Errorf("class %q is not one the mesh runs: use %s or %s", g.Class, mesh.GatewayClassWaypoint, mesh.GatewayClassIngress)
	}
	if name := g.ServiceName(); len(name) > maxName {
		return nil, fmt.Errorf("its Service would be called %q, and a name has at most %d letters: shorten the Gateway's name, or set annotation %s", name, maxName, mesh.AnnotationNameOverride)
	}
	for _, k := range slices.Sorted(maps.Keys(g.InfrastructureAnnotations)) {
		if reservedAnnotation(k) {
			return nil, fmt.Errorf("spec.infrastructure.annotations: %s is %w: it gives pods what runtimes and network plugins keep for those who may run pods; an overlay of the mesh's own namespace may set it", k, ErrConfined)
		}
	}
	r := renderer{g: g, class: class, c: c.withDefaults()}
	made := map[string]Object{}
	always := func() bool { return true }
	parts := []struct {
		key  string
		base Object
		// wanted says whether the part is rendered when no overlay speaks of it.
		wanted func() bool
	}{
		{keyServiceAccount, r.account(), g.ownAccount},
		{keyDeployment, r.deployment(), always},
		{keyService, r.service(), always},
		{keyAutoscaler, r.autoscaler(), func() bool { return class.waypoint && r.c.Autoscaling != nil && !fixed(overlays) }},
		{keyBudget, r.budget(), func() bool { return class.waypoint && r.c.Budget && several(made[keyDeployment], made[keyAutoscaler]) }},
	}
	if err := checkKeys(overlays); err != nil {
		return nil, err
	}
	var out []Object
	for _, p := range parts {
		doc, wanted := p.base, p.wanted()
		for _, o := range overlays {
			patch := o.Documents[p.key]
			if patch == nil {
				continue
			}
			if p.key == keyServiceAccount && !g.ownAccount() {
				continue
			}
			wanted = true
			before := doc
			if p.key == keyBudget {
				before = either(doc, patch)
			}
			merged, err := merge(before, patch)
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", o.Source, p.key, err)
			}
			if o.Confined {
				if err := confine(p.key, doc, merged, r.c.SystemNamespace); err != nil {
					return nil, fmt.Errorf("%s: %s: %w", o.Source, p.key, err)
				}
			}
			doc = merged
		}
		if !wanted {
			continue
		}
		if err := r.check(p.key, p.base, doc); err != nil {
			return nil, err
		}
		made[p.key] = doc
		out = append(out, doc)
	}
	return out, nil
}

func checkKeys(overlays []Overlay) error {
	for _, o := range overlays {
		for _, key := range slices.Sorted(maps.Keys(o.Documents)) {
			if !slices.Contains(OverlayKeys(), key) {
				return fmt.Errorf("%s: there is no %q to change: the keys are %s", o.Source, key, strings.Join(OverlayKeys(), ", "))
			}
		}
	}
	return nil
}

// check refuses overlays that take a document out of the Gateway's hands: it would never be found again.
func (r renderer) check(key string, was, doc Object) error {
	for _, f := range []string{"apiVersion", "kind"} {
		if doc[f] != was[f] {
			return fmt.Errorf("an overlay makes the %s %s %v: leave the field out", key, f, doc[f])
		}
	}
	meta, _ := doc["metadata"].(map[string]any)
	base := r.meta()
	if meta["name"] != r.nameOf(key) || meta["namespace"] != base["namespace"] {
		return fmt.Errorf("an overlay renames the %s to %v/%v: names are the Gateway's, see annotation %s", key, meta["namespace"], meta["name"], mesh.AnnotationNameOverride)
	}
	labels, _ := meta["labels"].(map[string]any)
	for _, k := range []string{mesh.LabelGatewayName, mesh.LabelGatewayManaged} {
		if want := base["labels"].(map[string]any)[k]; labels[k] != want {
			return fmt.Errorf("an overlay of the %s changes label %s, by which the Gateway knows its own: leave it out", key, k)
		}
	}
	return nil
}

type renderer struct {
	g     Gateway
	class Class
	c     Config
}

func (r renderer) nameOf(key string) string {
	if key == keyServiceAccount {
		return r.g.ServiceAccount()
	}
	return r.g.ServiceName()
}

// meta is what the metadata of every rendered document has.
func (r renderer) meta() Object {
	labels := map[string]any{}
	for k, v := range r.g.InfrastructureLabels {
		labels[k] = v
	}
	labels[mesh.LabelGatewayName] = r.g.Name
	labels[mesh.LabelGatewayClassName] = r.g.Class
	labels[mesh.LabelGatewayManaged] = r.class.Managed
	m := Object{
		"name": r.g.ServiceName(), "namespace": r.g.Namespace, "labels": labels,
		"ownerReferences": []any{Object{
			"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "name": r.g.Name, "uid": r.g.UID,
		}},
	}
	if len(r.g.InfrastructureAnnotations) > 0 {
		m["annotations"] = anyMap(r.g.InfrastructureAnnotations)
	}
	return m
}

func anyMap(m map[string]string) map[string]any {
	out := make(map[string]any, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

func (r renderer) account() Object {
	m := r.meta()
	m["name"] = r.g.ServiceAccount()
	return Object{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": m}
}

// service has a port for people's probes and one for each port of the listeners.
func (r renderer) service() Object {
	m := r.meta()
	if r.class.waypoint {
		a, _ := m["annotations"].(map[string]any)
		a = maps.Clone(a)
		if a == nil {
			a = map[string]any{}
		}
		// A waypoint near the client saves a trip to another zone.
		if _, ok := a[mesh.AnnotationTrafficDistribution]; !ok {
			a[mesh.AnnotationTrafficDistribution] = "PreferClose"
		}
		m["annotations"] = a
	}
	spec := Object{
		"type": r.class.ServiceType, "ipFamilyPolicy": "PreferDualStack",
		"selector": anyMap(r.g.Selector()), "ports": r.ports(),
	}
	if r.class.ServiceType == "LoadBalancer" && len(r.g.Addresses) > 0 {
		spec["loadBalancerIP"] = r.g.Addresses[0]
	}
	return Object{"apiVersion": "v1", "kind": "Service", "metadata": m, "spec": spec}
}

func (r renderer) ports() []any {
	ports := []any{Object{"name": "status-port", "port": int64(mesh.PortReadiness), "protocol": "TCP"}}
	names := map[string]bool{"status-port": true}
	seen := map[int]bool{mesh.PortReadiness: true}
	for _, l := range r.g.Listeners {
		if seen[l.Port] {
			// Listeners share a port and differ by hostname.
			continue
		}
		seen[l.Port] = true
		name := portName(l)
		if names[name] {
			name = "port-" + strconv.Itoa(l.Port)
		}
		names[name] = true
		protocol := "TCP"
		if l.Protocol == "UDP" {
			protocol = "UDP"
		}
		port := Object{"name": name, "port": int64(l.Port), "protocol": protocol}
		if l.Protocol != "" {
			port["appProtocol"] = strings.ToLower(l.Protocol)
		}
		ports = append(ports, port)
	}
	return ports
}

// portName is the listener's name if it can name a port: listeners' names may be longer and have dots.
func portName(l Listener) string {
	if len(l.Name) <= maxName && l.Name != "" && !strings.Contains(l.Name, ".") {
		return l.Name
	}
	return "port-" + strconv.Itoa(l.Port)
}
