package ctl

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/install/cluster"
)

// fakeCluster keeps objects in memory. Gateways are programmed as soon as they are applied, if it says so.
type fakeCluster struct {
	objects  []cluster.Object
	programs bool
}

func (f *fakeCluster) index(kind, ns, name string) int {
	return slices.IndexFunc(f.objects, func(o cluster.Object) bool {
		return o.Text("kind") == kind && o.Namespace() == ns && o.Name() == name
	})
}

func (f *fakeCluster) Get(_ context.Context, kind, ns, name string) (cluster.Object, error) {
	if i := f.index(kind, ns, name); i >= 0 {
		return f.objects[i], nil
	}
	return nil, fmt.Errorf("%s %s: %w", kind, name, cluster.ErrNotFound)
}

func (f *fakeCluster) List(_ context.Context, kind, ns string) ([]cluster.Object, error) {
	var list []cluster.Object
	for _, o := range f.objects {
		if o.Text("kind") == kind && (ns == "" || o.Namespace() == ns) {
			list = append(list, o)
		}
	}
	return list, nil
}

func (f *fakeCluster) Apply(_ context.Context, o cluster.Object) error {
	if i := f.index(o.Text("kind"), o.Namespace(), o.Name()); i >= 0 {
		f.objects = slices.Delete(f.objects, i, i+1)
	}
	condition := func(kind, status, reason string) any {
		return map[string]any{"type": kind, "status": status, "reason": reason, "message": "as it is", "observedGeneration": float64(0)}
	}
	programmed := condition("Programmed", "False", "AddressNotUsable")
	if f.programs {
		programmed = condition("Programmed", "True", "Programmed")
	}
	o["status"] = map[string]any{"conditions": []any{condition("Accepted", "True", "Accepted"), programmed}}
	f.objects = append(f.objects, o)
	return nil
}

func (f *fakeCluster) Label(_ context.Context, kind, ns, name string, set map[string]string, remove ...string) error {
	o, err := f.Get(context.Background(), kind, ns, name)
	if err != nil {
		return err
	}
	labels, _ := o.At("metadata", "labels").(map[string]any)
	if labels == nil {
		labels = map[string]any{}
	}
	for k, v := range set {
		labels[k] = v
	}
	for _, k := range remove {
		delete(labels, k)
	}
	o["metadata"].(map[string]any)["labels"] = labels
	return nil
}

func (f *fakeCluster) Delete(_ context.Context, kind, ns, name string) error {
	i := f.index(kind, ns, name)
	if i < 0 {
		return cluster.ErrNotFound
	}
	f.objects = slices.Delete(f.objects, i, i+1)
	return nil
}

func (f *fakeCluster) Watch(ctx context.Context, kind, ns string, seen func([]cluster.Object) bool) error {
	list, err := f.List(ctx, kind, ns)
	if err != nil || seen(list) {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

func namespace(name string, labels map[string]any) cluster.Object {
	return cluster.Object{"kind": "Namespace", "metadata": map[string]any{"name": name, "labels": labels}}
}

// TestWaypoint is a session with waypoints, step by step.
func TestWaypoint(t *testing.T) {
	f := &fakeCluster{programs: true, objects: []cluster.Object{
		namespace("shop", map[string]any{"istio.io/dataplane-mode": "ambient"}), namespace("plain", map[string]any{}),
		{"kind": "Gateway", "metadata": map[string]any{"name": "edge", "namespace": "shop"}, "spec": map[string]any{"gatewayClassName": "istio"}},
	}}
	for _, step := range []struct {
		args string
		code int
		text string // in the output or the error
	}{
		{"list -A", 0, "No waypoints found."},
		{"apply -n nowhere", 1, `there is no namespace "nowhere"`},
		{"apply -n shop --name none", exitUsage, "no waypoint"},
		{"apply -n shop --for nothing", exitUsage, "one of service, workload, all, none"},
		{"apply -n shop --name edge", 1, "of class istio"},
		{"apply -n shop extra", exitUsage, "takes no argument"},
		{"apply -n shop --enroll-namespace --wait", 0, "✅ waypoint shop/waypoint applied\n✅ waypoint shop/waypoint is ready!\n✅ namespace shop labeled with \"istio.io/use-waypoint: waypoint\""},
		{"apply -n shop --name two --for all -r canary --enroll-namespace", 0, `has label "istio.io/use-waypoint: waypoint" and keeps it`},
		{"apply -n shop --name two --for all -r canary --enroll-namespace --overwrite", 0, `labeled with "istio.io/use-waypoint: two"`},
		{"apply -n plain --enroll-namespace", 0, `no label "istio.io/dataplane-mode: ambient"`},
		{"list", 0, "No waypoints found."},
		{"list -A", 0, "NAMESPACE  NAME      REVISION  TRAFFIC TYPE  PROGRAMMED\nshop       waypoint  default   service       True\nshop       two       canary    all           True\n"},
		{"status -n plain", 0, "waypoint  True    Programmed  Programmed  as it is"},
		{"list -n shop -o json", 0, `"istio.io/waypoint-for": "all"`},
		{"delete -n shop missing", 1, "there is no waypoint shop/missing"},
		{"delete -n shop edge", 1, "there is no waypoint shop/edge"},
		{"delete -n shop --all waypoint", exitUsage, "leave out names"},
		{"delete -n shop -r canary", exitUsage, "say --all"},
		{"delete -n shop --all -r canary", 0, "waypoint shop/two deleted"},
		{"delete -n shop waypoint", 0, "waypoint shop/waypoint deleted"},
		{"delete -n shop --all", 0, "No waypoints found."},
		{"nonsense", exitUsage, "unknown command"},
	} {
		r := run(t, append([]string{"waypoint"}, strings.Fields(step.args)...), func(e *Env) { e.Cluster = f })
		if r.code != step.code || !strings.Contains(r.out+r.err, step.text) {
			t.Errorf("%s: code %d, %s%s; want %d, %q", step.args, r.code, r.out, r.err, step.code, step.text)
		}
	}
	if f.index("Gateway", "shop", "edge") < 0 {
		t.Error("a Gateway that is no waypoint was deleted")
	}
}

func TestWaypointThatIsNeverReady(t *testing.T) {
	f := &fakeCluster{objects: []cluster.Object{namespace("shop", map[string]any{})}}
	for _, args := range []string{"waypoint apply -n shop --wait --waypoint-timeout 10ms", "waypoint status -n shop --waypoint-timeout 10ms"} {
		r := run(t, strings.Fields(args), func(e *Env) { e.Cluster = f })
		if r.code != exitError || !strings.Contains(r.err, "shop/waypoint is not ready: AddressNotUsable: as it is, after 10ms") {
			t.Errorf("%s: code %d, %s", args, r.code, r.err)
		}
	}
}

func TestWaypointGenerate(t *testing.T) {
	golden(t, "waypoint-generate", run(t, strings.Fields("waypoint generate -n shop --for all -r stable")).out)
	golden(t, "waypoint-generate-account", run(t, strings.Fields("waypoint generate -n shop --service-account cashier")).out)
}

// TestElsewhere asks for commands that are known from elsewhere, and names no command that is not here.
func TestElsewhere(t *testing.T) {
	root := (&app{env: Env{Getenv: func(string) string { return "" }}}).root()
	quoted := regexp.MustCompile(`"(?:ambitctl )?([a-z-]+)(?: ([a-z-]+))?[^"]*"`)
	for name, instead := range elsewhere {
		if c, _, err := root.Find([]string{name}); err == nil && c != root {
			t.Errorf("%s is a command", name)
		}
		r := run(t, []string{name, "--whatever"})
		if r.code != exitUsage || !strings.Contains(r.err, instead) {
			t.Errorf("%s: code %d, %s", name, r.code, r.err)
		}
		for _, m := range quoted.FindAllStringSubmatch(instead, -1) {
			if strings.HasPrefix(m[1], "-") {
				continue
			}
			if c, _, err := root.Find(slices.DeleteFunc([]string{m[1], m[2]}, func(s string) bool { return s == "" })); err != nil || c == root {
				t.Errorf("%s: there is no %s", name, m[0])
			}
		}
	}
}
