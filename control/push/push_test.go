package push

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

type rig struct {
	*Pusher
	addresses, policies *xds.Collection
	status              *status.Registry
}

func newRig() rig {
	r := rig{addresses: xds.NewCollection(mesh.TypeAddress), policies: xds.NewCollection(mesh.TypeAuthorization), status: status.New()}
	r.Pusher = New(model.New(model.Config{Network: "net1"}), Config{Addresses: r.addresses, Policies: r.policies, Status: r.status})
	return r
}

// start runs the pusher in a bubble until the test ends.
func (r rig) start(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func (r rig) change(i int) { r.Apply([]object.Event{object.Put(pod(1, fmt.Sprint(i)))}) }

func TestFirstChangeGoesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig()
		r.start(t)
		r.Synced()
		synctest.Wait()
		time.Sleep(time.Hour) // virtual
		begin, before := time.Now(), r.addresses.Version()
		r.change(1)
		synctest.Wait()
		if r.addresses.Version() == before {
			t.Error("the change was not pushed")
		}
		if d := time.Since(begin); d != 0 {
			t.Errorf("it waited %s", d)
		}
	})
}

func TestWindowIsNeverExtended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig()
		r.start(t)
		r.Synced()
		synctest.Wait()
		time.Sleep(time.Hour)
		// One change each millisecond for a second: each is out within a window, and a window brings one push.
		pushes, last := 0, r.addresses.Version()
		var waited time.Duration
		pending := time.Time{}
		for i := range 1000 {
			r.change(i)
			if pending.IsZero() {
				pending = time.Now()
			}
			synctest.Wait()
			if v := r.addresses.Version(); v != last {
				pushes, last, pending = pushes+1, v, time.Time{}
			} else {
				waited = max(waited, time.Since(pending))
			}
			time.Sleep(time.Millisecond)
		}
		if waited > MaxWindow {
			t.Errorf("a change waited %s", waited)
		}
		if pushes < 19 || pushes > 22 {
			t.Errorf("%d pushes in a second, want one for each %s", pushes, MaxWindow)
		}
	})
}

func TestNothingBeforeSynced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig()
		r.start(t)
		r.change(1)
		time.Sleep(time.Hour)
		synctest.Wait()
		select {
		case <-r.Ready():
			t.Error("ready with half a mesh")
		default:
		}
		if n := r.addresses.Len(); n != 0 {
			t.Errorf("%d resources before the initial state was complete", n)
		}
		r.Synced()
		<-r.Ready()
		if n := r.addresses.Len(); n != 1 {
			t.Errorf("%d resources", n)
		}
	})
}

func TestResources(t *testing.T) {
	r := newRig()
	r.Apply(generate(3))
	p := pod(1, "")
	r.Apply([]object.Event{object.Delete(pod(2, "").Key())})
	r.Synced()
	r.flush()
	all := r.addresses.Snapshot()
	i := slices.IndexFunc(all, func(x xds.Resource) bool { return x.Name == "Kubernetes//Pod/ns-1/"+p.Name })
	if i < 0 {
		t.Fatal("the pod is not there")
	}
	got := all[i]
	var a workload.Address
	if err := proto.Unmarshal(got.Body, &a); err != nil || a.GetWorkload().GetNode() != "node-1" {
		t.Errorf("body %v: %v", &a, err)
	}
	if !slices.Equal(got.Aliases, []string{"net1/10.1.0.1"}) || got.Node != "node-1" || !slices.Equal(got.Services, []string{"ns-1/svc-1.ns-1.svc.cluster.local"}) || len(got.Version) != 16 {
		t.Errorf("%+v", got)
	}
	if i := slices.IndexFunc(all, func(x xds.Resource) bool { return x.Name == "ns-1/svc-1.ns-1.svc.cluster.local" }); i < 0 || all[i].Aliases[0] != "net1/10.96.0.1" {
		t.Errorf("the service is not there by its address")
	}
	for _, pol := range r.policies.Snapshot() {
		if pol.Version != "" {
			t.Errorf("policy %s has a version", pol.Name)
		}
	}
	if r.policies.Len() != 20 {
		t.Errorf("%d policies", r.policies.Len())
	}
}

// TestVersionsOutliveTheProcess is what lets clients resume after a restart without being sent everything again.
func TestVersionsOutliveTheProcess(t *testing.T) {
	versions := func(events []object.Event) map[string]string {
		r := newRig()
		r.Apply(events)
		r.Synced()
		r.flush()
		out := map[string]string{}
		for _, x := range r.addresses.Snapshot() {
			out[x.Name] = x.Version
		}
		return out
	}
	events := generate(50)
	first := versions(events)
	slices.Reverse(events)
	for name, v := range versions(events) {
		if first[name] != v {
			t.Errorf("%s: version %s, then %s", name, first[name], v)
		}
	}
}

func TestNothingNewIsNotPushed(t *testing.T) {
	r := newRig()
	r.Apply(generate(10))
	r.Synced()
	r.flush()
	before := r.addresses.Version()
	p := pod(3, "")
	p.Generation = 99
	r.Apply([]object.Event{object.Put(p)})
	r.flush()
	if v := r.addresses.Version(); v != before {
		t.Errorf("version went from %s to %s though nothing changed for clients", before, v)
	}
}

func TestWarningsReachTheRegistry(t *testing.T) {
	r := newRig()
	pol := &object.AuthorizationPolicy{Meta: object.Meta{Namespace: "a", Name: "p"}, Action: object.Audit}
	r.Apply([]object.Event{object.Put(pol)})
	r.Synced()
	r.flush()
	if l := r.status.List(); len(l) != 1 || l[0].Severity != status.Warning || l[0].ID() != "AuthorizationPolicy a/p" {
		t.Errorf("%v", l)
	}
	if l := r.Reports(); len(l) != 1 || l[0].Conditions[0].Status {
		t.Errorf("%+v", l)
	}
	r.Apply([]object.Event{object.Delete(pol.Key())})
	r.flush()
	if l := r.status.List(); len(l) != 0 || len(r.Reports()) != 0 {
		t.Errorf("left over: %v", l)
	}
}

// TestRenamedPolicyLeavesNoGap: a policy's successor is there before any workload names it, and the policy itself until no
// workload does.
func TestRenamedPolicyLeavesNoGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig()
		r.start(t)
		policy := func(name string) *object.AuthorizationPolicy {
			return &object.AuthorizationPolicy{
				Meta:     object.Meta{Namespace: "ns", Name: name},
				Selector: object.Selector{Present: true, Labels: object.LabelsOf("app", "web")},
				Rules:    []object.Rule{{}},
			}
		}
		names := func() (out []string) {
			for _, res := range r.policies.Snapshot() {
				out = append(out, res.Name)
			}
			return out
		}
		r.Apply([]object.Event{object.Put(policy("old"))})
		r.Synced()
		synctest.Wait()
		time.Sleep(time.Hour)
		old := policy("old")
		r.Apply([]object.Event{object.Put(policy("new")), object.Delete(old.Key())})
		synctest.Wait()
		if got := names(); !slices.Equal(got, []string{"ns/new", "ns/old"}) {
			t.Errorf("at once: %v, want both", got)
		}
		time.Sleep(MaxWindow)
		synctest.Wait()
		if got := names(); !slices.Equal(got, []string{"ns/new"}) {
			t.Errorf("after the window: %v, want the new one", got)
		}
		// Deleted and made again within a window: it stays.
		r.Apply([]object.Event{object.Delete(policy("new").Key())})
		synctest.Wait()
		r.Apply([]object.Event{object.Put(policy("new"))})
		time.Sleep(2 * MaxWindow)
		synctest.Wait()
		if got := names(); !slices.Equal(got, []string{"ns/new"}) {
			t.Errorf("deleted and made again: %v", got)
		}
	})
}
