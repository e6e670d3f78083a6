package ctl

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/api/labfile"
	"github.com/ambit-mesh/ambit/install/cluster"
)

// meshOf is a lab whose proxies answer what explain asks of them as they are told; a pod of it each on node1 and node2.
func meshOf(t *testing.T, outbound, inbound, waypoint string) func(*Env) {
	t.Helper()
	labRoot(t)
	dir := labfile.Dir("e")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	lab := &labfile.Lab{Name: "e", Dir: dir}
	for _, n := range []string{"node1", "node2"} {
		lab.Nodes = append(lab.Nodes, labfile.Node{Name: n, ZtunnelAdmin: filepath.Join(dir, n)})
	}
	if err := labfile.Write(lab); err != nil {
		t.Fatal(err)
	}
	say := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }
	}
	for _, n := range lab.Nodes {
		mux := http.NewServeMux()
		mux.HandleFunc("GET /explain/outbound", say(outbound))
		if inbound != "" {
			mux.HandleFunc("GET /explain/inbound", say(inbound))
		}
		serve(t, n.ZtunnelAdmin, mux)
	}
	if waypoint != "" {
		mux := http.NewServeMux()
		mux.HandleFunc("GET /explain", say(waypoint))
		for _, uid := range []string{"w", "e"} {
			if err := os.MkdirAll(filepath.Dir(lab.GatewayAdmin(uid)), 0o755); err != nil {
				t.Fatal(err)
			}
			serve(t, lab.GatewayAdmin(uid), mux)
		}
	}
	pod := func(name, node string, labels map[string]any) cluster.Object {
		made := map[string]any{"kind": "ReplicaSet", "name": name[:strings.LastIndex("-"+name, "-")] + "abc", "controller": true}
		return cluster.Object{"kind": "Pod", "metadata": map[string]any{"name": name, "namespace": "shop", "uid": name[:1], "labels": labels, "ownerReferences": []any{made}},
			"spec": map[string]any{"nodeName": node}, "status": map[string]any{"podIP": "10.0.0.9"}}
	}
	gateway := func(class string) map[string]any {
		return map[string]any{"gateway.networking.k8s.io/gateway-name": class, "gateway.networking.k8s.io/gateway-class-name": class}
	}
	objects := &fakeCluster{objects: []cluster.Object{
		pod("client", "node1", nil), pod("web-1", "node2", nil), pod("waypoint-1", "node2", gateway("istio-waypoint")), pod("edge-1", "node2", gateway("istio")),
	}}
	return func(e *Env) { e.Cluster = objects }
}

const (
	viaWaypoint = `{"captured":true,"identity":"spiffe://cluster.local/ns/shop/sa/client","dst":"10.96.0.1:80","address":"10.0.0.1","kind":"hbone",
		"service":"shop/web.shop.svc.cluster.local","waypoint":"shop/waypoint","hops":[{"namespace":"shop","name":"waypoint-1","node":"node2","address":"10.0.0.5:15008"}]}`
	direct = `{"captured":true,"identity":"spiffe://cluster.local/ns/shop/sa/client","dst":"10.96.0.1:80","kind":"hbone","service":"shop/web.shop.svc.cluster.local",
		"hops":[{"namespace":"shop","name":"web-1","node":"node2","address":"10.0.0.2:15008","port":8080}]}`
	letsIn  = `{"captured":true,"allow":true,"policy":"shop/ok"}`
	refuses = `{"captured":true,"error":"allow policies exist, but none allowed","reason":"policy-not-allowed","asked":["shop/a","shop/b"]}`
	toWeb   = `"backends":[{"namespace":"shop","hostname":"web.shop.svc.cluster.local","port":80,"percent":100,"endpoints":[{"workload":"shop/web-1","address":"10.0.0.2","healthy":true}]}]`
)

func TestExplain(t *testing.T) {
	for name, tc := range map[string]struct {
		outbound, inbound, waypoint string
		code                        int
		last                        string
	}{
		"direct":           {direct, letsIn, "", exitOK, "The mesh lets it through."},
		"refused":          {direct, refuses, "", exitIssues, "The mesh closes the connection (policy-not-allowed), because of AuthorizationPolicy shop/a, AuthorizationPolicy shop/b."},
		"passed by":        {`{"captured":true,"dst":"192.0.2.1:80","kind":"passthrough"}`, "", "", exitOK, "The mesh lets it through."},
		"no endpoint":      {`{"captured":true,"reason":"no-healthy-upstream","error":"no healthy upstream"}`, "", "", exitIssues, "The mesh closes the connection (no-healthy-upstream)."},
		"unredirected":     {strings.Replace(strings.Replace(direct, `"captured":true`, `"captured":false`, 1), "hbone", "plain", 1), refuses, "", exitIssues, "The mesh closes the connection (policy-not-allowed), because of AuthorizationPolicy shop/a, AuthorizationPolicy shop/b."},
		"waypoint":         {viaWaypoint, letsIn, `{"allowed":true,"steps":[{"stage":"policy","verdict":"open","object":"AuthorizationPolicy shop/ask rule 0","text":"asks"}],` + toWeb + `}`, exitOK, "The mesh lets it through."},
		"waypoint denies":  {viaWaypoint, letsIn, `{"status":403,"steps":[{"stage":"policy","verdict":"deny","object":"AuthorizationPolicy shop/no rule 1","text":"matches, and denies","status":403}]}`, exitIssues, "The mesh refuses it with status 403, because of AuthorizationPolicy shop/no rule 1."},
		"waypoint answers": {viaWaypoint, letsIn, `{"allowed":true,"status":301,"steps":[{"stage":"route","verdict":"pass","text":"is redirected"}]}`, exitOK, "The proxy answers it itself, with status 301."},
		"behind it":        {viaWaypoint, refuses, `{"allowed":true,` + toWeb + `}`, exitIssues, "The mesh refuses it with status 503, because of AuthorizationPolicy shop/a, AuthorizationPolicy shop/b."},
		"behind it, TCP":   {viaWaypoint, refuses, `{"allowed":true,"tcp":true,` + toWeb + `}`, exitIssues, "The mesh closes the connection (policy-not-allowed), because of AuthorizationPolicy shop/a, AuthorizationPolicy shop/b."},
		"silent waypoint":  {viaWaypoint, letsIn, "", exitError, "What becomes of it cannot be said."},
		"silent ztunnel":   {direct, "", "", exitError, "What becomes of it cannot be said."},
	} {
		t.Run(name, func(t *testing.T) {
			mesh := meshOf(t, tc.outbound, tc.inbound, tc.waypoint)
			r := run(t, strings.Fields("explain client.shop web /x"), mesh)
			lines := strings.Split(strings.TrimSpace(r.out), "\n")
			if r.code != tc.code || lines[len(lines)-1] != tc.last || (r.err != "") != (tc.code == exitError) {
				t.Errorf("exit code %d, want %d\n%s%s\nwant %q", r.code, tc.code, r.out, r.err, tc.last)
			}
			var e explanation
			r = run(t, strings.Fields("explain client.shop web /x -o json"), mesh)
			if err := json.Unmarshal([]byte(r.out), &e); err != nil || r.code != tc.code || e.Allowed != (tc.code == exitOK) || len(e.Stages) < 2 {
				t.Errorf("%v, exit code %d: %s", err, r.code, r.out)
			}
		})
	}
}

func TestExplainWords(t *testing.T) {
	mesh := meshOf(t, viaWaypoint, letsIn, `{"allowed":true,"steps":[{"stage":"policy","verdict":"pass","object":"AuthorizationPolicy shop/ok rule 0","text":"matches, and allows"}],`+toWeb+`}`)
	r := run(t, strings.Fields("explain client.shop web /x"), mesh)
	golden(t, "explain", r.out)
	for line := range strings.Lines(r.out) {
		if len(line) > lineWidth+1 {
			t.Errorf("a line of %d characters: %s", len(line), line)
		}
	}
	r = run(t, strings.Fields("explain deployment/edge -n shop http://web.example/"), mesh)
	if r.code != exitOK || r.err != "" {
		t.Errorf("an ingress gateway: code %d %s%s", r.code, r.out, r.err)
	}
	for args, c := range map[string]struct {
		code int
		text string
	}{
		"client":                                {exitUsage, "want POD, DESTINATION"},
		"client.shop web:x":                     {exitUsage, "is not a port"},
		"client.shop http://:80/":               {exitUsage, "names no host"},
		"client.shop web x":                     {exitUsage, "does not start with a slash"},
		"client.shop web -H nothing":            {exitUsage, "NAME: VALUE"},
		"nobody.shop web":                       {exitError, `no pod "nobody.shop"`},
		"web.shop web":                          {exitError, "did you mean shop/web-1?"},
		"shopp/client web":                      {exitError, `"shopp" is neither a namespace with pods nor a kind`},
		"deployment/cli -n shop web":            {exitError, "no pod of namespace shop is of deployment cli; did you mean shop/client?"},
		"deployment/waypoint -n shop web":       {exitUsage, "start at a client"},
		"client.shop http://web:80/ -o nothing": {exitUsage, "json"},
	} {
		if r := run(t, append([]string{"explain"}, strings.Fields(args)...), mesh); r.code != c.code || !strings.Contains(r.err, c.text) {
			t.Errorf("%s: exit code %d, %q; want %d with %q", args, r.code, r.err, c.code, c.text)
		}
	}
}

func TestBrief(t *testing.T) {
	for in, want := range map[string]string{
		"shop/web.shop.svc.cluster.local:80":            "shop/web:80",
		"to shop/web.shop.svc.cluster.local subset v1,": "to shop/web subset v1,",
		"shop/web.other.svc.cluster.local":              "shop/web.other.svc.cluster.local",
		"shop/www.example.com:443":                      "shop/www.example.com:443",
		"spiffe://cluster.local/ns/shop/sa/web":         "spiffe://cluster.local/ns/shop/sa/web",
	} {
		if got := brief(in); got != want {
			t.Errorf("%s is %s, want %s", in, got, want)
		}
	}
}

// TestFindPod: a pod is found by what it is called and what made it, and by nothing that only begins alike.
func TestFindPod(t *testing.T) {
	pod := func(ns, name, kind, owner, phase string, labels map[string]any) cluster.Object {
		return cluster.Object{"metadata": map[string]any{"namespace": ns, "name": name, "labels": labels,
			"ownerReferences": []any{map[string]any{"kind": kind, "name": owner, "controller": true}}}, "status": map[string]any{"phase": phase}}
	}
	hash := map[string]any{"pod-template-hash": "7f9c"}
	pods := []cluster.Object{
		pod("default", "web-7f9c-x", "ReplicaSet", "web-7f9c", "Running", hash),
		pod("shop", "web-admin-7f9c-x", "ReplicaSet", "web-admin-7f9c", "Running", hash),
		pod("shop", "web-7f9c-w", "ReplicaSet", "web-7f9c", "Succeeded", hash),
		pod("shop", "web-7f9c-x", "ReplicaSet", "web-7f9c", "Running", hash),
		pod("shop", "web-0", "StatefulSet", "web", "Running", nil),
		pod("shop", "report-29000000-a", "Job", "report-29000000", "Running", nil),
		pod("shop", "agent-a", "DaemonSet", "agent", "Pending", nil),
		pod("job", "client", "Node", "n1", "Running", nil),
		pod("shop", "client", "Node", "n1", "Running", nil),
	}
	for what, want := range map[string]string{
		"deployment/web": "shop/web-7f9c-x", "deploy/web-admin": "shop/web-admin-7f9c-x", "Deployment/web": "shop/web-7f9c-x",
		"replicaset/web-7f9c": "shop/web-7f9c-x", "sts/web": "shop/web-0", "job/report-29000000": "shop/report-29000000-a",
		"cronjob/report": "shop/report-29000000-a", "ds/agent": "shop/agent-a", "job/client": "job/client",
		"client": "shop/client", "pod/client": "shop/client", "client.shop": "shop/client", "shop/client": "shop/client",
		"default/web-7f9c-x": "default/web-7f9c-x", "web-7f9c-x.default": "default/web-7f9c-x",
		"deployment/we": "", "deployment/web-7f9c": "", "daemonset/web": "", "job/report": "", "cronjob/web": "",
		"shopp/web": "", "default/web": "", "shop/web": "", "web": "", "pod/web": "", "client.default": "", "thing/web": "",
	} {
		got := ""
		if p := findPod(pods, what, "shop"); p != nil {
			got = p.Namespace() + "/" + p.Name()
		}
		if got != want {
			t.Errorf("%s is %q, want %q", what, got, want)
		}
	}
}
