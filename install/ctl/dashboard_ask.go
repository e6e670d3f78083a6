package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/install/admin"
	"github.com/ambit-mesh/ambit/install/cluster"
	"github.com/ambit-mesh/ambit/install/dump"
	"github.com/ambit-mesh/ambit/install/gateway"
	"github.com/ambit-mesh/ambit/install/picture"
)

// sketch is a picture in the making.
type sketch struct {
	*drawer
	waypoints map[string]string // Gateway's namespace/name by the workload's that runs for it

	mu       sync.Mutex
	in       picture.Input     // guarded by mu
	sync     map[string]client // guarded by mu; by pod.namespace
	versions map[string]string // guarded by mu; by pod
	asked    bool              // guarded by mu; the control plane told of its clients
}

// missing notes what could not be had.
func (s *sketch) missing(err error) {
	if quiet(err) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if text := err.Error(); !slices.Contains(s.in.Missing, text) {
		s.in.Missing = append(s.in.Missing, text)
	}
}

func (s *sketch) ask(ctx context.Context) {
	s.sync, s.waypoints, s.versions = map[string]client{}, map[string]string{}, map[string]string{}
	pods := s.gateways(ctx) // first: traffic is read differently with waypoints
	kinds := []cluster.Kind{cluster.Control, cluster.Authority, cluster.NodeProxy, cluster.Agent}
	parts := make([][]cluster.Part, len(kinds))
	var wg sync.WaitGroup
	for i, kind := range kinds {
		wg.Go(func() {
			list, err := s.mesh.Parts(ctx, kind)
			s.missing(err)
			parts[i] = list
		})
	}
	wg.Wait()
	for i, kind := range kinds {
		for _, p := range parts[i] {
			wg.Go(func() { s.part(ctx, kind, p) })
		}
	}
	for _, p := range pods {
		wg.Go(func() { s.proxy(ctx, p) })
	}
	wg.Wait()
	s.parts(parts, pods)
	s.pick()
}

// pick takes the newest complete view: what all node proxies know, any of them can tell.
func (s *sketch) pick() {
	for _, d := range s.in.Dumps {
		if s.in.Known == nil || len(d.Workloads) > len(s.in.Known.Workloads) {
			s.in.Known = d
		}
	}
}

// gateways lists Gateways, and the pods that run for them.
func (s *sketch) gateways(ctx context.Context) []cluster.Object {
	list, err := s.mesh.List(ctx, kindGateway, "")
	if !errors.Is(err, cluster.ErrNotFound) { // a cluster without the Gateway API has none
		s.missing(err)
	}
	pods, err := podsWith(ctx, s.mesh, "", mesh.LabelGatewayName)
	s.missing(err)
	for _, g := range list {
		traffic, _ := g.Label(mesh.LabelWaypointFor)
		if traffic == "" && isWaypoint(g) {
			traffic = "service"
		}
		w := picture.Waypoint{Namespace: g.Namespace(), Name: g.Name(), Class: g.Text("spec", "gatewayClassName"), Traffic: traffic, Programmed: programmed(g)}
		if !w.Programmed {
			w.Reason = reason(g)
		}
		for _, p := range pods {
			if name, _ := p.Label(mesh.LabelGatewayName); name != g.Name() || p.Namespace() != g.Namespace() {
				continue
			}
			w.Instances++
			if isReady(p) {
				w.Ready++
			}
		}
		s.waypoints[g.Namespace()+"/"+g.Name()] = g.Name()
		s.waypoints[g.Namespace()+"/"+g.Name()+"-"+w.Class] = g.Name()
		s.in.Waypoints = append(s.in.Waypoints, w)
	}
	return pods
}

// part asks one of the mesh's own parts.
func (s *sketch) part(ctx context.Context, kind cluster.Kind, p cluster.Part) {
	switch kind {
	case cluster.Control:
		s.control(ctx, p)
	case cluster.NodeProxy:
		s.nodeProxy(ctx, p)
	case cluster.Agent:
		s.agent(ctx, p)
	}
}

func (s *sketch) control(ctx context.Context, p cluster.Part) {
	var all refusals
	if err := askJSON(ctx, p.Endpoint, "/debug/refusals", nil, &all); err != nil {
		s.missing(err)
		return
	}
	s.version(ctx, p, "/version")
	var list []client
	err := askJSON(ctx, p.Endpoint, "/debug/clients", nil, &list)
	s.missing(err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = s.asked || err == nil
	for _, c := range list {
		s.sync[c.name()] = c
	}
	for _, e := range all.Entries {
		s.refuse(e)
	}
}

// version asks a part for its own; it is no matter if it cannot say.
func (s *sketch) version(ctx context.Context, p cluster.Part, path string) {
	var own struct{ Version string }
	if askJSON(ctx, p.Endpoint, path, nil, &own) == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.versions[p.Pod] = own.Version
	}
}

// refuse notes a refusal, unless another replica has said it. s.mu is held.
func (s *sketch) refuse(e refusal) {
	where := e.where()
	r := picture.Refusal{Severity: e.Severity, Code: e.Code, Object: strings.Join(where, ": "), Field: "", Problem: e.Problem, Fix: e.Fix, Kept: e.Kept}
	if !slices.Contains(s.in.Refused, r) {
		s.in.Refused = append(s.in.Refused, r)
	}
}

func (s *sketch) nodeProxy(ctx context.Context, p cluster.Part) {
	body, err := p.Endpoint.Get(ctx, "/config_dump")
	if err != nil {
		s.missing(err)
		return
	}
	d, err := dump.Parse(body)
	body.Close()
	s.missing(err)
	s.metrics(ctx, p)
	s.mu.Lock()
	defer s.mu.Unlock()
	if d != nil {
		if s.in.Dumps == nil {
			s.in.Dumps = map[string]*dump.Dump{}
		}
		s.in.Dumps[p.Node] = d
	}
}

// metrics reads what a proxy has counted.
func (s *sketch) metrics(ctx context.Context, p cluster.Part) {
	body, err := p.Endpoint.Get(ctx, "/metrics")
	var refused *admin.Refusal
	if m, ok := s.mesh.(ported); ok && errors.As(err, &refused) && refused.Code == http.StatusNotFound {
		// Istio's ztunnel serves them only where they are scraped.
		e := p.Endpoint
		e.Dial = m.Port(p.Namespace, p.Pod, mesh.PortMetrics)
		body, err = e.Get(ctx, "/metrics")
	}
	if err != nil {
		s.missing(err)
		return
	}
	defer body.Close()
	text, err := io.ReadAll(io.LimitReader(body, maxMetrics))
	s.missing(err)
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.in.Traffic.Add(strings.NewReader(string(text)), func(namespace, workload string) string { return s.waypoints[namespace+"/"+workload] })
}

// maxMetrics bounds what is read of one proxy's metrics.
const maxMetrics = 64 << 20

func (s *sketch) agent(ctx context.Context, p cluster.Part) {
	s.version(ctx, p, "/status")
	body, err := p.Endpoint.Get(ctx, "/pods")
	if err != nil {
		s.missing(err)
		return
	}
	defer body.Close()
	var list []enrolled
	if err := json.NewDecoder(body).Decode(&list); err != nil {
		s.missing(fmt.Errorf("%s: %w", p.Endpoint.What, err))
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range list {
		ns, name, _ := strings.Cut(e.Pod, "/")
		s.in.Pods = append(s.in.Pods, picture.Pod{Namespace: ns, Name: name, Node: p.Node, State: e.state(), Why: e.Reason})
	}
}

// proxy asks a waypoint or gateway what it counted, and what it could not put into force.
func (s *sketch) proxy(ctx context.Context, pod cluster.Object) {
	p := s.mesh.Proxy(pod)
	if !p.Ready {
		return // that it is not ready is in the picture
	}
	s.metrics(ctx, p)
	body, err := p.Endpoint.Get(ctx, "/problems")
	if err != nil {
		s.missing(err)
		return
	}
	problems, err := gateway.ReadProblems(body)
	body.Close()
	s.missing(err)
	name, _ := pod.Label(mesh.LabelGatewayName)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.in.Waypoints {
		if w := &s.in.Waypoints[i]; w.Namespace == pod.Namespace() && w.Name == name {
			w.Problems = max(w.Problems, len(problems))
		}
	}
	for _, x := range problems {
		s.refuse(proxyRefusal(pod.Namespace()+"/"+name, x))
	}
}

// parts lists how each part is, with what the control plane says of those it serves.
func (s *sketch) parts(lists [][]cluster.Part, pods []cluster.Object) {
	var all []cluster.Part
	for _, l := range lists {
		all = append(all, l...)
	}
	for _, p := range pods {
		all = append(all, s.mesh.Proxy(p))
	}
	for _, p := range all {
		if p.Kind == cluster.Authority && p.Namespace != "" {
			continue // in a cluster it is the control plane's process
		}
		part := picture.Part{Kind: string(p.Kind), Name: strings.TrimPrefix(p.Pod, "daemon/"), Node: p.Node, Ready: p.Ready, Restarts: p.Restarts, Trouble: p.Trouble, Version: s.versions[p.Pod]}
		if p.Kind == cluster.Gateway {
			part.Name = p.Pod + "." + p.Namespace
		}
		if p.Kind == cluster.NodeProxy || p.Kind == cluster.Gateway {
			part.Sync, part.Version = s.syncOf(p)
		}
		if d := s.in.Dumps[p.Node]; p.Kind == cluster.NodeProxy && d != nil {
			part.Version = d.Version.Version
		}
		s.in.Parts = append(s.in.Parts, part)
	}
}

// syncOf is what the control plane says of a proxy.
func (s *sketch) syncOf(p cluster.Part) (state, version string) {
	if !s.asked {
		return "", ""
	}
	c, ok := s.sync[p.Pod+"."+p.Namespace]
	if !ok { // a lab calls its node proxies by their node
		c, ok = s.sync["ztunnel-"+p.Node+"."+mesh.SystemNamespace]
	}
	if !ok {
		return "not connected", ""
	}
	state = "SYNCED"
	for _, t := range c.Types {
		switch {
		case t.NACK != "" && t.SentVersion != t.AckedVersion:
			return "NACKED", c.Version
		case t.SentVersion != t.AckedVersion:
			state = "STALE"
		}
	}
	return state, c.Version
}
