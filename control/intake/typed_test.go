package intake

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	networking "istio.io/api/networking/v1alpha3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/ambit-mesh/ambit/control/object"
)

// Objects that somebody else decoded become what the same YAML becomes.
func TestTypedObjects(t *testing.T) {
	port := gatewayv1.PortNumber(80)
	for name, tc := range map[string]struct {
		kind object.Kind
		spec any
		yaml string
	}{
		"VirtualService": {object.KindVirtualService,
			&networking.VirtualService{Hosts: []string{"a"}, Http: []*networking.HTTPRoute{{Route: []*networking.HTTPRouteDestination{{Destination: &networking.Destination{Host: "a"}}}}}},
			"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: x, namespace: ns}\nspec: {hosts: [a], http: [{route: [{destination: {host: a}}]}]}\n"},
		"HTTPRoute": {object.KindHTTPRoute,
			&gatewayv1.HTTPRouteSpec{Rules: []gatewayv1.HTTPRouteRule{{BackendRefs: []gatewayv1.HTTPBackendRef{{BackendRef: gatewayv1.BackendRef{BackendObjectReference: gatewayv1.BackendObjectReference{Name: "a", Port: &port}}}}}}},
			"apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: x, namespace: ns}\nspec: {rules: [{backendRefs: [{name: a, port: 80}]}]}\n"},
		"ConfigMap": {object.KindConfigMap,
			&corev1.ConfigMap{Data: map[string]string{"service": "spec: {type: ClusterIP}"}},
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: ns}\ndata: {service: 'spec: {type: ClusterIP}'}\n"},
		"ServiceEntry": {object.KindServiceEntry,
			&ServiceEntry{Spec: &networking.ServiceEntry{Hosts: []string{"a.example"}, Ports: []*networking.ServicePort{{Number: 80, Name: "http", Protocol: "HTTP"}}}},
			"apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: x, namespace: ns}\nspec: {hosts: [a.example], ports: [{number: 80, name: http, protocol: HTTP}]}\n"},
		"Pod": {object.KindPod,
			&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "ns"}, Spec: corev1.PodSpec{NodeName: "n1"}, Status: corev1.PodStatus{PodIP: "10.0.0.1"}},
			"apiVersion: v1\nkind: Pod\nmetadata: {name: x, namespace: ns}\nspec: {nodeName: n1}\nstatus: {podIP: 10.0.0.1}\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got, entries := NewDecoder(Limits{}).Convert(tc.kind, metav1.ObjectMeta{Name: "x", Namespace: "ns"}, tc.spec)
			if got == nil {
				t.Fatal(entries)
			}
			docs := NewDecoder(Limits{}).File("x.yaml", []byte(tc.yaml), nil)
			if d := cmp.Diff(docs[0].Items[0].Object, got, protocmp.Transform(), cmp.Comparer(func(a, b object.Labels) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestTypedObjectsAreRefusedAsWell(t *testing.T) {
	d := NewDecoder(Limits{})
	o, entries := d.Convert(object.KindVirtualService, metav1.ObjectMeta{Name: "x", Namespace: "ns"}, &networking.VirtualService{})
	if o != nil || len(entries) == 0 || entries[0].Problem == "" || entries[0].Fix == "" {
		t.Errorf("%v %v", o, entries)
	}
	if o, entries := d.Convert(object.KindHTTPRoute, metav1.ObjectMeta{Name: "x"}, &networking.VirtualService{}); o != nil || len(entries) == 0 {
		t.Errorf("a spec of another kind: %v %v", o, entries)
	}
	if o, entries := d.Convert(object.KindPod, metav1.ObjectMeta{Name: "x"}, &corev1.Pod{}); o != nil || len(entries) == 0 {
		t.Errorf("a pod without a name: %v %v", o, entries)
	}
	for k := object.KindNamespace; k <= object.KindExtensionPolicy; k++ {
		if k == object.KindSidecar || k == object.KindEnvoyFilter {
			continue // nothing to convert
		}
		if o, entries := d.Convert(k, metav1.ObjectMeta{Name: "x"}, 5); o != nil || len(entries) == 0 || !strings.Contains(entries[0].Problem, "is a int") {
			t.Errorf("%s: %v %v", k, o, entries)
		}
	}
	// Broken mesh configuration inside a typed object has no lines to name.
	if o, entries := d.Convert(object.KindConfigMap, metav1.ObjectMeta{Name: "istio"}, &corev1.ConfigMap{Data: map[string]string{"mesh": "a: b"}}); o != nil || len(entries) == 0 {
		t.Errorf("%v %v", o, entries)
	}
}

// What is secret must not be told, whatever is wrong with it.
func TestSecretsAreNotTold(t *testing.T) {
	const word = "hunter2"
	head := "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\n"
	for _, rest := range []string{
		"data: {a: \"hunter2!\"}", "data: hunter2", "data: [hunter2]", "data: {a: {hunter2: b}}", "data: {<<: hunter2}",
		"stringData: {a: [hunter2]}", "stringData: hunter2", "stringData: {a: *hunter2}", "data: {a: !!int hunter2}",
		"data: {a: !!float hunter2}", "type: kubernetes.io/tls\nstringData: {tls.crt: hunter2, tls.key: hunter2}",
		"type: kubernetes.io/tls\nstringData: {tls.crt: hunter2}", "stringData: {a: hunter2\n", "stringData: {a: \"hunter2}",
		"stringData:\n  a: hunter2: b",
	} {
		for _, d := range NewDecoder(Limits{}).File("x.yaml", []byte(head+rest+"\n"), nil) {
			for _, it := range d.Items {
				for _, e := range it.Entries {
					if strings.Contains(e.String(), word) {
						t.Errorf("%q: %s", rest, e)
					}
				}
			}
		}
	}
	s := one[*object.Secret](t, head+"type: kubernetes.io/tls\nstringData:\n  tls.crt: |\n    -----BEGIN CERTIFICATE-----\n    aGVsbG8K\n    -----END CERTIFICATE-----\n  tls.key: |\n    -----BEGIN PRIVATE KEY-----\n    aHVudGVyMgo=\n    -----END PRIVATE KEY-----\n")
	if len(s.PrivateKey.Reveal()) == 0 {
		t.Fatal("the key is gone")
	}
	var b strings.Builder
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "secret", s, "key", s.PrivateKey)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&b, verb, s)
		fmt.Fprintf(&b, verb, s.PrivateKey)
	}
	if strings.Contains(b.String(), "aHVudGVyMgo") || strings.Contains(b.String(), fmt.Sprintf("%x", "aHVudGVyMgo")) {
		t.Errorf("the key is printed: %s", b.String())
	}
}

// Aliases make a few bytes stand for many; what is kept of them must stay small.
func TestAliasedTextIsBounded(t *testing.T) {
	text := strings.Repeat("x", 1<<20)
	var b strings.Builder
	b.WriteString("apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {name: x}\nspec:\n  url: https://a/b\n  pluginConfig:\n    a: &a " + text + "\n")
	for i := range 5000 {
		fmt.Fprintf(&b, "    k%d: *a\n", i)
	}
	docs := NewDecoder(Limits{}).File("x.yaml", []byte(b.String()), nil)
	if docs[0].Items[0].Object != nil {
		t.Error("accepted")
	}
}

func TestBounds(t *testing.T) {
	match := "{headers: {a: {regex: " + strings.Repeat("a", maxRegex+1) + "}}}"
	for name, spec := range map[string]string{
		"regex":   "http: [{match: [" + match + "], route: [{destination: {host: a}}]}]",
		"matches": "http: [{match: [" + strings.Repeat("{name: a},", maxMatches+1) + "], route: [{destination: {host: a}}]}]",
		"rules":   "http: [" + strings.Repeat("{route: [{destination: {host: a}}]},", maxRules+1) + "]",
		"routes":  "http: [{route: [" + strings.Repeat("{destination: {host: a}, weight: 1},", maxBackends+1) + "]}]",
		"body":    "http: [{directResponse: {status: 200, body: {string: " + strings.Repeat("a", maxBody+1) + "}}}]",
		"header":  "http: [{route: [{destination: {host: a}}], headers: {request: {set: {a: " + strings.Repeat("a", maxHeaderValue+1) + "}}}}]",
		"program": `http: [{match: [{uri: {regex: "` + strings.Repeat("(ab){999}", 6) + `"}}], route: [{destination: {host: a}}]}]`,
		"repeat":  `http: [{match: [{uri: {regex: "(a{500}){500}"}}], route: [{destination: {host: a}}]}]`,
	} {
		docs := NewDecoder(Limits{}).File("x.yaml", []byte("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: x}\nspec: {hosts: [a], "+spec+"}\n"), nil)
		if it := docs[0].Items[0]; it.Object != nil || len(it.Entries) == 0 {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestNamesOfHosts(t *testing.T) {
	d := NewDecoder(Limits{}, ClusterDomain("mesh.example"))
	r := &reader{d: d}
	for in, want := range map[string]string{
		"reviews": "reviews.ns.svc.mesh.example", "Reviews": "reviews.ns.svc.mesh.example", "reviews.prod": "reviews.prod",
		"a.b.svc.cluster.local.": "a.b.svc.cluster.local", "*": "*", "*.a": "*.a", "10.0.0.1": "10.0.0.1", "::1": "::1", "": "",
	} {
		if got := r.fqdn(in, "ns"); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func TestDurations(t *testing.T) {
	for in, want := range map[string]string{
		"1s": "1s", "1m30s": "1m30s", "500ms": "500ms", "1h2m3s4ms": "1h2m3.004s", "0s": "0s", "99999h": "99999h0m0s",
		"": "", "s": "", "1": "", "1.5s": "", "-1s": "", "1s1s1s1s1s": "", "100000s": "", "1us": "", "1s ": "",
	} {
		got, ok := gepDuration(in)
		if ok != (want != "") || ok && got.String() != want {
			t.Errorf("%q: %v %v", in, got, ok)
		}
	}
}
