package file

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/control/status"
)

// BenchmarkStart reads a folder with a file for each pod, as the lab writes them, and reports the time and the live heap
// that remain for one of them, the objects included.
func BenchmarkStart(b *testing.B) {
	for _, pods := range []int{1000, 50_000} {
		b.Run(fmt.Sprint(pods), func(b *testing.B) {
			root := b.TempDir()
			for i := range pods {
				if err := os.WriteFile(filepath.Join(root, fmt.Sprintf("p%d.yaml", i)), labPod(i), 0o644); err != nil {
					b.Fatal(err)
				}
			}
			b.ResetTimer()
			for range b.N {
				before := heap()
				ctx, cancel := context.WithCancel(context.Background())
				sink := &countingSink{memory: &memory{}, synced: make(chan struct{})}
				src := New(Config{Root: root, Sink: sink, Status: status.New()})
				done := make(chan error, 1)
				start := time.Now()
				go func() { done <- src.Run(ctx) }()
				<-sink.synced
				b.ReportMetric(time.Since(start).Seconds(), "s/start")
				b.ReportMetric(float64(heap()-before)/float64(pods), "heap-B/pod")
				if n := len(sink.objects); n != pods {
					b.Fatalf("%d objects", n)
				}
				cancel()
				<-done
				runtime.KeepAlive(src)
			}
		})
	}
}

type countingSink struct {
	*memory
	synced chan struct{}
}

func (s *countingSink) Synced() { close(s.synced) }

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func labPod(i int) []byte {
	return fmt.Appendf(nil, `apiVersion: v1
kind: Pod
metadata:
  name: app-%[1]d-7d4b9c6f5-x%05[1]d
  namespace: ns-%[2]d
  uid: 0b5e5f0e-0000-4000-8000-%012[1]d
  creationTimestamp: "2026-01-02T03:04:05Z"
  labels: {app: app-%[3]d, version: v1, pod-template-hash: 7d4b9c6f5}
  annotations:
    ambient.istio.io/redirection: enabled
    lab.ambit.io/netns: /run/netns/pod-%[1]d
  ownerReferences:
  - {apiVersion: apps/v1, kind: ReplicaSet, name: app-%[3]d-7d4b9c6f5, uid: 0b5e5f0e, controller: true}
spec:
  nodeName: node-%[4]d
  serviceAccountName: app-%[3]d
  containers:
  - name: app
    image: example.com/app:v1
    command: ["/bin/app", "--listen", ":8080"]
    ports:
    - {name: http, containerPort: 8080}
status:
  phase: Running
  hostIP: 192.168.%[5]d.%[6]d
  podIP: 10.%[7]d.%[5]d.%[6]d
  podIPs:
  - ip: 10.%[7]d.%[5]d.%[6]d
  conditions:
  - {type: Ready, status: "True"}
`, i, i%50, i%500, i%200, (i>>8)&255, i&255, i>>16)
}
