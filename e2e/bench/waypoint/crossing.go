package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/e2e/mesh"
)

const hopYAML = `
apiVersion: v1
kind: Namespace
metadata: {name: plain}
---
apiVersion: v1
kind: Namespace
metadata: {name: mesh, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: silent, namespace: mesh}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: silent}]
  metrics: [{overrides: [{match: {metric: ALL_METRICS}, disabled: true}]}]
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: verbose, namespace: mesh}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: verbose}]
  accessLogging: [{providers: [{name: envoy}]}]
`

func hopPod(ns, name, node string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %[2]s, namespace: %[1]s, labels: {app: %[2]s}}
spec:
  nodeName: %[3]s
  terminationGracePeriodSeconds: 1
  containers: [{name: c, command: [sleep, infinity]}]
`, ns, name, node)
}

func hopService(name, label string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: mesh, labels: {%s}}
spec: {selector: {app: server}, ports: [{name: http, port: 80, targetPort: %d, appProtocol: http}]}
`, name, label, plainPort)
}

func hopGateway(name string) string {
	return fmt.Sprintf(`---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: %s, namespace: mesh, labels: {istio.io/waypoint-for: service}}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
`, name)
}

// build makes the pods, servers and waypoints and waits until every way answers.
func (c *crossing) build(ctx context.Context) error {
	var doc strings.Builder
	doc.WriteString(hopYAML)
	for _, ns := range []string{"plain", "mesh"} {
		doc.WriteString(hopPod(ns, "client", "node1") + hopPod(ns, "server", "node2"))
	}
	doc.WriteString(hopService("none", "x: y"))
	for _, g := range gateways {
		doc.WriteString(hopGateway(g.name) + hopService(g.name+"-server", "istio.io/use-waypoint: "+g.name))
	}
	if _, err := c.lab.Apply(ctx, []byte(doc.String()), "default"); err != nil {
		return err
	}
	if err := mesh.Synced(ctx, c.lab, nil); err != nil {
		return err
	}
	var where [4]place // clients and servers
	for i, id := range []string{"plain/client", "plain/server", "mesh/client", "mesh/server"} {
		p, err := c.place(ctx, id)
		if err != nil {
			return err
		}
		where[i] = p
	}
	plainClient, plainServer, meshClient, meshServer := where[0], where[1], where[2], where[3]
	if err := c.serve(plainServer.netns, meshServer.netns); err != nil {
		return err
	}
	bare, err := c.bare(ctx, plainServer.ip)
	if err != nil {
		return err
	}
	nodes, err := c.nodes(ctx)
	if err != nil {
		return err
	}
	c.add(&way{Name: wayDirect, client: plainClient.netns, addr: joined(plainServer.ip, plainPort)})
	c.add(&way{Name: wayTLS, client: plainClient.netns, addr: joined(plainServer.ip, tlsPort), tls: c.parties.dials()})
	c.add(&way{Name: wayBare, client: plainClient.netns, addr: joined(bare.ip, barePort), tls: c.parties.dials(), envoy: bare.pid})
	vip, err := c.vip(ctx, "none")
	if err != nil {
		return err
	}
	c.add(&way{Name: wayHBONE, client: meshClient.netns, addr: vip, nodes: nodes})
	for _, g := range gateways {
		if vip, err = c.vip(ctx, g.name+"-server"); err != nil {
			return err
		}
		envoy, err := c.envoyOf(ctx, g.name)
		if err != nil {
			return err
		}
		c.add(&way{Name: g.way, client: meshClient.netns, addr: vip, nodes: nodes, envoy: envoy})
	}
	return c.works(ctx)
}

func (c *crossing) add(w *way) {
	if listed(c.cfg.paths, w.Name) {
		c.ways = append(c.ways, w)
	}
}

// joined is an address to dial.
func joined(ip string, port int) string { return net.JoinHostPort(ip, fmt.Sprint(port)) }

// place is a running pod.
type place struct {
	netns, ip string
	pid       int
}

func (c *crossing) place(ctx context.Context, id string) (p place, err error) {
	ns, name, _ := strings.Cut(id, "/")
	err = poll(ctx, "pod "+id, func() error {
		pods, err := c.lab.Get(ctx, "Pod", ns, name)
		switch {
		case err != nil:
			return err
		case len(pods) != 1 || pods[0].Text("status", "phase") != "Running":
			return errors.New("not running")
		case ns == "mesh" && pods[0].Text("metadata", "annotations", "ambient.istio.io/redirection") != "enabled":
			return errors.New("not captured")
		}
		process, err := c.lab.Pod(ctx, ns, name)
		if err == nil && (len(process.Containers) == 0 || process.Containers[0].Pid == 0) {
			err = errors.New("no process")
		}
		if err == nil {
			p = place{process.Netns, pods[0].Text("status", "podIP"), process.Containers[0].Pid}
		}
		return err
	})
	return p, err
}

func (c *crossing) serve(plain, meshed string) error {
	for _, s := range []struct {
		ns   string
		port int
		tls  bool
	}{{plain, plainPort, false}, {plain, tlsPort, true}, {meshed, plainPort, false}} {
		config := c.parties.serves()
		if !s.tls {
			config = nil
		}
		stop, err := serve(s.ns, fmt.Sprintf(":%d", s.port), config)
		if err != nil {
			return err
		}
		c.stops = append(c.stops, stop)
	}
	return nil
}

// bare starts the Envoy to compare with.
func (c *crossing) bare(ctx context.Context, server string) (place, error) {
	envoy, err := envoyPath(ctx)
	if err != nil {
		return place{}, err
	}
	config, err := c.parties.bareConfig(server)
	if err != nil {
		return place{}, err
	}
	file := filepath.Join(c.lab.Dir, "bare.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return place{}, err
	}
	// As many workers as a waypoint has.
	if _, err := c.lab.Apply(ctx, []byte(barePod(envoy, file, runtime.GOMAXPROCS(0))), "default"); err != nil {
		return place{}, err
	}
	p, err := c.place(ctx, "plain/bare")
	if err != nil {
		return p, err
	}
	below := p.pid
	return p, poll(ctx, "the bare Envoy", func() (err error) {
		p.pid, err = envoyBelow(below)
		return err
	})
}

// nodes are the processes of both node proxies.
func (c *crossing) nodes(ctx context.Context) ([]int, error) {
	status, err := c.lab.Status(ctx)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, d := range status.Daemons {
		if d.Kind == "ztunnel" && d.Pid > 0 {
			pids = append(pids, d.Pid)
		}
	}
	if len(pids) != 2 {
		return nil, fmt.Errorf("%d node proxies are running", len(pids))
	}
	return pids, nil
}

func (c *crossing) vip(ctx context.Context, service string) (string, error) {
	s, err := c.lab.Get(ctx, "Service", "mesh", service)
	if err != nil || len(s) != 1 {
		return "", fmt.Errorf("service %s: %d of them, %v", service, len(s), err)
	}
	return s[0].Text("spec", "clusterIP") + ":80", nil
}

// envoyOf is the process of a waypoint's Envoy.
func (c *crossing) envoyOf(ctx context.Context, gateway string) (pid int, err error) {
	err = poll(ctx, "waypoint "+gateway, func() error {
		pods, err := c.lab.PodsOf(ctx, "mesh", map[string]string{"gateway.networking.k8s.io/gateway-name": gateway})
		if err != nil || len(pods) != 1 {
			return fmt.Errorf("%d pods, %v", len(pods), err)
		}
		process, err := c.lab.Pod(ctx, "mesh", pods[0])
		if err != nil || len(process.Containers) == 0 {
			return fmt.Errorf("no process, %v", err)
		}
		pid, err = envoyBelow(process.Containers[0].Pid)
		return err
	})
	return pid, err
}

// works waits until every way carries a request.
func (c *crossing) works(ctx context.Context) error {
	for _, w := range c.ways {
		err := poll(ctx, w.Name, func() error {
			conn, err := w.dial(false)
			if err != nil {
				return err
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(5 * time.Second))
			return once(conn, newHeads(conn))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// poll asks until the answer is nil or ctx ends.
func poll(ctx context.Context, what string, ask func() error) error {
	for {
		err := ask()
		if err == nil {
			return nil
		}
		if pause(ctx, 50*time.Millisecond) != nil {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
	}
}
