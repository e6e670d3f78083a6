package gateways

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/api/document"
	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/control/status"
	"github.com/ambit-mesh/ambit/waypoint/deploy"
)

// version is what of Istio's renderings ours are equal to. A Gateway that a later controller has taken over is its.
// Istio pilot/pkg/config/kube/gatewaycommon ControllerVersion
const version = 5

// outcome is what became of a Gateway.
type outcome struct {
	g       deploy.Gateway
	service Key
	// refused is why there is nothing to run for it, and failed why what runs is not as it should be.
	refused, failed error
	manual          bool
}

// gateway brings one Gateway up to date. The error is one worth another try; what people must mend is in the status.
func (r *Reconciler) gateway(ctx context.Context, id name) error {
	doc := r.get(Key{"Gateway", id.namespace, id.name})
	owner := "gateways/" + id.namespace + "/" + id.name
	class, known := r.builtin(document.Text(doc, "spec", "gatewayClassName"))
	if doc == nil || document.Text(doc, "metadata", "deletionTimestamp") != "" || !known {
		r.tell(owner)
		return r.prune(ctx, id, nil)
	}
	if why := r.elsewhere(doc); why != "" {
		r.cfg.Logger.Info("gateway is not ours", "gateway", id.namespace+"/"+id.name, "reason", why)
		r.tell(owner)
		return nil
	}
	if ns := r.get(Key{Kind: "Namespace", Name: id.namespace}); document.Text(ns, "metadata", "deletionTimestamp") != "" {
		// What is there ends with the namespace, and nothing may be added.
		return nil
	}
	out, retry := r.deploy(ctx, doc, class)
	if err := errors.Join(out.refused, out.failed); err != nil {
		r.tell(owner, status.Entry{
			Severity: status.Refused, Kind: "Gateway", Namespace: id.namespace, Name: id.name,
			Problem: err.Error(), Fix: "what ran for it before goes on",
		})
	} else {
		r.tell(owner)
	}
	err := r.cfg.Applier.SetStatus(ctx, keyOf(doc), out.g.UID, func(old Object) Object { return r.statusOf(doc, old, out) })
	return errors.Join(retry, err)
}

func (r *Reconciler) tell(owner string, entries ...status.Entry) {
	if r.cfg.Status == nil {
		return
	}
	r.cfg.Status.Set(owner, entries...)
	if r.told[owner] = true; len(entries) == 0 {
		delete(r.told, owner)
	}
}

// untell takes back what was told: who does not look after Gateways any more does not know when it ends.
func (r *Reconciler) untell() {
	for owner := range r.told {
		r.tell(owner)
	}
}

// elsewhere says who else looks after a Gateway, if somebody does.
func (r *Reconciler) elsewhere(doc Object) string {
	ns := r.get(Key{Kind: "Namespace", Name: document.Text(doc, "metadata", "namespace")})
	for _, o := range []Object{doc, ns} {
		if rev := document.Strings(o, "metadata", "labels")[mesh.LabelRevision]; rev != "" {
			if slices.Contains(r.cfg.Revisions, rev) {
				break
			}
			return fmt.Sprintf("label %s is %q and we are %s", mesh.LabelRevision, rev, strings.Join(r.cfg.Revisions, ", "))
		}
	}
	v := document.Strings(doc, "metadata", "annotations")[mesh.AnnotationControllerVersion]
	if n, err := strconv.Atoi(v); err == nil && n > version {
		return fmt.Sprintf("annotation %s says that version %d of a controller runs it, and ours is %d", mesh.AnnotationControllerVersion, n, version)
	}
	return ""
}

// deploy renders and applies. retry is an error that is nobody's fault.
func (r *Reconciler) deploy(ctx context.Context, doc Object, class deploy.Class) (out outcome, retry error) {
	g, manual, err := readGateway(doc)
	g.Like = class.Name
	out = outcome{g: g, refused: err, service: Key{"Service", g.Namespace, g.ServiceName()}, manual: manual != ""}
	id := name{g.Namespace, g.Name}
	if err != nil {
		return out, nil
	}
	if len(r.cfg.Namespaces) > 0 && !slices.Contains(r.cfg.Namespaces, g.Namespace) && manual == "" {
		out.refused = fmt.Errorf("the mesh may run nothing in namespace %s: have it added to control.gatewayNamespaces, or give the Gateway the address of a Service that runs already", g.Namespace)
		return out, nil
	}
	g.Listeners = append(g.Listeners, r.added(doc, id)...)
	if out.manual {
		// The Service is run by somebody else, and named here.
		svc, ns, _ := strings.Cut(manual, ".")
		ns, _, _ = strings.Cut(ns, ".")
		out.service = Key{"Service", ns, svc}
		if ns == "" {
			out.service.Namespace = g.Namespace
		}
		return out, r.prune(ctx, id, nil)
	}
	overlays, err := r.overlays(doc, g)
	var docs []Object
	if err == nil {
		docs, err = deploy.Render(g, overlays, r.cfg.Deploy)
	}
	if err != nil {
		out.refused = err
		return out, nil
	}
	keep := map[Key]bool{}
	for _, o := range docs {
		k := keyOf(o)
		keep[k] = true
		if theirs := r.stranger(k, id); theirs != "" {
			out.failed = fmt.Errorf("%s is already there and %s: rename one of the two, or see annotation %s", k, theirs, mesh.AnnotationNameOverride)
			return out, nil
		}
	}
	for _, o := range docs {
		if err := r.cfg.Applier.Apply(ctx, o); err != nil {
			out.failed = fmt.Errorf("apply %s: %w", keyOf(o), err)
			return out, out.failed
		}
	}
	return out, r.prune(ctx, id, keep)
}

// stranger says whose an object is that is not the Gateway's. Overwriting it would break what it does now.
func (r *Reconciler) stranger(k Key, id name) string {
	o := r.get(k)
	if o == nil {
		return ""
	}
	labels := document.Strings(o, "metadata", "labels")
	switch {
	case !ours(labels[mesh.LabelGatewayManaged]):
		return "was not made for a Gateway"
	case labels[mesh.LabelGatewayName] != id.name:
		return "belongs to Gateway " + labels[mesh.LabelGatewayName]
	}
	return ""
}

// prune deletes what was made for a Gateway and is not among what is kept.
func (r *Reconciler) prune(ctx context.Context, id name, keep map[Key]bool) error {
	var errs []error
	var list []Object
	for _, kind := range renderedKinds() {
		list = append(list, r.where(kind, id.namespace, func(k Key, _ Object) bool {
			owner, ok := r.owner(k)
			return ok && owner == id && !keep[k]
		})...)
	}
	for _, o := range list {
		r.cfg.Logger.Info("deleting what no gateway asks for", "object", keyOf(o).String())
		err := r.cfg.Applier.Delete(ctx, keyOf(o))
		if err == nil {
			// The news of it takes a moment.
			r.forget(keyOf(o))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// errParameters is about the overlay that a Gateway names.
var errParameters = errors.New("spec.infrastructure.parametersRef")

// overlays are those of the Gateway's class, then its own.
func (r *Reconciler) overlays(doc Object, g deploy.Gateway) ([]deploy.Overlay, error) {
	system := r.cfg.Deploy.SystemNamespace
	if system == "" {
		system = mesh.SystemNamespace
	}
	maps := r.where("ConfigMap", system, func(_ Key, o Object) bool {
		return document.Strings(o, "metadata", "labels")[mesh.LabelDefaultsForClass] == g.Class
	})
	if ref, _ := document.At(doc, "spec", "infrastructure", "parametersRef").(map[string]any); ref != nil {
		if document.Text(ref, "kind") != "ConfigMap" || document.Text(ref, "group") != "" {
			return nil, fmt.Errorf("%w names a %s: name a ConfigMap of the Gateway's namespace", errParameters, document.Text(ref, "kind"))
		}
		k := Key{"ConfigMap", g.Namespace, document.Text(ref, "name")}
		own := r.get(k)
		if own == nil {
			// A cluster's source hands over only those that have one of them.
			return nil, fmt.Errorf("%w: there is no %s with one of the keys %s under data", errParameters, k, strings.Join(deploy.OverlayKeys(), ", "))
		}
		maps = append(maps, own)
	}
	var list []deploy.Overlay
	for _, m := range maps {
		o, err := readOverlay(m)
		if err != nil {
			return nil, err
		}
		o.Confined = !r.cfg.TrustParameters && keyOf(m).Namespace != system
		list = append(list, o)
	}
	return list, nil
}

func readOverlay(m Object) (deploy.Overlay, error) {
	o := deploy.Overlay{Source: keyOf(m).String(), Documents: map[string]Object{}}
	for key, data := range document.Strings(m, "data") {
		if !slices.Contains(deploy.OverlayKeys(), key) {
			return o, fmt.Errorf("%s: data.%s is none of %s", o.Source, key, strings.Join(deploy.OverlayKeys(), ", "))
		}
		raw, err := yaml.YAMLToJSONStrict([]byte(data))
		if err != nil {
			return o, fmt.Errorf("%s: data.%s is not valid YAML: %w", o.Source, key, err)
		}
		var doc Object
		if err := json.Unmarshal(raw, &doc); err != nil {
			return o, fmt.Errorf("%s: data.%s is not a mapping", o.Source, key)
		}
		o.Documents[key] = doc
	}
	return o, nil
}

// classes makes the GatewayClasses that are missing and accepts those that are ours. An existing one is never changed.
func (r *Reconciler) classes(ctx context.Context) error {
	var errs []error
	for _, c := range deploy.Classes() {
		k := Key{Kind: "GatewayClass", Name: c.Name}
		if r.get(k) == nil {
			errs = append(errs, r.cfg.Applier.Apply(ctx, Object{
				"apiVersion": "gateway.networking.k8s.io/v1", "kind": k.Kind, "metadata": Object{"name": c.Name},
				"spec": Object{"controllerName": c.Controller, "description": c.Description},
			}))
		}
	}
	for _, o := range r.where("GatewayClass", "", nil) {
		if _, ok := r.builtin(keyOf(o).Name); !ok {
			continue
		}
		errs = append(errs, r.cfg.Applier.SetStatus(ctx, keyOf(o), document.Text(o, "metadata", "uid"), func(old Object) Object {
			out := clone(old)
			out["conditions"] = r.conditions(old, document.Number(o, "metadata", "generation"), []Condition{
				{Type: "Accepted", True: true, Reason: "Accepted", Message: "Handled by Ambit"},
			})
			return out
		}))
	}
	return errors.Join(errs...)
}
