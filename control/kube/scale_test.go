package kube

import (
	"fmt"
	"runtime"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// nothing is a sink that keeps nothing: what is left is the door's own.
type nothing struct{}

func (nothing) Apply([]object.Event) {}
func (nothing) Synced()              {}

// BenchmarkPods reads a list of 10,000 pods: time for each, and memory that stays for each.
func BenchmarkPods(b *testing.B) {
	const n = 10_000
	for b.Loop() {
		s := NewSource(SourceConfig{Sink: nothing{}, Status: status.New(), Places: NewPlaces()})
		f := &feed{kind: object.KindPod, to: s, have: make(map[object.Key]seen)}
		list := make([]any, 0, n)
		for i := range n {
			list = append(list, &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("web-%d", i), Namespace: "shop", UID: "0b6d58f0-6a0e-4bf6-a3d3-0f0a3a6f9d1e", ResourceVersion: fmt.Sprint(i), Labels: map[string]string{"app": "web"}},
				Spec:       corev1.PodSpec{NodeName: fmt.Sprintf("node-%d", i%100), ServiceAccountName: "web", Containers: []corev1.Container{{Name: "c", Image: "x", Env: make([]corev1.EnvVar, 20)}}},
				Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: fmt.Sprintf("10.%d.%d.1", i/256, i%256)},
			})
		}
		if err := f.Replace(list, "1"); err != nil {
			b.Fatal(err)
		}
		s.flush(b.Context(), true)
		list = nil
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(m.HeapAlloc)/n, "heap-B/pod")
		runtime.KeepAlive(f)
		runtime.KeepAlive(s)
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/n, "µs/pod")
}
