package push

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
)

// generate is a mesh in the shape of the yardstick: 10 namespaces, 500 Services, 100 nodes, 20 policies and n pods.

func generate(n int) []object.Event {
	var ev []object.Event
	put := func(o object.Object) { ev = append(ev, object.Put(o)) }
	for i := range 10 {
		put(&object.Namespace{Meta: object.Meta{Name: fmt.Sprintf("ns-%d", i)}})
	}
	for i := range 100 {
		put(&object.Node{Meta: object.Meta{Name: fmt.Sprintf("node-%d", i), Labels: object.LabelsOf(mesh.LabelRegion, "r", mesh.LabelZone, fmt.Sprintf("z%d", i%3))}})
	}
	for i := range 500 {
		put(&object.Service{
			Meta:       object.Meta{Namespace: fmt.Sprintf("ns-%d", i%10), Name: fmt.Sprintf("svc-%d", i)},
			ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})},
			Selector:   object.Selector{Present: true, Labels: object.LabelsOf("app", fmt.Sprintf("app-%d", i))},
			Ports:      []object.ServicePort{{Name: "http", Port: 80, TargetPort: 8080}},
		})
	}
	for i := range 20 {
		put(&object.AuthorizationPolicy{
			Meta:     object.Meta{Namespace: fmt.Sprintf("ns-%d", i%10), Name: fmt.Sprintf("policy-%d", i)},
			Selector: object.Selector{Present: i < 10, Labels: object.LabelsOf("app", fmt.Sprintf("app-%d", i))},
			Rules:    []object.Rule{{From: []object.Source{{Namespaces: []string{"ns-1"}}}}},
		})
	}
	for i := range n {
		put(pod(i, ""))
	}
	return ev
}

func pod(i int, version string) *object.Pod {
	app := i % 500
	labels := map[string]string{"app": fmt.Sprintf("app-%d", app), "pod-template-hash": "5d9c7b8f6d"}
	if version != "" {
		labels["version"] = version
	}
	return &object.Pod{
		Meta: object.Meta{
			Namespace: fmt.Sprintf("ns-%d", app%10), Name: fmt.Sprintf("app-%d-5d9c7b8f6d-%05d", app, i),
			UID:    fmt.Sprintf("6f0c0a44-0000-4000-8000-%012d", i),
			Labels: object.MakeLabels(labels), Annotations: object.LabelsOf(mesh.AnnotationRedirection, mesh.RedirectionEnabled),
			Created: time.Unix(1_700_000_000, 0),
		},
		IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(1 + i>>16), byte(i >> 8), byte(i)})}, HostIP: netip.AddrFrom4([4]byte{192, 168, 0, byte(i % 100)}),
		Node: fmt.Sprintf("node-%d", i%100), ServiceAccount: fmt.Sprintf("sa-%d", app),
		Owner: object.Owner{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: fmt.Sprintf("app-%d-5d9c7b8f6d", app)},
		Phase: object.Running, Ready: true,
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}

func loaded(events []object.Event) *Pusher {
	p := New(model.New(model.Config{}), Config{Addresses: xds.NewCollection(mesh.TypeAddress), Policies: xds.NewCollection(mesh.TypeAuthorization)})
	p.Apply(events)
	p.Synced()
	p.flush()
	return p
}

// BenchmarkHeapPerPod measures what a pod costs from object to encoded resource.
func BenchmarkHeapPerPod(b *testing.B) {
	for _, n := range []int{10_000, 50_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for range b.N {
				base := heap()
				p := loaded(generate(n))
				used := heap() - base
				b.ReportMetric(float64(used)/float64(n), "B/pod")
				runtime.KeepAlive(p)
			}
		})
	}
}

// BenchmarkPodChange measures one pod that changes its labels in a mesh of that size.
func BenchmarkPodChange(b *testing.B) {
	for _, n := range []int{10_000, 50_000} {
		p := loaded(generate(n))
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				p.Apply([]object.Event{object.Put(pod(i%n, fmt.Sprint(i)))})
				p.flush()
			}
		})
	}
}

// BenchmarkPolicyChange measures a selector policy that comes and goes: it touches one Deployment's pods.
func BenchmarkPolicyChange(b *testing.B) {
	p := loaded(generate(50_000))
	pol := &object.AuthorizationPolicy{
		Meta:     object.Meta{Namespace: "ns-1", Name: "new"},
		Selector: object.Selector{Present: true, Labels: object.LabelsOf("app", "app-1")},
	}
	b.ReportAllocs()
	for b.Loop() {
		p.Apply([]object.Event{object.Put(pol)})
		p.flush()
		p.Apply([]object.Event{object.Delete(pol.Key())})
		p.flush()
	}
}
