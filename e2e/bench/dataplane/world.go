package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/e2e/lab"
	"github.com/ambit-mesh/ambit/e2e/lab/netspace"
	"github.com/ambit-mesh/ambit/e2e/mesh"
)

// world is the lab with every contestant in it.
type world struct {
	cfg     config
	lab     *lab.Lab
	paths   []*path
	servers []*server
}

// path is one way from a client to a server.
type path struct {
	Name string `json:"name"`
	// Base is the path without a mesh that goes the same distance.
	Base string `json:"base,omitempty"`
	// Proxies are the daemons in between, the client's first.
	Proxies []string `json:"proxies,omitempty"`

	client string // network namespace
	server string // address of the server's pod
	app    *server
}

const (
	directSame  = "direct, one node"
	directCross = "direct, two nodes"
	naiveCross  = "naive, two nodes"
)

// contestant is a node proxy with nodes of its own.
type contestant struct {
	name  string
	nodes []string
	args  []string
	env   []string
}

func newWorld(ctx context.Context, cfg config, naive string) (*world, error) {
	all := []contestant{
		{name: "ours", nodes: make([]string, 2)},
		{name: "naive", nodes: make([]string, 2), args: []string{naive}},
		{name: "ours with fast path", nodes: make([]string, 1), env: []string{"AMBIT_SAME_NODE_FAST_PATH=true"}},
	}
	if cfg.peer != "" {
		all = append(all, contestant{name: "peer", nodes: make([]string, 2), args: []string{cfg.peer, "proxy", "ztunnel"}})
	}
	count := 0
	for _, c := range all {
		for i := range c.nodes {
			count++
			c.nodes[i] = fmt.Sprintf("node%d", count)
		}
	}
	step("starting a lab of %d nodes", count)
	l, err := lab.Up(ctx, lab.Spec{Name: fmt.Sprintf("bench-%d", os.Getpid()), Nodes: count})
	if err != nil {
		return nil, err
	}
	w := &world{cfg: cfg, lab: l}
	daemons, err := mesh.Daemons(l)
	if err != nil {
		return w, err
	}
	for i, d := range daemons {
		for _, c := range all {
			if d.Kind != "ztunnel" || !slices.Contains(c.nodes, d.Host) {
				continue
			}
			if len(c.args) > 0 {
				daemons[i].Args = c.args
			}
			daemons[i].Env = append(d.Env, c.env...)
		}
	}
	ready, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	// The CA comes first, since everybody's trust is its to write. A foreign proxy reads that once, when it starts.
	for _, batch := range [][]lab.Daemon{daemons[:1], daemons[1:]} {
		if err := l.Run(ctx, batch...); err != nil {
			return w, err
		}
		if err := l.DaemonsReady(ready, nil); err != nil {
			return w, err
		}
	}
	if err := w.pods(ready, all); err != nil {
		return w, err
	}
	return w, w.works(ready)
}

func step(format string, args ...any) { fmt.Fprintf(os.Stderr, "· "+format+"\n", args...) }

func (w *world) close() {
	for _, s := range w.servers {
		s.close()
	}
	if err := lab.Clean(w.lab.Name); err != nil {
		step("clean up: %v", err)
	}
}

// pods makes a client and a server on each node, a plain pair and the contestants', and the paths between them.
func (w *world) pods(ctx context.Context, all []contestant) error {
	step("starting pods")
	type place struct{ ns, name, node string }
	places := []place{{"plain", "client", "node1"}, {"plain", "near", "node1"}, {"plain", "far", "node2"}}
	for _, c := range all {
		ns := strings.ReplaceAll(c.name, " ", "-")
		places = append(places, place{ns, "client", c.nodes[0]}, place{ns, "near", c.nodes[0]})
		if len(c.nodes) > 1 {
			places = append(places, place{ns, "far", c.nodes[1]})
		}
	}
	var doc strings.Builder
	for _, p := range places {
		label := "istio.io/dataplane-mode: ambient"
		if p.ns == "plain" {
			label = ""
		}
		fmt.Fprintf(&doc, podTemplate, p.ns, label, p.name, p.node)
	}
	if _, err := w.lab.Apply(ctx, []byte(doc.String()), "default"); err != nil {
		return err
	}
	netns, ip, apps := map[string]string{}, map[string]string{}, map[string]*server{}
	for _, p := range places {
		id := p.ns + "/" + p.name
		err := poll(ctx, "pod "+id, func() error {
			pods, err := w.lab.Get(ctx, "Pod", p.ns, p.name)
			switch {
			case err != nil:
				return err
			case len(pods) != 1 || pods[0].Text("status", "phase") != "Running":
				return errors.New("not running")
			case p.ns != "plain" && pods[0].Text("metadata", "annotations", "ambient.istio.io/redirection") != "enabled":
				return errors.New("not captured")
			}
			ip[id] = pods[0].Text("status", "podIP")
			process, err := w.lab.Pod(ctx, p.ns, p.name)
			netns[id] = process.Netns
			return err
		})
		if err != nil {
			return err
		}
		if p.name != "client" {
			s, err := serve(netns[id])
			if err != nil {
				return fmt.Errorf("serve in pod %s: %w", id, err)
			}
			w.servers = append(w.servers, s)
			apps[id] = s
		}
	}
	add := func(name, base, client, server string, proxies ...string) {
		w.add(&path{
			Name: name, Base: base, Proxies: proxies, client: netns[client+"/client"], server: ip[server], app: apps[server],
		})
	}
	add(directSame, "", "plain", "plain/near")
	add(directCross, "", "plain", "plain/far")
	for _, c := range all {
		ns := strings.ReplaceAll(c.name, " ", "-")
		first := "ztunnel@" + c.nodes[0]
		if c.name == "ours" || c.name == "peer" {
			add(c.name+", plaintext passthrough", directCross, ns, "plain/far", first)
		}
		add(c.name+", one node", directSame, ns, ns+"/near", first)
		if len(c.nodes) > 1 {
			add(c.name+", two nodes", directCross, ns, ns+"/far", first, "ztunnel@"+c.nodes[1])
		}
		if c.name != "naive" {
			if err := w.informed(ctx, c); err != nil {
				return err
			}
		}
	}
	return nil
}

const podTemplate = `
---
apiVersion: v1
kind: Namespace
metadata: {name: %[1]s, labels: {%[2]s}}
---
apiVersion: v1
kind: Pod
metadata: {name: %[3]s, namespace: %[1]s}
spec:
  nodeName: %[4]s
  terminationGracePeriodSeconds: 1
  containers: [{name: c, command: [sleep, infinity]}]
`

func (w *world) add(p *path) {
	wanted := func(s string) bool { return strings.Contains(p.Name, s) }
	if w.cfg.paths == "" || p.Base == "" || contains(w.cfg.paths, '|', wanted) {
		w.paths = append(w.paths, p)
	}
}

// informed waits until a contestant's nodes know its pods as mesh pods: before that they would be measured in plaintext.
func (w *world) informed(ctx context.Context, c contestant) error {
	ns := strings.ReplaceAll(c.name, " ", "-")
	want := 2
	if len(c.nodes) > 1 {
		want = 3
	}
	for _, node := range c.nodes {
		err := poll(ctx, "proxy of "+node, func() error {
			body, err := w.admin(ctx, node, "http://127.0.0.1:15000/config_dump")
			if err != nil {
				return err
			}
			var dump struct {
				Workloads []struct{ Namespace, Protocol string } `json:"workloads"`
			}
			if err := json.Unmarshal(body, &dump); err != nil {
				return err
			}
			seen := 0
			for _, wl := range dump.Workloads {
				if wl.Namespace == ns && wl.Protocol == "HBONE" {
					seen++
				}
			}
			if seen != want {
				return fmt.Errorf("knows %d of %d pods", seen, want)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// admin asks a URL from inside a node.
func (w *world) admin(ctx context.Context, node, url string) ([]byte, error) {
	dial := func(ctx context.Context, network, addr string) (c net.Conn, err error) {
		lerr := w.lab.In(ctx, node, func() error {
			var d net.Dialer
			c, err = d.DialContext(ctx, network, addr)
			return err
		})
		return c, lerr
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: 5*time.Second + w.cfg.sample}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	return io.ReadAll(res.Body)
}

// works makes sure that every path carries bytes, and warms up its tunnels.
func (w *world) works(ctx context.Context) error {
	for _, p := range w.paths {
		err := poll(ctx, p.Name, func() error {
			c, err := p.dial(echoPort)
			if err != nil {
				return err
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(5 * time.Second))
			if _, err := c.Write([]byte{1}); err != nil {
				return err
			}
			_, err = io.ReadFull(c, make([]byte, 1))
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// dial opens a connection from inside the client's pod.
func (p *path) dial(port int) (c *net.TCPConn, err error) {
	lerr := netspace.Do(p.client, func() error {
		nc, err := net.DialTimeout("tcp", net.JoinHostPort(p.server, strconv.Itoa(port)), 10*time.Second)
		if err == nil {
			c = nc.(*net.TCPConn)
		}
		return err
	})
	return c, lerr
}

// poll asks until the answer is nil or ctx ends.
func poll(ctx context.Context, what string, ask func() error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, err)
		case <-tick.C:
		}
	}
}
