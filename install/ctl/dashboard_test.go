package ctl

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/install/admin"
	"github.com/ambit-mesh/ambit/install/cluster"
	"github.com/ambit-mesh/ambit/install/picture"
)

// TestDraw makes a picture of a mesh with a replica that does not answer, and a waypoint that is not ready.
func TestDraw(t *testing.T) {
	dir := t.TempDir()
	config, err := os.ReadFile(filepath.Join("testdata", "config_dump.json"))
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string, a answers) admin.Endpoint {
		serve(t, filepath.Join(dir, name), a)
		return admin.Endpoint{What: name, Address: "unix:" + filepath.Join(dir, name)}
	}
	m := &fakeMesh{
		Cluster: &fakeCluster{objects: []cluster.Object{
			{"kind": "Gateway", "metadata": map[string]any{"name": "wp", "namespace": "shop"}, "spec": map[string]any{"gatewayClassName": "istio-waypoint"}},
		}},
		parts: map[cluster.Kind][]cluster.Part{
			cluster.Control: {
				{Kind: cluster.Control, Namespace: "ambit-system", Pod: "ambitd-1", Ready: true, Endpoint: at("control", answers{
					"/version": `{"version":"1.2.3"}`, "/debug/clients": `[{"nodeId":"ztunnel~1~zt-1.ambit-system~x","version":"1.2.4","types":[{"sentVersion":"2","ackedVersion":"1","nack":"no"}]}]`,
					"/debug/refusals": `{"entries":[{"severity":"refused","code":"AMB100","kind":"Gateway","namespace":"shop","name":"wp","problem":"no","fix":"yes"}]}`,
				})},
				{Kind: cluster.Control, Namespace: "ambit-system", Pod: "ambitd-2", Endpoint: admin.Endpoint{What: "the other control plane", Address: "unix:" + dir + "/gone"}},
			},
			cluster.NodeProxy: {
				{Kind: cluster.NodeProxy, Namespace: "ambit-system", Pod: "zt-1", Node: "n1", Ready: true, Endpoint: at("zt", answers{"/config_dump": string(config), "/metrics": ""})},
				{Kind: cluster.NodeProxy, Namespace: "ambit-system", Pod: "zt-2", Node: "n2", Ready: true, Endpoint: at("zt2", answers{"/config_dump": string(config), "/metrics": ""})},
			},
			cluster.Agent: {{Kind: cluster.Agent, Namespace: "ambit-system", Pod: "cni-1", Node: "n1", Ready: true, Endpoint: at("agent", answers{
				"/status": `{"Version":"1.2.5"}`, "/pods": `[{"pod":"shop/web","enrolled":true,"captured":true,"takenByProxy":true,"reason":"label"}]`})}},
		},
	}
	d := &drawer{app: &app{env: Env{Now: time.Now}}, mesh: m}
	p := d.draw(t.Context())
	part := func(name string) picture.Part {
		i := slices.IndexFunc(p.Parts, func(x picture.Part) bool { return x.Name == name })
		if i < 0 {
			t.Fatalf("no part %s: %+v", name, p.Parts)
		}
		return p.Parts[i]
	}
	if x := part("ambitd-1"); x.Version != "1.2.3" || !x.Ready {
		t.Errorf("%+v", x)
	}
	if one, two := part("zt-1"), part("zt-2"); one.Sync != "NACKED" || two.Sync != "not connected" || one.Version == "" {
		t.Errorf("%+v %+v", one, two)
	}
	if x := part("cni-1"); x.Version != "1.2.5" {
		t.Errorf("%+v", x)
	}
	if len(p.Waypoints) != 1 || p.Waypoints[0].Programmed || p.Waypoints[0].Reason == "" || p.Waypoints[0].Traffic != "service" {
		t.Errorf("%+v", p.Waypoints)
	}
	if len(p.Refused) != 1 || p.Refused[0].Object != "Gateway shop/wp" || p.Refused[0].Fix != "yes" {
		t.Errorf("%+v", p.Refused)
	}
	if len(p.Missing) != 1 || !strings.Contains(p.Missing[0], "the other control plane") || len(p.Services) == 0 || len(p.Pods) != 1 || p.Pods[0].State != "in" || len(p.Certificates) == 0 {
		t.Errorf("missing %v, %d services, pods %v, %d certificates", p.Missing, len(p.Services), p.Pods, len(p.Certificates))
	}
}

// TestForwardedPages lets people look, and nobody else.
func TestForwardedPages(t *testing.T) {
	dir := t.TempDir()
	serve(t, filepath.Join(dir, "s"), answers{"/": "the page", "/quit": "gone"})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- forward(ctx, l, admin.Endpoint{Address: "unix:" + filepath.Join(dir, "s")}.Connect, true)
	}()
	defer func() {
		stop()
		if err := <-done; err != nil && !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	for what, c := range map[string]struct {
		method, path, host, origin string
		code                       int
	}{
		"look":           {"GET", "/", "", "", 200},
		"change":         {"POST", "/quit", "", "", 405},
		"foreign name":   {"GET", "/", "evil.example", "", 421},
		"foreign change": {"POST", "/quit", "", "http://evil.example", 403},
		"not there":      {"GET", "/none", "", "", 404},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, "http://"+l.Addr().String()+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.host != "" {
			req.Host = c.host
		}
		if c.origin != "" {
			req.Header.Set("Origin", c.origin)
		}
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != c.code {
			t.Errorf("%s: %s %s", what, resp.Status, text)
		}
	}
	for args, want := range map[string]string{"dashboard --address 0.0.0.0:80": "a loopback address", "dashboard --every 1ms": "at least 1s", "dashboard grafana": "it is found in clusters only"} {
		if r := run(t, strings.Fields(args), func(e *Env) { e.Mesh = &fakeMesh{} }); r.code == exitOK || !strings.Contains(r.err, want) {
			t.Errorf("%s: %d %s", args, r.code, r.err)
		}
	}
}
