package intake

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// render prints what was read from a file the way the golden files hold it.
func render(docs []Document) string {
	var b strings.Builder
	for _, d := range docs {
		switch {
		case d.Ignored != "":
			fmt.Fprintf(&b, "line %d: left alone: %s\n", d.Line, d.Ignored)
		case d.Broken:
			fmt.Fprintf(&b, "line %d: broken\n", d.Line)
		}
		for _, it := range d.Items {
			switch {
			case it.Object != nil:
				fmt.Fprintf(&b, "line %d: %s\n", it.Line, it.Key)
			case it.Key != object.Key{}:
				fmt.Fprintf(&b, "line %d: %s is refused\n", it.Line, it.Key)
			}
			for _, e := range it.Entries {
				fmt.Fprintf(&b, "    %s %s\n", e.Severity, e)
			}
		}
	}
	return b.String()
}

// Each file of testdata is something people write: what is read from it, and what they are told about it, stands in the
// golden file beside it.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.*")
	if err != nil || len(files) == 0 {
		t.Fatal("no test data", err)
	}
	d := NewDecoder(Limits{})
	for _, f := range files {
		if strings.HasSuffix(f, ".golden") {
			continue
		}
		t.Run(filepath.Base(f), func(t *testing.T) {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := render(d.File(filepath.Base(f), data, nil))
			golden := f + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// Every refusal must be worth reading: it says where, what and how to mend it.
func TestEveryRefusalHelps(t *testing.T) {
	files, _ := filepath.Glob("testdata/bad-*.yaml")
	d := NewDecoder(Limits{})
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		refused := 0
		for _, doc := range d.File(f, data, nil) {
			for _, it := range doc.Items {
				for _, e := range it.Entries {
					if e.Severity == status.Refused {
						refused++
					}
					if e.File == "" || e.Line == 0 || e.Problem == "" || e.Fix == "" {
						t.Errorf("%s: says too little: %+v", f, e)
					}
				}
			}
		}
		if refused == 0 {
			t.Errorf("%s: nothing was refused", f)
		}
	}
}

// one reads a file with one good object.
func one[T object.Object](t *testing.T, yaml string) T {
	t.Helper()
	docs := NewDecoder(Limits{}).File("x.yaml", []byte(yaml), nil)
	if len(docs) != 1 || len(docs[0].Items) != 1 {
		t.Fatalf("not one object: %+v", docs)
	}
	it := docs[0].Items[0]
	if it.Object == nil {
		t.Fatalf("refused: %v", it.Entries)
	}
	o, ok := it.Object.(T)
	if !ok {
		t.Fatalf("got a %T", it.Object)
	}
	return o
}

// simulatedPod is what the lab writes for one pod.
func simulatedPod(i int) []byte {
	return fmt.Appendf(nil, `apiVersion: v1
kind: Pod
metadata:
  name: app-%[1]d-7d4b9c6f5-x%05[1]d
  namespace: ns-%[2]d
  uid: 0b5e5f0e-0000-4000-8000-%012[1]d
  creationTimestamp: "2026-01-02T03:04:05Z"
  labels:
    app: app-%[3]d
    app.kubernetes.io/version: v1
    pod-template-hash: 7d4b9c6f5
  annotations:
    ambient.istio.io/redirection: enabled
    lab.ambit.io/netns: /run/netns/pod-%[1]d
  ownerReferences:
  - apiVersion: apps/v1
    kind: ReplicaSet
    name: app-%[3]d-7d4b9c6f5
    uid: 0b5e5f0e-0000-4000-9000-%012[3]d
    controller: true
    blockOwnerDeletion: true
spec:
  nodeName: node-%[4]d
  serviceAccountName: app-%[3]d
  containers:
  - name: app
    image: example.com/app:v1
    command: ["/bin/app", "--listen", ":8080"]
    env:
    - name: VERSION
      value: v1
    ports:
    - name: http
      containerPort: 8080
      protocol: TCP
    resources:
      requests:
        cpu: 100m
        memory: 128Mi
status:
  phase: Running
  hostIP: 192.168.%[5]d.%[6]d
  podIP: 10.%[7]d.%[5]d.%[6]d
  podIPs:
  - ip: 10.%[7]d.%[5]d.%[6]d
  conditions:
  - type: Ready
    status: "True"
    lastTransitionTime: "2026-01-02T03:04:05Z"
`, i, i%50, i%500, i%200, (i>>8)&255, i&255, i>>16)
}

func BenchmarkPod(b *testing.B) {
	d := NewDecoder(Limits{})
	b.ReportAllocs()
	for i := range b.N {
		docs := d.File("pod.yaml", simulatedPod(i), nil)
		if docs[0].Items[0].Object == nil {
			b.Fatal(docs[0].Items[0].Entries)
		}
	}
}

// seeds are the files of testdata.
func seeds(tb testing.TB) [][]byte {
	tb.Helper()
	files, _ := filepath.Glob("testdata/*.*")
	more, _ := filepath.Glob("testdata/ir/*.*")
	files = append(files, more...)
	var out [][]byte
	for _, f := range files {
		if strings.HasSuffix(f, ".golden") {
			continue
		}
		data, err := os.ReadFile(f)
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, data)
		for part := range strings.SplitSeq(string(data), "\n---\n") {
			out = append(out, []byte(part))
		}
	}
	return out
}
