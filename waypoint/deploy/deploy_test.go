package deploy

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

func object(t *testing.T, text string) Object {
	t.Helper()
	var o Object
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	return o
}

func waypoint() Gateway {
	return Gateway{
		Namespace: "bookinfo", Name: "waypoint", UID: "7f1c", Class: "istio-waypoint",
		Listeners: []Listener{{"mesh", "HBONE", 15008}},
	}
}

func TestRenderGolden(t *testing.T) {
	edge := Gateway{
		Namespace: "edge", Name: "public", UID: "90aa", Class: "istio",
		InfrastructureLabels: map[string]string{"team": "net"}, InfrastructureAnnotations: map[string]string{"example.com/tier": "one"},
		Listeners: []Listener{
			{"http", "HTTP", 80}, {"shop", "HTTPS", 443}, {"blog", "HTTPS", 443}, {"db.legacy", "TCP", 5432},
		},
		Addresses: []string{"192.0.2.7"},
	}
	named := waypoint()
	named.Annotations = map[string]string{"gateway.istio.io/name-override": "l7", "gateway.istio.io/service-account": "sleeper"}
	grown := Config{
		Network: "north", Revision: "canary", Autoscaling: &Autoscaling{Min: 2, Max: 9}, Budget: true,
		PullPolicy: "Always", PullSecrets: []string{"one", "two"}, LogLevel: "debug", LogJSON: true,
		XDSAddress: "https://control.example:15012", CAAddress: "https://ca.example:443",
	}
	overlay := Overlay{Source: "ConfigMap ambit-system/big", Documents: map[string]Object{
		keyDeployment: object(t, `{"spec": {"replicas": 3, "template": {"spec": {
			"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["ambitd"]}],
			"volumes": [{"name": "istio-data", "$patch": "delete"}, {"name": "extra", "emptyDir": {}}],
			"containers": [{"name": "istio-proxy",
				"env": [{"name": "CA_ADDR", "value": "ca:1"}, {"name": "EXTRA", "value": "yes"}],
				"ports": [{"containerPort": 15090, "name": "prom"}],
				"resources": {"limits": {"cpu": null}}}]}}}}`),
		keyService: object(t, `{"spec": {"ports": [{"port": 15021, "$patch": "delete"}], "ipFamilyPolicy": "SingleStack"}}`),
		keyBudget:  object(t, `{"spec": {"minAvailable": 2}}`),
	}}
	for name, c := range map[string]struct {
		g        Gateway
		overlays []Overlay
		c        Config
	}{
		"waypoint": {waypoint(), nil, Config{}},
		"ingress":  {edge, nil, Config{}},
		"named":    {named, nil, grown},
		"overlaid": {waypoint(), []Overlay{overlay}, Config{}},
	} {
		t.Run(name, func(t *testing.T) {
			docs, err := Render(c.g, c.overlays, c.c)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(docs, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			file := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Error(cmp.Diff(string(want), string(got)))
			}
		})
	}
}

// TestRenderRefuses asks for what cannot be, and wants to be told what and how to mend it.
func TestRenderRefuses(t *testing.T) {
	long := waypoint()
	long.Name = strings.Repeat("a", 64)
	other := waypoint()
	other.Class = "nginx"
	with := func(key, text string) []Overlay {
		return []Overlay{{Source: "ConfigMap x/y", Documents: map[string]Object{key: object(t, text)}}}
	}
	deep := strings.Repeat(`{"a":`, 80) + "1" + strings.Repeat("}", 80)
	for want, c := range map[string]struct {
		g Gateway
		o []Overlay
	}{
		"at most 63 letters":   {long, nil},
		`class "nginx"`:        {other, nil},
		`there is no "pod"`:    {waypoint(), with("pod", `{}`)},
		"renames the service":  {waypoint(), with(keyService, `{"metadata": {"name": "x"}}`)},
		"changes label":        {waypoint(), with(keyService, `{"metadata": {"labels": {"gateway.networking.k8s.io/gateway-name": "x"}}}`)},
		"mapping belongs":      {waypoint(), with(keyDeployment, `{"spec": 1}`)},
		"apiVersion v1":        {waypoint(), with(keyDeployment, `{"apiVersion": "v1"}`)},
		"kind ConfigMap":       {waypoint(), with(keyService, `{"kind": "ConfigMap"}`)},
		"has no name":          {waypoint(), with(keyDeployment, `{"spec": {"template": {"spec": {"containers": [{"image": "x"}]}}}}`)},
		"none of merge":        {waypoint(), with(keyDeployment, `{"spec": {"$patch": "shred"}}`)},
		"levels deep":          {waypoint(), with(keyDeployment, deep)},
		"ConfigMap x/y: servi": {waypoint(), with(keyService, `{"spec": 1}`)},
	} {
		_, err := Render(c.g, c.o, Config{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// TestRenderLeavesInputs renders twice from the same overlay: documents are values, not shared scratch space.
func TestRenderLeavesInputs(t *testing.T) {
	patch := object(t, `{"spec": {"template": {"spec": {"containers": [{"name": "istio-proxy", "env": [{"name": "A", "value": "1"}]}]}}}}`)
	before, _ := json.Marshal(patch)
	overlays := []Overlay{{Documents: map[string]Object{keyDeployment: patch}}}
	first, err := Render(waypoint(), overlays, Config{})
	if err != nil {
		t.Fatal(err)
	}
	second, err := Render(waypoint(), overlays, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if after, _ := json.Marshal(patch); !bytes.Equal(before, after) {
		t.Errorf("the overlay was changed to %s", after)
	}
	if d := cmp.Diff(first, second); d != "" {
		t.Error(d)
	}
}

func FuzzMerge(f *testing.F) {
	f.Add([]byte(`{"a": [1]}`), []byte(`{"a": null, "containers": [{"name": "x", "$patch": "delete"}]}`))
	f.Add([]byte(`{"ports": [{"port": 1}]}`), []byte(`{"ports": [{"port": 1.0, "$patch": "replace"}]}`))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		var doc, patch Object
		if json.Unmarshal(a, &doc) != nil || json.Unmarshal(b, &patch) != nil {
			return
		}
		one, err1 := merge(doc, patch)
		two, err2 := merge(doc, patch)
		if (err1 == nil) != (err2 == nil) || err1 == nil && !cmp.Equal(one, two) {
			t.Errorf("merging twice differs: %v %v", one, two)
		}
	})
}
