package dump

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	d, err := Parse(strings.NewReader(`{"workloads":{"u2":{"uid":"u2","name":"b","new":1},"u1":{"uid":"u1","name":"a","workloadIps":["1.2.3.4"]}},
		"services":[{"name":"s","namespace":"n","hostname":"s.n.svc","vips":["net/10.0.0.1"]}],"policies":null,"version":{"version":"v"}}`))
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Workloads) != 2 || d.Workloads[0].Value.Name != "a" || d.Version.Version != "v" {
		t.Errorf("%+v", d)
	}
	text, err := json.Marshal(d.Workloads[1])
	if err != nil || !strings.Contains(string(text), `"new":1`) {
		t.Errorf("lost a field: %s, %v", text, err)
	}
	n := d.Names()
	for in, want := range map[string]string{"1.2.3.4:80": "a.:80", "10.0.0.1:80": "s.n:80", "9.9.9.9:80": "9.9.9.9:80", "odd": "odd", "": ""} {
		if got := n.Socket(in); got != want {
			t.Errorf("Socket(%q) = %q, want %q", in, got, want)
		}
	}
	for _, c := range []struct {
		g    *Gateway
		want string
	}{{nil, "None"}, {&Gateway{}, "None"}, {&Gateway{Destination: "n/s.n.svc"}, "s"}, {&Gateway{Destination: "net/10.0.0.1"}, "s"}, {&Gateway{Destination: "/8.8.8.8"}, "8.8.8.8"}} {
		if got := n.Gateway(c.g); got != c.want {
			t.Errorf("Gateway(%v) = %q, want %q", c.g, got, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`{"workloads":[],"services":{},"policies":[null],"certificates":[{}],"workloadState":{"a":{}}}`)
	f.Add(`{"workloads":{"a":{"waypoint":{"destination":"/"}}}}`)
	f.Fuzz(func(t *testing.T, text string) {
		d, err := Parse(strings.NewReader(text))
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("%v is not ErrFormat", err)
			}
			return
		}
		d.Names()
		d.Unhealthy()
	})
}
