// Package picture draws a mesh as people think of it: who calls whom and how safely, what is captured, what is refused, which
// certificates run out, and how the mesh's own parts are.
//
// It is pure: what the parts said goes in, a Picture comes out. It does not know how they were asked, nor how the picture is shown.
// It starts no goroutines. Start reading at Build.
package picture

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/install/dump"
)

// Input is what the parts of a mesh said. Whatever is missing is left out of the picture.
type Input struct {
	Mesh  string
	Now   time.Time
	Parts []Part
	// Known is the dump of a node proxy: what all of them know. Dumps are those of all, by node.
	Known *dump.Dump
	Dumps map[string]*dump.Dump
	Pods  []Pod
	// Waypoints are the Gateways with their state.
	Waypoints []Waypoint
	Refused   []Refusal
	Traffic   Traffic
	// Before is the traffic as it was at an earlier time, for rates.
	Before     Traffic
	BeforeTime time.Time
	// Missing says what could not be asked.
	Missing []string
}

// Part is one daemon of the mesh.
type Part struct {
	Kind     string `json:"kind"`
	Name     string `json:"name"`
	Node     string `json:"node,omitempty"`
	Version  string `json:"version,omitempty"`
	Ready    bool   `json:"ready"`
	Restarts int64  `json:"restarts"`
	Trouble  string `json:"trouble,omitempty"`
	// Sync is what the control plane says of a proxy: SYNCED, STALE, NACKED, or not connected.
	Sync string `json:"sync,omitempty"`
}

// Pod is whether a pod is in the mesh, and why.
type Pod struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Node      string `json:"node"`
	State     string `json:"state"`
	Why       string `json:"why"`
}

// Waypoint is a waypoint or gateway.
type Waypoint struct {
	Namespace  string `json:"namespace"`
	Name       string `json:"name"`
	Class      string `json:"class"`
	Traffic    string `json:"traffic"`
	Programmed bool   `json:"programmed"`
	Reason     string `json:"reason,omitempty"`
	Ready      int    `json:"ready"`
	Instances  int    `json:"instances"`
	Problems   int    `json:"problems"`
}

// Refusal is something that is not in force as it was written.
type Refusal struct {
	Severity string `json:"severity"`
	Code     string `json:"code,omitempty"`
	Object   string `json:"object"`
	Field    string `json:"field,omitempty"`
	Problem  string `json:"problem"`
	Fix      string `json:"fix,omitempty"`
	Kept     bool   `json:"kept,omitempty"`
}

// Service is a service as the node proxies know it.
type Service struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Hostname  string   `json:"hostname"`
	Addresses []string `json:"addresses"`
	Waypoint  string   `json:"waypoint,omitempty"`
	Healthy   int      `json:"healthy"`
	Endpoints int      `json:"endpoints"`
	// Captured is how many endpoints accept mutual TLS.
	Captured int `json:"captured"`
}

// Certificate is the certificate of an identity that ends first, of all nodes.
type Certificate struct {
	Identity string    `json:"identity"`
	State    string    `json:"state"`
	Ends     time.Time `json:"ends,omitzero"`
	Nodes    []string  `json:"nodes"`
	Root     bool      `json:"root,omitempty"`
	// Left is the share of its life that is left; under a tenth something is wrong with renewal.
	Left float64 `json:"left"`
}

// Node is one box of the graph: a service, or a caller that is none.
type Node struct {
	ID        string `json:"id"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Service   bool   `json:"service"`
	Waypoint  string `json:"waypoint,omitempty"`
	// Mesh is "all", "some" or "none" of its pods that are captured; "" if nobody knows it.
	Mesh    string `json:"mesh,omitempty"`
	Healthy int    `json:"healthy"`
	Pods    int    `json:"pods"`
}

// Edge is who calls whom.
type Edge struct {
	From string `json:"from"`
	To   string `json:"to"`
	// Security is mutual_tls or plaintext; "" if no connection was made.
	Security string `json:"security"`
	// Via is the waypoint in between.
	Via         string  `json:"via,omitempty"`
	Connections float64 `json:"connections"`
	Failed      float64 `json:"failed"`
	// Flags are what failed connections failed with.
	Flags    []string `json:"flags,omitempty"`
	Requests float64  `json:"requests"`
	// Refusals are answers 4xx, Errors 5xx.
	Refusals float64 `json:"refusals"`
	Errors   float64 `json:"errors"`
	// Rate is requests, or else connections, per second since the picture before.
	Rate float64 `json:"rate"`
}

// Picture is all of it.
type Picture struct {
	Mesh         string        `json:"mesh"`
	Time         time.Time     `json:"time"`
	Parts        []Part        `json:"parts"`
	Services     []Service     `json:"services"`
	Waypoints    []Waypoint    `json:"waypoints"`
	Pods         []Pod         `json:"pods"`
	Refused      []Refusal     `json:"refused"`
	Certificates []Certificate `json:"certificates"`
	Nodes        []Node        `json:"nodes"`
	Edges        []Edge        `json:"edges"`
	Missing      []string      `json:"missing"`
}

// Build draws the picture.
func Build(in Input) Picture {
	p := Picture{Mesh: in.Mesh, Time: in.Now, Parts: orNone(in.Parts), Waypoints: orNone(in.Waypoints), Pods: orNone(in.Pods), Refused: orNone(in.Refused), Missing: orNone(in.Missing)}
	p.Services = services(in.Known)
	p.Certificates = certificates(in.Dumps, in.Now)
	p.Edges = orNone(current(edges(in), p))
	p.Nodes = orNone(nodes(p))
	slices.SortStableFunc(p.Pods, func(a, b Pod) int { return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name)) })
	return p
}

// orNone makes JSON say [] rather than null.
func orNone[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func services(d *dump.Dump) []Service {
	out := []Service{}
	if d == nil {
		return out
	}
	names, captured := d.Names(), map[string]bool{}
	for _, w := range d.Workloads {
		captured[w.Value.UID] = w.Value.Protocol == "HBONE"
	}
	unhealthy := d.Unhealthy()
	for _, i := range d.Services {
		s := Service{Namespace: i.Value.Namespace, Name: i.Value.Name, Hostname: i.Value.Hostname, Addresses: []string{}, Endpoints: len(i.Value.Endpoints)}
		if w := names.Gateway(i.Value.Waypoint); i.Value.Waypoint != nil {
			s.Waypoint = w
		}
		for _, v := range i.Value.VIPs {
			s.Addresses = append(s.Addresses, dump.Address(v))
		}
		for uid := range i.Value.Endpoints {
			if !unhealthy[uid] {
				s.Healthy++
			}
			if captured[uid] {
				s.Captured++
			}
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Service) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Hostname, b.Hostname))
	})
	return out
}

// certificates lists each identity once, with the certificate that ends first, and each root once.
func certificates(dumps map[string]*dump.Dump, now time.Time) []Certificate {
	byName := map[string]*Certificate{}
	add := func(name, state, node string, root bool, x dump.X509) {
		c := byName[name]
		if c == nil {
			c = &Certificate{Identity: name, State: state, Root: root, Left: 1}
			byName[name] = c
		}
		if !slices.Contains(c.Nodes, node) {
			c.Nodes = append(c.Nodes, node)
		}
		from, err1 := time.Parse(time.RFC3339, x.ValidFrom)
		until, err2 := time.Parse(time.RFC3339, x.Expires)
		if state != "Available" && !root {
			c.State, c.Left = state, 0
		}
		if err1 != nil || err2 != nil || !until.After(from) || !c.Ends.IsZero() && !until.Before(c.Ends) {
			return
		}
		c.Ends = until
		if left := float64(until.Sub(now)) / float64(until.Sub(from)); state == "Available" || root {
			c.Left = max(0, left)
		}
	}
	for _, node := range slices.Sorted(maps.Keys(dumps)) {
		for _, i := range dumps[node].Certificates {
			leaf := dump.X509{}
			if len(i.Value.Chain) > 0 {
				leaf = i.Value.Chain[0]
			}
			add(i.Value.Identity, i.Value.State, node, false, leaf)
			for _, x := range i.Value.Roots {
				add("root "+x.SerialNumber, "Available", node, true, x)
			}
		}
	}
	out := []Certificate{}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		out = append(out, *byName[name])
	}
	slices.SortStableFunc(out, func(a, b Certificate) int { return cmp.Compare(a.Left, b.Left) })
	return out
}

// nodes are the ends of edges, and services that nobody calls.
func nodes(p Picture) []Node {
	byID := map[string]*Node{}
	for _, s := range p.Services {
		// What nobody calls and the mesh has no part in would only take up room.
		if s.Captured == 0 && !called(p.Edges, id(s.Namespace, s.Name)) || isWaypoint(p, s) {
			continue
		}
		n := &Node{ID: id(s.Namespace, s.Name), Namespace: s.Namespace, Name: s.Name, Service: true, Waypoint: s.Waypoint, Healthy: s.Healthy, Pods: s.Endpoints}
		switch {
		case s.Endpoints == 0:
		case s.Captured == s.Endpoints:
			n.Mesh = "all"
		case s.Captured > 0:
			n.Mesh = "some"
		default:
			n.Mesh = "none"
		}
		byID[n.ID] = n
	}
	for _, e := range p.Edges {
		for _, end := range []string{e.From, e.To} {
			if byID[end] == nil {
				ns, name, _ := strings.Cut(end, "/")
				byID[end] = &Node{ID: end, Namespace: ns, Name: name, Mesh: meshOf(p.Pods, ns, name)}
			}
		}
	}
	var out []Node
	for _, k := range slices.Sorted(maps.Keys(byID)) {
		out = append(out, *byID[k])
	}
	return out
}

// current leaves out edges of which neither end is there any more: proxies go on counting for a while.
func current(list []Edge, p Picture) []Edge {
	there := map[string]bool{}
	for _, s := range p.Services {
		there[id(s.Namespace, s.Name)] = true
	}
	return slices.DeleteFunc(list, func(e Edge) bool {
		ns, name, _ := strings.Cut(e.From, "/")
		return !there[e.From] && !there[e.To] && meshOf(p.Pods, ns, name) == "" && len(p.Pods) > 0
	})
}

func called(list []Edge, to string) bool {
	return slices.ContainsFunc(list, func(e Edge) bool { return e.To == to })
}

// isWaypoint leaves waypoints' own services out of the graph: they stand on the edges.
func isWaypoint(p Picture, s Service) bool {
	return slices.ContainsFunc(p.Waypoints, func(w Waypoint) bool {
		return w.Namespace == s.Namespace && (w.Name == s.Name || w.Name+"-istio" == s.Name)
	})
}

// meshOf is whether the pods of a caller are captured; they begin with its name.
func meshOf(pods []Pod, namespace, name string) string {
	in, all := 0, 0
	for _, p := range pods {
		if p.Namespace == namespace && (p.Name == name || strings.HasPrefix(p.Name, name+"-")) {
			all++
			if p.State == "in" {
				in++
			}
		}
	}
	switch {
	case all == 0:
		return ""
	case in == all:
		return "all"
	case in > 0:
		return "some"
	}
	return "none"
}

func id(namespace, name string) string { return fmt.Sprintf("%s/%s", namespace, name) }
