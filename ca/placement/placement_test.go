package placement

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ca/server"
)

func pod(t *testing.T, name, sa, node string) xds.Raw {
	t.Helper()
	uid := mesh.PodUID("Kubernetes", "default", name)
	body, err := proto.Marshal(&workload.Address{Type: &workload.Address_Workload{Workload: &workload.Workload{
		Uid: uid, Name: name, Namespace: "default", ServiceAccount: sa, Node: node}}})
	if err != nil {
		t.Fatal(err)
	}
	return xds.Raw{Name: uid, Body: body}
}

func TestRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := New("control:15012")
		runs := func(node, sa string) (bool, error) { return table.Runs(t.Context(), node, "default", sa) }

		start := time.Now()
		if ok, err := runs("n1", "alice"); ok || err == nil || !strings.Contains(err.Error(), "control:15012 has not been reached") || time.Since(start) != Wait {
			t.Errorf("before the control plane is reached: %v, %v after %v", ok, err, time.Since(start))
		}
		table.Apply(mesh.TypeAddress, []xds.Raw{pod(t, "a-1", "alice", "n1"), pod(t, "a-2", "alice", "n1"), pod(t, "d-1", "", "n2")}, nil)
		table.Synced()
		for _, c := range []struct {
			node, sa string
			want     bool
		}{{"n1", "alice", true}, {"n2", "alice", false}, {"n1", "bob", false}, {"n2", "default", true}} {
			if ok, err := runs(c.node, c.sa); ok != c.want || err != nil {
				t.Errorf("%s on %s: %v, %v", c.sa, c.node, ok, err)
			}
		}
		// A pod that appears while somebody asks.
		time.AfterFunc(time.Second, func() { table.Apply(mesh.TypeAddress, []xds.Raw{pod(t, "b-1", "bob", "n1")}, nil) })
		start = time.Now()
		if ok, err := runs("n1", "bob"); !ok || err != nil || time.Since(start) != time.Second {
			t.Errorf("appearing pod: %v, %v after %v", ok, err, time.Since(start))
		}
		// One of two pods leaves, then the other; a pod moves.
		table.Apply(mesh.TypeAddress, []xds.Raw{pod(t, "b-1", "bob", "n3")}, []string{mesh.PodUID("Kubernetes", "default", "a-1")})
		if ok, _ := runs("n1", "alice"); !ok {
			t.Error("alice's second pod is still there")
		}
		table.Apply(mesh.TypeAddress, nil, []string{mesh.PodUID("Kubernetes", "default", "a-2"), "unknown"})
		if ok, _ := runs("n1", "alice"); ok {
			t.Error("alice has left")
		}
		if ok, _ := runs("n1", "bob"); ok {
			t.Error("bob has moved away")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := table.Runs(ctx, "n9", "default", "x"); err == nil {
			t.Error("did not heed its context")
		}
	})
}

func TestNode(t *testing.T) {
	table := New("control")
	table.Apply(mesh.TypeAddress, []xds.Raw{pod(t, "zt", "ztunnel", "n1")}, nil)
	zt := identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: "ztunnel"}
	other := zt
	other.ServiceAccount = "other"
	for _, c := range []struct {
		name   string
		caller identity.ID
		pod    server.Pod
		want   string
		text   string
	}{
		{"known and agreeing", zt, server.Pod{Name: "zt", Node: "n1"}, "n1", ""},
		{"token without node", zt, server.Pod{Name: "zt"}, "n1", ""},
		{"unknown pod", zt, server.Pod{Name: "zt-9", Node: "n9"}, "n9", ""},
		{"unknown pod, no node", zt, server.Pod{Name: "zt-9"}, "", ""},
		{"another node", zt, server.Pod{Name: "zt", Node: "n2"}, "", "runs on node n1, the token says n2"},
		{"another account", other, server.Pod{Name: "zt", Node: "n1"}, "", "runs as service account ztunnel"},
	} {
		node, err := table.Node(t.Context(), c.caller, c.pod)
		if node != c.want || (err == nil) != (c.text == "") || err != nil && !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %q, %v", c.name, node, err)
		}
	}
}

func TestApplyRejectsGarbage(t *testing.T) {
	table := New("control")
	good := pod(t, "a", "alice", "n1")
	bad := xds.Raw{Name: mesh.PodUID("Kubernetes", "default", "b"), Body: []byte{0xff, 0xff}}
	service := xds.Raw{Name: "default/a.default.svc.cluster.local", Body: []byte{0xff}}
	rejected := table.Apply(mesh.TypeAddress, []xds.Raw{bad, good, service}, nil)
	if len(rejected) != 1 || rejected[0].Name != bad.Name || table.Len() != 1 {
		t.Errorf("rejected %v, %d pods", rejected, table.Len())
	}
}

func BenchmarkApply(b *testing.B) {
	table := New("control")
	for n := range 10000 {
		uid := fmt.Sprintf("Kubernetes//Pod/default/p-%d", n)
		table.set(uid, place{"n", "default", "x"})
	}
	body, err := proto.Marshal(&workload.Address{Type: &workload.Address_Workload{Workload: &workload.Workload{Uid: "Kubernetes//Pod/default/q", Node: "n"}}})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		table.Apply(mesh.TypeAddress, []xds.Raw{{Name: "Kubernetes//Pod/default/q", Body: body}}, nil)
	}
}
