package headers

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

func TestBaggage(t *testing.T) {
	full := Workload{
		Cluster: "Kubernetes", Namespace: "shop", Kind: "deployment", Name: "cart", Service: "cart", Version: "v1",
		Region: "r1", Zone: "z1",
	}
	wire := "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=cart," +
		"service.name=cart,service.version=v1,cloud.region=r1,cloud.availability_zone=z1"
	if got := full.String(); got != wire {
		t.Errorf("built %s", got)
	}
	for _, tt := range []struct {
		name, field string
		want        Workload
	}{
		{"all", wire, full},
		{"nothing", "", Workload{}},
		{"spaces and properties", " service.name = a ;ttl=3 , service.version=b", Workload{Service: "a", Version: "b"}},
		{"unknown keys", "x=1,k8s.node.name=n,service.name=a", Workload{Service: "a"}},
		{"no equals sign", "service.name,service.version=b", Workload{Version: "b"}},
		{"escapes", "service.name=a%2Cb%3d", Workload{Service: "a,b="}},
		{"broken escape", "service.name=a%2,service.version=b", Workload{Version: "b"}},
		{"control characters", "service.name=a%0Ab", Workload{}},
		{"last wins", "service.name=a,service.name=b", Workload{Service: "b"}},
		{"pod", "k8s.pod.name=p-1", Workload{Kind: "pod", Name: "p-1"}},
	} {
		if got := ParseBaggage(tt.field); got != tt.want {
			t.Errorf("%s: got %+v", tt.name, got)
		}
	}
}

func TestForwarded(t *testing.T) {
	for _, tt := range []struct {
		name, field string
		want        Origin
		built       string // where it differs from field
	}{
		{"client and host", `for="10.1.2.3:4000";host=cart.shop.svc.cluster.local`,
			Origin{netip.MustParseAddrPort("10.1.2.3:4000"), "cart.shop.svc.cluster.local"}, ""},
		{"v6", `for="[2001:db8::1]:4000"`, Origin{For: netip.MustParseAddrPort("[2001:db8::1]:4000")}, ""},
		{"v6 without port", `for="[2001:db8::1]"`, Origin{For: netip.MustParseAddrPort("[2001:db8::1]:0")}, ""},
		{"bare address", `for=10.1.2.3`, Origin{For: netip.MustParseAddrPort("10.1.2.3:0")}, `for="10.1.2.3"`},
		{"any case and order", `HOST=a.b:80; For="10.1.2.3:1"`,
			Origin{netip.MustParseAddrPort("10.1.2.3:1"), "a.b"}, `for="10.1.2.3:1";host=a.b`},
		{"first element only", `host=a, host=b`, Origin{Host: "a"}, "host=a"},
		{"unknown node", `for=_hidden;host=a`, Origin{Host: "a"}, "host=a"},
		{"host that is none", `host="a b"`, Origin{}, ""},
		{"open quote", `for="10.1.2.3`, Origin{}, ""},
		{"empty", ``, Origin{}, ""},
	} {
		if got := ParseForwarded(tt.field); got != tt.want {
			t.Errorf("%s: got %+v", tt.name, got)
		}
		if want := tt.built; want != "" || tt.want != (Origin{}) {
			if want == "" {
				want = tt.field
			}
			if got := tt.want.String(); got != want {
				t.Errorf("%s: built %s", tt.name, got)
			}
		}
	}
}

func TestTrace(t *testing.T) {
	const field = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	tr, ok := ParseTrace(field)
	if !ok || tr.String() != field || !tr.Sampled {
		t.Errorf("got %v, %v", tr, ok)
	}
	for _, bad := range []string{
		"", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7", field + "-x",
		"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01",
		"00-4BF92F3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
	} {
		if tr, ok := ParseTrace(bad); ok {
			t.Errorf("%q gave %v", bad, tr)
		}
	}
	if _, ok := ParseTrace("01" + field[2:] + "-more"); !ok {
		t.Error("a later version must be readable")
	}
	fresh := NewTrace(rand.Uint64)
	if child := fresh.Child(rand.Uint64); child.ID != fresh.ID || child.Span == fresh.Span || !child.Valid() {
		t.Errorf("child %v of %v", child, fresh)
	}
}

// FuzzHeaders checks that what was read can be written and read again.
func FuzzHeaders(f *testing.F) {
	f.Add("k8s.namespace.name=shop,service.name=a%2Cb;p=1")
	f.Add(`for="[2001:db8::1]:4000";host=a.b`)
	f.Add(`for="\"";host="x`)
	f.Add("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	f.Fuzz(func(t *testing.T, field string) {
		w := ParseBaggage(field)
		if again := ParseBaggage(w.String()); again != w && len(w.String()) <= maxField {
			t.Errorf("baggage %q: %+v, then %+v", field, w, again)
		}
		o := ParseForwarded(field)
		if again := ParseForwarded(o.String()); again != o {
			t.Errorf("forwarded %q: %+v, then %+v", field, o, again)
		}
		if tr, ok := ParseTrace(field); ok {
			if again, ok := ParseTrace(tr.String()); !ok || again != tr {
				t.Errorf("traceparent %q: %v, then %v", field, tr, again)
			}
		}
	})
}
