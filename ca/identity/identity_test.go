package identity

import (
	"crypto/x509"
	"net/url"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	good := []struct {
		uri  string
		want ID
	}{
		{"spiffe://cluster.local/ns/default/sa/bookinfo-productpage", ID{"cluster.local", "default", "bookinfo-productpage"}},
		{"spiffe://td_1-x/ns/a/sa/b.c", ID{"td_1-x", "a", "b.c"}},
		{"spiffe://td/ns/ns/sa/sa", ID{"td", "ns", "sa"}},
	}
	for _, c := range good {
		got, err := Parse(c.uri)
		if err != nil || got != c.want {
			t.Errorf("Parse(%q) = %+v, %v, want %+v", c.uri, got, err, c.want)
		}
		if got.String() != c.uri || got.URL().String() != c.uri {
			t.Errorf("%q prints as %q and %q", c.uri, got.String(), got.URL())
		}
	}
	bad := []string{
		"", "spiffe://", "cluster.local/ns/a/sa/b", "http://td/ns/a/sa/b", "SPIFFE://td/ns/a/sa/b",
		"spiffe:///ns/a/sa/b", "spiffe://td/ns//sa/b", "spiffe://td/ns/a/sa/", "spiffe://td/ns/a/sa/b/",
		"spiffe://td/ns/a/sa/b/c", "spiffe://td/sa/b/ns/a", "spiffe://td:8080/ns/a/sa/b", "spiffe://u@td/ns/a/sa/b",
		"spiffe://td/ns/a/sa/b?x=y", "spiffe://td/ns/a/sa/b#f", "spiffe://td/ns/a%2fb/sa/c", "spiffe://td/ns/../sa/b",
		"spiffe://td/ns/./sa/b", "spiffe://TD/ns/a/sa/b", "spiffe://td/ns/a b/sa/c", "spiffe://td/ns/ä/sa/c",
		"spiffe://" + strings.Repeat("a", 256) + "/ns/a/sa/b", "spiffe://td/ns/a/sa/" + strings.Repeat("b", 2048),
	}
	for _, uri := range bad {
		if got, err := Parse(uri); err == nil {
			t.Errorf("Parse(%q) = %+v, want an error", uri, got)
		}
	}
}

func TestZero(t *testing.T) {
	var id ID
	if !id.IsZero() || id.String() != "" || id.Principal() != "" || id.Validate() == nil {
		t.Errorf("the zero ID is somebody: %q", id)
	}
	if err := id.UnmarshalText(nil); err != nil || !id.IsZero() {
		t.Errorf("UnmarshalText of nothing: %v", err)
	}
}

func TestFromCertificate(t *testing.T) {
	uri := func(s string) *url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	one, two := uri("spiffe://td/ns/a/sa/b"), uri("spiffe://td/ns/a/sa/c")
	if id, err := FromCertificate(&x509.Certificate{URIs: []*url.URL{one}}); err != nil || id.ServiceAccount != "b" {
		t.Errorf("one name: %v, %v", id, err)
	}
	for name, cert := range map[string]*x509.Certificate{
		"none":          {DNSNames: []string{"x"}},
		"two":           {URIs: []*url.URL{one, two}},
		"foreign":       {URIs: []*url.URL{uri("https://td/ns/a/sa/b")}},
		"escaped slash": {URIs: []*url.URL{uri("spiffe://td/ns/a%2Fb/sa/c")}},
	} {
		if id, err := FromCertificate(cert); err == nil {
			t.Errorf("%s: got %v, want an error", name, id)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"spiffe://td/ns/a/sa/b", "spiffe://td/ns/a/sa/b/", "spiffe://t%d/ns/a/sa/b", "spiffe://@/ns/\x00/sa/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := Parse(s)
		if err != nil {
			return
		}
		if id.String() != s {
			t.Fatalf("%q parses and prints as %q", s, id)
		}
		u, err := url.Parse(s)
		if err != nil || u.String() != s || u.Host != id.TrustDomain || u.RawQuery != "" || u.User != nil {
			t.Fatalf("%q means something else to net/url: %v, %v", s, u, err)
		}
	})
}
