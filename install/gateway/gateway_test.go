package gateway

import (
	"strings"
	"testing"
	"time"
)

const told = `{"gateway": {"namespace": "shop", "name": "waypoint", "mesh": {"clusterDomain": "cluster.local"}, "policies": {"authorization": [{"namespace": "shop", "name": "deny", "action": "DENY"}, {"namespace": "shop", "name": "try", "action": "ALLOW", "dryRun": true}]}, "newer": 1},
"services": [{"namespace": "shop", "hostname": "a.shop.svc.cluster.local", "ports": [
  {"number": 80, "routed": true, "http": [
    {"origin": {"kind": "VirtualService", "namespace": "shop", "name": "a"}, "matches": [{"path": {"segments": "/x/"}, "headers": [{"name": "end-user", "value": {"exact": "jason"}}]}],
     "forward": {"backends": [{"hostname": "a.shop.svc.cluster.local", "port": 80, "subset": "v1", "weight": 3}, {"hostname": "b.shop.svc.cluster.local", "port": 80, "weight": 1, "broken": "no such service"}]},
     "fault": {"delay": "2s", "delayPerMillion": 500000}, "timeout": "1s"}]},
  {"number": 81},
  {"number": 82, "routed": true, "http": [
    {"matches": [{}], "redirect": {"scheme": "https", "path": "/y", "status": 302}},
    {"broken": "no such thing"},
    {"rewrite": {"authority": "h", "prefix": ""}, "retry": {"attempts": 2}, "forward": {"backends": [{"hostname": "gone", "weight": 1, "broken": "there is none"}]}}]},
  {"number": 83, "routed": true, "stream": [{"sni": ["a.example"], "backends": [{"hostname": "a.shop.svc.cluster.local", "port": 83, "weight": 1}]}]}]}]}`

func TestRoutes(t *testing.T) {
	f, err := ReadFacts(strings.NewReader(told))
	if err != nil {
		t.Fatal(err)
	}
	got := f.Routes(nil)
	want := []Route{
		{"a.shop", 80, "/x/* header end-user=jason", "75% a.shop:80/v1, 25% b.shop:80 (refused: no such service), delay 2s of 50%, timeout 1s", "VirtualService shop/a", "DENY shop/deny, ALLOW shop/try (dry run)"},
		{"a.shop", 80, "(else)", "404", "", "DENY shop/deny, ALLOW shop/try (dry run)"},
		{"a.shop", 81, "*", "a.shop", "", "DENY shop/deny, ALLOW shop/try (dry run)"},
		{"a.shop", 82, "*", "redirect 302 https://…/y", "", "DENY shop/deny, ALLOW shop/try (dry run)"},
		{"a.shop", 82, "*", "refused: no such thing", "", "DENY shop/deny, ALLOW shop/try (dry run)"},
		{"a.shop", 82, "*", "gone (refused: there is none), host h, prefix becomes /, retries 2", "", "DENY shop/deny, ALLOW shop/try (dry run)"},
		{"a.shop", 83, "sni a.example", "a.shop:83", "", "DENY shop/deny, ALLOW shop/try (dry run)"},
		{"a.shop", 83, "(else)", "closed", "", "DENY shop/deny, ALLOW shop/try (dry run)"},
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

func TestProblems(t *testing.T) {
	got, err := ReadProblems(strings.NewReader(`[{"source": "expansion", "objects": ["Telemetry a/b"], "text": "x"}, {"source": "envoy", "type": "Cluster", "resource": "c", "text": "y", "kept": true}]`))
	if err != nil || len(got) != 2 || got[0].Object() != "Telemetry a/b" || got[1].Object() != "Cluster c" || !got[1].Kept {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := ReadProblems(strings.NewReader("no")); err == nil {
		t.Error("what is no list is taken")
	}
}
