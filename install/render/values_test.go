package render

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/install/charts"
)

// TestGolden shows what the profiles come to, and the nodes' parts on a platform that is unlike others. Definitions are left out:
// they are generated.
func TestGolden(t *testing.T) {
	for name, v := range map[string]*Values{"openshift": values(t, DefaultProfile)} {
		v.SetPlatform(name)
		v.Disable(charts.Control)
		shown(t, name, v)
	}
	for _, profile := range Profiles() {
		shown(t, profile, values(t, profile))
	}
}

func shown(t *testing.T, name string, v *Values) {
	t.Helper()
	v.Disable(charts.Base)
	components, err := Render(v, Options{Version: "v1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	var all []Object
	for _, c := range components {
		all = append(all, c.Objects...)
	}
	text, err := YAML(append([]Object{Namespace(v, "ambit-system")}, all...))
	if err != nil {
		t.Fatal(err)
	}
	compare(t, filepath.Join("testdata", name+".yaml"), text)
}

func TestValuesRefused(t *testing.T) {
	for _, c := range []struct{ file, set, want string }{
		{set: "control.replicaCout=3", want: "there is no value control.replicaCout; did you mean control.replicaCount?"},
		{set: "control.replicaCount=many", want: `control.replicaCount is "many", which is no integer`},
		{set: "control.replicaCount=1.5", want: "which is no integer"},
		{set: "global.meshID=x", want: "there is no value global.meshID: it is nothing, because a mesh is known by its trust domain, here"},
		{set: "gateway.gatewayClassName=istio-east-west", want: `gateway.gatewayClassName is "istio-east-west": use istio, istio-waypoint`},
		{set: "cni.chained=maybe", want: `cni.chained is "maybe": write it like auto`},
		{file: "cni: {chained: false, cniConfFileName: 10-a.conflist}", want: `cni.cniConfFileName is "10-a.conflist", and cni.chained is false`},
		{set: "cni.redirection=nft", want: `cni.redirection is "nft": use auto, nftables, iptables, ebpf`},
		{set: "pilot.replicaCount=2", want: "there is no value pilot: it is control here"},
		{set: "global.nativeNftables=true", want: "it is cni.redirection=nftables here"},
		{set: "ztunel.image=x", want: "did you mean ztunnel?"},
		{set: "nonsense=x", want: "there is, at the top: base, cni, control"},
		{set: "control.replicaCount=0", want: "control.replicaCount is 0: write 1 or more"},
		{set: "ztunnel.terminationGracePeriodSeconds=-5", want: "is -5: write 0 or more"},
		{set: "control.rollingMaxSurge=lots", want: `control.rollingMaxSurge is "lots": write it like 25%`},
		{set: "global.trustDomain=a b/c", want: `global.trustDomain is "a b/c": write it like cluster.local`},
		{set: "global.xdsAddress=foo", want: "write it like https://ambitd.ambit-system.svc:15012"},
		{set: "global.hub=a b", want: "write it like registry.example/ambit"},
		{set: "control.resources=1", want: "control.resources is 1, which is no object"},
		{set: "global", want: "write KEY=VALUE"},
		{set: "a..b=1", want: "an empty key between two dots"},
		{set: "control.gatewayNamespaces=edge", want: "which is no array: write it like [a, b], or {a,b} behind --set"},
		{set: "control.gatewayNamespaces={Edge_X}", want: `control.gatewayNamespaces has "Edge_X", which is no namespace`},
		{set: "control.revisions=[]", want: "control.revisions is empty: write the control plane's own revision"},
		{set: "control.revisions={a b}", want: `control.revisions has "a b", which cannot be the value of a label`},
		{set: "control.waypoints.autoscaling.minReplicas=3", want: "write control.waypoints.autoscaling.maxReplicas, too"},
		{file: "control: {waypoints: {autoscaling: {minReplicas: 3, maxReplicas: 2}}}", want: "minReplicas is 3, more than control.waypoints.autoscaling.maxReplicas, which is 2"},
		{set: "control.waypoints.autoscaling.cpu=0", want: "control.waypoints.autoscaling.cpu is 0: write 1 or more"},
		{set: "control.serviceEntryVisibility=own", want: `control.serviceEntryVisibility is "own"`},
		{set: "global.hub=", want: "global.hub is empty: write it like registry.example/ambit"},
		{set: "ztunnel.env.FOO.bar=1", want: "ztunnel.env.FOO is"},
		{set: "ztunnel.resources.requets.cpu=1", want: "there is no value ztunnel.resources.requets: there is claims, limits, requests"},
		{set: "ztunnel.resources.requests.cpu=abc", want: `ztunnel.resources.requests.cpu is "abc", which is no quantity: write it like 100m`},
		{set: "control.gatewayClasses.istio-waypoint.foo=bar", want: "there is no value control.gatewayClasses.istio-waypoint.foo: there is deployment,"},
		{set: "control.gatewayClasses.istio-waypoint.service=bar", want: "write a mapping"},
		{file: "control: {env: {A: [null]}}", want: "control.env.A is a list"},
		{file: "ztunnel: {resources: {limits: {cpu: {a: null}}}}", want: "ztunnel.resources.limits.cpu is a mapping, which is no quantity"},
		{file: "control: {gatewayNamespaces: [null]}", want: "control.gatewayNamespaces has null, which is no namespace"},
		{set: "control.replicaCount=null", want: "control.replicaCount has no value: leave it out"},
		{file: "- a\n- b\n", want: "values.yaml: it is"},
		{set: "control.tolerations=[a", want: "is no YAML"},
		{file: "control: {replicaCount: null}", want: "control.replicaCount has no value"},
		{file: "control: {a: 1, a: 2}", want: `already set in map`},
		{file: "ztunnel: {image: 5}", want: "ztunnel.image is 5, which is no string"},
		{file: "profile: none", want: `there is no profile "none": use ambient, demo, minimal`},
	} {
		s := Source{Name: "values.yaml", File: []byte(c.file), Set: c.set}
		_, err := NewValues("", s)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "<nil>") {
			t.Errorf("%s%s:\n got %v\nwant %s", c.file, c.set, err, c.want)
		}
	}
	// Of several files the one is named that is wrong.
	_, several := NewValues("", Source{Name: "a.yaml", File: []byte("control: {replicaCount: 2}")}, Source{Name: "b.yaml", File: []byte("profile: demo\ncni: {redirection: nft}")}, Source{Name: "--set", Set: "global.hub=a b"})
	if several == nil || !strings.Contains(several.Error(), "b.yaml: cni.redirection is") || strings.Contains(several.Error(), "a.yaml") || !strings.Contains(several.Error(), "\nglobal.hub is") {
		t.Errorf("got %v", several)
	}
	// All that is wrong is told at once.
	_, err := NewValues("", Source{File: []byte("control: {x: 1}\ncni: {y: 1}")})
	if err == nil || strings.Count(err.Error(), "there is no value") != 2 {
		t.Errorf("got %v", err)
	}
}

func TestValuesOrder(t *testing.T) {
	v, err := NewValues("", Source{File: []byte("profile: minimal\ncontrol: {replicaCount: 4, nodeSelector: {a: b}}")}, Source{Set: "control.replicaCount=5"})
	if err != nil {
		t.Fatal(err)
	}
	control := v.Chart(charts.Control)
	if v.Profile != "minimal" || control["replicaCount"] != float64(5) || Text(control, "nodeSelector", "a") != "b" || Text(control, "resources", "requests", "cpu") != "10m" {
		t.Errorf("got %v", control)
	}
	// What was given comes to the same when it is given again.
	data, err := yaml.Marshal(v.Given())
	if err != nil {
		t.Fatal(err)
	}
	again, err := NewValues(v.Profile, Source{File: data})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(v.tree, again.tree); diff != "" {
		t.Error(diff)
	}
}

func TestSet(t *testing.T) {
	for set, want := range map[string]string{
		"control.replicaCount=3":                       `{"control":{"replicaCount":3}}`,
		"global.tag=1.31":                              `{"global":{"tag":"1.31"}}`,
		"global.tag=2026":                              `{"global":{"tag":"2026"}}`,
		"cni.excludeNamespaces={a,b}":                  `{"cni":{"excludeNamespaces":["a","b"]}}`,
		"cni.excludeNamespaces=[a, b]":                 `{"cni":{"excludeNamespaces":["a","b"]}}`,
		`control.podAnnotations.example\.org/a=true`:   `{"control":{"podAnnotations":{"example.org/a":true}}}`,
		"control.autoscaleEnabled=true":                `{"control":{"autoscaleEnabled":true}}`,
		"ztunnel.logLevel=info,access=debug":           `{"ztunnel":{"logLevel":"info,access=debug"}}`,
		"control.resources={requests: {cpu: 2}}":       `{"control":{"resources":{"requests":{"cpu":2}}}}`,
		"control.resources.requests.memory=128Mi":      `{"control":{"resources":{"requests":{"memory":"128Mi"}}}}`,
		"ztunnel.resources.limits=null":                `{"ztunnel":{"resources":{"limits":null}}}`,
		"control.podDisruptionBudget.minAvailable=50%": `{"control":{"podDisruptionBudget":{"minAvailable":"50%"}}}`,
	} {
		got, err := parseSet(set)
		if err != nil {
			t.Errorf("%s: %v", set, err)
			continue
		}
		text, err := json.Marshal(got)
		if err != nil || string(text) != want {
			t.Errorf("%s: got %s, want %s (%v)", set, text, want, err)
		}
	}
}

// TestSetLists renders a list, in each of the ways to write one, into what the agent reads.
func TestSetLists(t *testing.T) {
	for _, set := range []string{"cni.excludeNamespaces={kube-system,legacy}", "cni.excludeNamespaces=[kube-system, legacy]"} {
		components, err := Render(values(t, "", set), Options{Version: "v1"})
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(components)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), `{"name":"EXCLUDE_NAMESPACES","value":"kube-system,legacy"}`) {
			t.Errorf("%s: the agent does not get the list", set)
		}
	}
}

// TestNoClusterAdmin: nothing that is installed may do everything, and only the control plane reads Secrets.
func TestNoClusterAdmin(t *testing.T) {
	components, err := Render(values(t, "", "base.enableIstioConfigCRDs=false"), Options{Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	roles := 0
	for _, c := range components {
		for _, o := range c.Objects {
			if kind := Text(o, "kind"); kind != "ClusterRole" && kind != "Role" {
				continue
			}
			roles++
			rules, _ := o["rules"].([]any)
			for _, r := range rules {
				text, err := json.Marshal(r)
				if err != nil {
					t.Fatal(err)
				}
				rule := string(text)
				if strings.Contains(rule, `"verbs":["*"]`) || strings.Contains(rule, `"apiGroups":["*"]`) || strings.Contains(rule, "escalate") || strings.Contains(rule, "impersonate") {
					t.Errorf("%s %s may do %s", c.Name, Text(o, "metadata", "name"), rule)
				}
				if strings.Contains(rule, `"secrets"`) && c.Name != charts.Control {
					t.Errorf("%s reads Secrets: %s", c.Name, rule)
				}
			}
		}
	}
	if roles < 5 {
		t.Errorf("only %d roles were looked at", roles)
	}
}

func FuzzSet(f *testing.F) {
	for _, s := range []string{"a=1", "a.b={c,d}", `a\.b=[1]`, "control.replicaCount=-1", "x={{"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if m, err := parseSet(s); err == nil && len(m) != 1 {
			t.Errorf("%q: %v", s, m)
		}
	})
}

// TestJudged: what is unusual and right is let through, and a namespace that cannot be is not.
func TestJudged(t *testing.T) {
	for _, set := range []string{
		"ztunnel.resources.requests.memory=128000000", "ztunnel.resources.limits={cpu: 1.5, memory: 1Gi}", "cni.env={A: 1, B: true, C: text}",
		"control.gatewayClasses={istio: {}, istio-waypoint: {service: {spec: {type: ClusterIP}}}}", "control.gatewayNamespaces={edge,mesh-2}",
	} {
		if _, err := NewValues("", Source{Set: set}); err != nil {
			t.Errorf("%s: %v", set, err)
		}
	}
	// Images that say where they come from need no hub.
	own := []string{"control.image=r.example/a:1", "control.gatewayImage=r.example/b:1", "cni.hub=r.example", "ztunnel.image=r.example/z:1", "global.hub="}
	var sources []Source
	for _, set := range own {
		sources = append(sources, Source{Set: set})
	}
	if _, err := NewValues("", sources...); err != nil {
		t.Error(err)
	}
	v := values(t, "")
	if _, err := Render(v, Options{Namespace: "Bad_NS"}); err == nil || !strings.Contains(err.Error(), `"Bad_NS" is no name for a namespace`) {
		t.Errorf("got %v", err)
	}
}

// TestRetired: a mesh that was installed with a value that means nothing is upgraded all the same, without it.
func TestRetired(t *testing.T) {
	v, err := NewValues("", Installed("global: {meshID: x, trustDomain: td}"))
	if err != nil {
		t.Fatal(err)
	}
	if v.Says("global", "meshID") || v.Text("global", "trustDomain") != "td" {
		t.Errorf("%v", v.Given())
	}
	if _, err := NewValues("", Installed("control: {replicaCount: 3}")); err != nil {
		t.Error(err)
	}
}
