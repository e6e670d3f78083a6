package gateway

import (
	"strings"
	"testing"
	"time"
)

const told = `{"gateway": {"namespace": "shop", "name": "waypoint", "mesh": {"clusterDomain": "cluster.local"}, "policies": {"authorization": [{"namespace": "shop", "name": "deny", "action": "DENY"}]}, "newer": 1},
"services": [{"namespace": "shop", "hostname": "a.shop.svc.cluster.local", "ports": [
  {"number": 80, "routed": true, "http": [
    {"origin": {"kind": "VirtualService", "namespace": "shop", "name": "a"}, "matches": [{"path": {"segments": "/x/"}, "headers": [{"name": "end-user", "value": {"exact": "jason"}}]}],
     "forward": {"backends": [{"hostname": "a.shop.svc.cluster.local", "port": 80, "subset": "v1", "weight": 3}, {"hostname": "b.shop.svc.cluster.local", "port": 80, "weight": 1, "broken": "no such service"}]},
     "fault": {"delay": "2s", "delayPerMillion": 500000}, "timeout": "1s"}]},
  {"number": 81}]}]}`

func TestRoutes(t *testing.T) {
	f, err := ReadFacts(strings.NewReader(told))
	if err != nil {
		t.Fatal(err)
	}
	got := f.Routes(nil)
	want := []Route{
		{"a.shop", 80, "/x/* header end-user=jason", "75% a.shop:80/v1, 25% b.shop:80 (refused: no such service), delay 2s of 50%, timeout 1s", "VirtualService shop/a", "DENY shop/deny"},
		{"a.shop", 80, "(else)", "404", "", "DENY shop/deny"},
		{"a.shop", 81, "*", "a.shop", "", "DENY shop/deny"},
	}
	if len(got) != len(want) {
		t.Fatalf("got %+v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("route %d:\n got %+v\nwant %+v", i, got[i], want[i])
		}
	}
	if len(f.Routes(func(s string) bool { return s == "b" })) != 0 {
		t.Error("the filter is not asked")
	}
}

func TestBadAnswers(t *testing.T) {
	for _, text := range []string{"", "no", `{"services": [1]}`, `{"gateway": {"namespace": 3}}`} {
		if _, err := ReadFacts(strings.NewReader(text)); err == nil {
			t.Errorf("facts %q were accepted", text)
		}
	}
	for _, text := range []string{"", "{}", "[]"} {
		if _, err := ReadDump(strings.NewReader(text)); err == nil {
			t.Errorf("config_dump %q was accepted", text)
		}
	}
}

func TestDump(t *testing.T) {
	d, err := ReadDump(strings.NewReader(`{"configs": [
 {"@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump", "static_clusters": [{"cluster": {"name": "main_internal", "type": "STATIC"}}],
  "dynamic_active_clusters": [{"cluster": {"name": "inbound-vip|80|http/v1|a.shop", "type": "EDS"}}, {"cluster": {"name": "outbound|443||x.example"}}]},
 {"@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump", "dynamic_listeners": [{"name": "main_internal", "active_state": {"listener": {"internal_listener": {}}}}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range d.Clusters() {
		got = append(got, strings.Join([]string{c.FQDN, c.Port, c.Subset, c.Direction, c.Type}, " "))
	}
	if want := "a.shop 80 v1 inbound-vip EDS;main_internal    STATIC;x.example 443  outbound "; strings.Join(got, ";") != want {
		t.Errorf("clusters %q", got)
	}
	if l := d.Listeners(); len(l) != 1 || l[0].Address != "internal" {
		t.Errorf("listeners %+v", l)
	}
	if s := d.Secrets(time.Now()); len(s) != 0 {
		t.Errorf("secrets %+v", s)
	}
}
