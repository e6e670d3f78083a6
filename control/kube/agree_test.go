package kube

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/api/folder"
	"github.com/ambit-mesh/ambit/control/intake"
	"github.com/ambit-mesh/ambit/control/kube/kubetest"
	"github.com/ambit-mesh/ambit/control/object"
)

// What is read from a cluster is what is read from a folder with the same YAML.
func TestFolderAndClusterAgree(t *testing.T) {
	a := kubetest.New(t)
	for _, r := range intake.Resources() {
		if _, ok := builtins()[r.Kind]; !ok {
			for _, v := range r.Versions {
				a.Serve("apis/"+r.Group+"/"+v+"/"+strings.ToLower(r.Kind.String())+"s", r.Kind.String(), !r.Kind.ClusterScoped())
			}
		}
	}
	want := map[object.Key]object.Object{}
	for _, glob := range []string{"../intake/testdata/*.yaml", "../model/testdata/*/*.yaml", "../waypoint/testdata/*/*.yaml", "../model/testdata/*.yaml", "../waypoint/testdata/*.yaml"} {
		files, err := filepath.Glob(glob)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			dec := intake.NewDecoder(intake.Limits{})
			for part := range folder.Documents(data) {
				docs := dec.File(name, part.Data, nil)
				if len(docs) != 1 || len(docs[0].Items) != 1 || docs[0].Items[0].Object == nil {
					continue
				}
				it := docs[0].Items[0]
				var o kubetest.Doc
				if err := yaml.Unmarshal(part.Data, &o); err != nil || strings.HasSuffix(fmt.Sprint(o["kind"]), "List") || it.Key.Kind == object.KindSecret || it.Key.Kind == object.KindServiceAccount {
					continue
				}
				if want[it.Key] != nil {
					continue // another file's
				}
				meta := o["metadata"].(kubetest.Doc)
				if it.Key.Kind.ClusterScoped() {
					delete(meta, "namespace")
				}
				if meta["uid"] == nil {
					meta["uid"] = "u"
					it.Object.Metadata().UID = "u"
				}
				want[it.Key] = it.Object
				// One version of a kind is asked for, as API servers convert between them.
				for _, r := range intake.Resources() {
					if r.Kind == it.Key.Kind {
						o["apiVersion"] = strings.TrimPrefix(r.Group+"/"+r.Versions[0], "/")
					}
				}
				a.PutDoc(o)
			}
		}
	}
	if len(want) < 50 {
		t.Fatalf("only %d objects to compare: where is the YAML?", len(want))
	}
	w := start(t, a)
	w.synced(t)
	for _, k := range slices.SortedFunc(maps.Keys(want), func(a, b object.Key) int { return strings.Compare(a.String(), b.String()) }) {
		if d := cmp.Diff(want[k], w.sink.get(k), protocmp.Transform(), cmp.Exporter(func(reflect.Type) bool { return true }),
			cmp.Comparer(func(a, b object.Labels) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
			if w.sink.get(k) == nil {
				t.Errorf("%s is missing: %v", k, w.status.List())
				continue
			}
			t.Errorf("%s differs (folder -, cluster +):\n%s", k, d)
		}
	}
	t.Logf("%d objects agree", len(want))
}
