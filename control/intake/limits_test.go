package intake

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// Whatever the input, reading it is quick and ends in something said.
func TestHostileFiles(t *testing.T) {
	head := "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: x}\n"
	var merges strings.Builder
	merges.WriteString(head + "secrets:\n- &a0 {name: x}\n")
	for i := 1; i < 12; i++ {
		fmt.Fprintf(&merges, "- &a%d {<<: [%s]}\n", i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 10), ","))
	}
	var keys strings.Builder
	keys.WriteString(head + "automountServiceAccountToken: true\nimagePullSecrets:\n-")
	for i := range 200_000 {
		fmt.Fprintf(&keys, "  k%d: v\n", i)
	}
	for name, file := range map[string]string{
		"empty":            "",
		"too large":        strings.Repeat("#\n", 2<<20) + "\n",
		"commas":           "[" + strings.Repeat(",", 4<<20-10) + "]",
		"deep brackets":    strings.Repeat("[", 3<<20),
		"deep dashes":      strings.Repeat("- ", 1<<20),
		"deep json":        `{"a":` + strings.Repeat("[", 1<<20),
		"deep mappings":    strings.Repeat("{a: ", 9000) + strings.Repeat("}", 9000),
		"merge bomb":       merges.String(),
		"many keys":        keys.String(),
		"itself":           "a: &a [*a]\n",
		"binary":           "\x00\x01\x02\xff\xfe",
		"utf-16":           "\xff\xfea\x00:\x00 \x001\x00",
		"nothing but ends": strings.Repeat("---\n", 100),
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			docs := NewDecoder(Limits{}).File("x.yaml", []byte(file), nil)
			if d := time.Since(start); d > 10*time.Second {
				t.Errorf("took %v", d)
			}
			said := 0
			for _, d := range docs {
				for _, it := range d.Items {
					if it.Object != nil {
						t.Errorf("accepted: %v", it.Key)
					}
					for _, e := range it.Entries {
						said++
						if len(e.String()) > 2000 {
							t.Errorf("%d characters are said: %.200s", len(e.String()), e)
						}
					}
				}
			}
			if said == 0 && name != "nothing but ends" {
				t.Error("nothing is said")
			}
		})
	}
}

func TestTooManyDocuments(t *testing.T) {
	doc := "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a%d}\n---\n"
	var b strings.Builder
	for i := range 12 {
		fmt.Fprintf(&b, doc, i)
	}
	docs := NewDecoder(Limits{Documents: 10}).File("x.yaml", []byte(b.String()), nil)
	if n := len(docs); n != 11 || !docs[10].Broken || !strings.Contains(docs[10].Items[0].Entries[0].Problem, "more than 10 documents") {
		t.Errorf("%d documents, last %+v", n, docs[n-1])
	}
	list := "apiVersion: v1\nkind: List\nitems:\n" + strings.Repeat("- {apiVersion: v1, kind: ServiceAccount, metadata: {name: x}}\n", 12)
	docs = NewDecoder(Limits{Documents: 10}).File("x.yaml", []byte(list), nil)
	if items := docs[0].Items; len(items) != 11 || !docs[0].Broken || items[10].Object != nil {
		t.Errorf("a list of %d items", len(items))
	}
}

// The decoder finds fields by index and would panic at an embedded pointer; make sure no type we read has one.
func TestNoEmbeddedPointers(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice || typ.Kind() == reflect.Map {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || seen[typ] || reflect.PointerTo(typ).Implements(ownUnmarshaler) {
			return
		}
		seen[typ] = true
		for i := range typ.NumField() {
			f := typ.Field(i)
			if f.Anonymous && f.Type.Kind() == reflect.Pointer {
				t.Errorf("%v embeds %v", typ, f.Type)
			}
			walk(f.Type)
		}
	}
	for _, v := range []any{corev1.Namespace{}, corev1.Node{}, corev1.ServiceAccount{}, corev1.Pod{}, corev1.Service{}, discoveryv1.EndpointSlice{}, gatewayv1.Gateway{}, gatewayv1.GatewayClass{}, custom{},
		gatewayv1.HTTPRoute{}, gatewayv1.GRPCRoute{}, gatewayv1.TLSRoute{}, gatewayv1.TCPRoute{}, gatewayv1.ReferenceGrant{},
		gatewayv1.BackendTLSPolicy{}, gatewayv1.ListenerSet{}, rateLimitSpec{}, extensionSpec{}} {
		walk(reflect.TypeOf(v))
	}
}

func FuzzFile(f *testing.F) {
	for _, seed := range seeds(f) {
		f.Add(seed)
	}
	d := NewDecoder(Limits{})
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, doc := range d.File("x.yaml", data, nil) {
			if !doc.Broken && doc.Ignored == "" && len(doc.Items) == 0 && len(data) > 0 && !strings.Contains(string(data), "List") {
				t.Fatalf("a document left no trace: %+v", doc)
			}
			for _, it := range doc.Items {
				refused := false
				for _, e := range it.Entries {
					refused = refused || e.Severity == status.Refused
					if e.Problem == "" || e.Fix == "" {
						t.Fatalf("says too little: %+v", e)
					}
				}
				if refused != (it.Object == nil) {
					t.Fatalf("refused is %v and the object %v", refused, it.Object)
				}
				if it.Object != nil && (it.Key != it.Object.Key() || it.Key.Name == "" || it.Key.Kind.ClusterScoped() != (it.Key.Namespace == "")) {
					t.Fatalf("wrong key %+v", it.Key)
				}
				if it.Object == nil && it.Key == (object.Key{}) && !doc.Broken {
					t.Fatal("an unknown object in a document that is not broken")
				}
			}
		}
	})
}
