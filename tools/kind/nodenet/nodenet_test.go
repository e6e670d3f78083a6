package nodenet

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func node(t *testing.T, name, cidrs, addresses string) Node {
	t.Helper()
	var n Node
	text := fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"podCIDRs":[%s]},"status":{"addresses":[%s]}}`, name, cidrs, addresses)
	if err := json.Unmarshal([]byte(text), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestDecide(t *testing.T) {
	const host = `{"type":"Hostname","address":"10.9.9.9"},`
	nodes := []Node{
		node(t, "a", `"10.244.0.0/24","fd00:10:244::/64"`, `{"type":"InternalIP","address":"172.18.0.2"},{"type":"InternalIP","address":"fc00::2"}`),
		node(t, "b", `"10.244.1.0/24","fd00:10:244:1::/64"`, host+`{"type":"InternalIP","address":"172.18.0.3"},{"type":"InternalIP","address":"fc00::3"}`),
		node(t, "only v4 so far", `"10.244.2.0/24","fd00:10:244:2::/64"`, `{"type":"InternalIP","address":"172.18.0.4"}`),
		node(t, "no range yet", ``, `{"type":"InternalIP","address":"172.18.0.5"}`),
	}
	got := Decide("a", nodes)
	want := Plan{
		Ranges: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24"), netip.MustParsePrefix("fd00:10:244::/64")},
		Routes: []Route{
			{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParseAddr("172.18.0.3")},
			{netip.MustParsePrefix("10.244.2.0/24"), netip.MustParseAddr("172.18.0.4")},
			{netip.MustParsePrefix("fd00:10:244:1::/64"), netip.MustParseAddr("fc00::3")},
		},
	}
	if !slices.Equal(got.Ranges, want.Ranges) || !slices.Equal(got.Routes, want.Routes) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestConflist(t *testing.T) {
	text, err := Conflist([]netip.Prefix{netip.MustParsePrefix("10.244.0.0/24"), netip.MustParsePrefix("fd00::/64")})
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Plugins []struct {
			Type string
			IPAM struct {
				Ranges [][]struct{ Subnet string }
				Routes []struct{ Dst string }
			}
		}
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	ptp := doc.Plugins[0]
	if ptp.Type != "ptp" || len(ptp.IPAM.Ranges) != 2 || ptp.IPAM.Ranges[1][0].Subnet != "fd00::/64" || ptp.IPAM.Routes[0].Dst != "0.0.0.0/0" || ptp.IPAM.Routes[1].Dst != "::/0" {
		t.Errorf("not as the plugins want it:\n%s", text)
	}
}

// TestConfigureOnce: what others chained themselves to is theirs too.
func TestConfigureOnce(t *testing.T) {
	a := &Agent{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	path := filepath.Join(a.Dir, "10-nodenet.conflist")
	if err := a.configure(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Fatal("written before the node has a range")
	}
	ranges := []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24")}
	if err := a.configure(ranges); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("chained"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := a.configure(ranges); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "chained" {
		t.Errorf("overwritten: %s", got)
	}
}

func TestListAndWatch(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Authorization") != "Bearer t0ken":
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Query().Get("watch") == "":
			fmt.Fprint(w, `{"metadata":{"resourceVersion":"7"},"items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"}}]}`)
		case r.URL.Query().Get("resourceVersion") != "7":
			w.WriteHeader(http.StatusGone)
		default:
			fmt.Fprint(w, `{"type":"DELETED","object":{"metadata":{"name":"a"}}}`+"\n"+
				`{"type":"ADDED","object":{"metadata":{"name":"c"},"spec":{"podCIDRs":["10.0.0.0/24"]}}}`+"\n"+`{"type":"ERROR","object":{"code":410}}`+"\n")
		}
	}))
	defer server.Close()
	a := &api{base: server.URL, http: server.Client(), dir: t.TempDir()}
	if err := os.WriteFile(filepath.Join(a.dir, "token"), []byte("t0ken\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	nodes, version, err := a.list(t.Context())
	if err != nil || version != "7" || len(nodes) != 2 {
		t.Fatalf("list: %v %q %v", nodes, version, err)
	}
	changes := 0
	err = a.watch(context.Background(), nodes, version, func() { changes++ })
	if err == nil || !strings.Contains(err.Error(), "410") {
		t.Errorf("the API server's error is lost: %v", err)
	}
	if _, gone := nodes["a"]; gone || changes != 2 || len(nodes["c"].Spec.PodCIDRs) != 1 {
		t.Errorf("after %d changes: %v", changes, nodes)
	}
}
