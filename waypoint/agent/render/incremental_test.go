package render

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/waypoint/agent/ads"
	"github.com/ambit-mesh/ambit/waypoint/facts"
)

// drawService is a service with whatever makes one expansion look at another's facts.
func drawService(t *rapid.T, host string) *waypoint.Service {
	port := &waypoint.ServicePort{
		Number:   uint32(rapid.IntRange(80, 82).Draw(t, "port")),
		Protocol: waypoint.Protocol(rapid.IntRange(0, 5).Draw(t, "protocol")),
	}
	backend := &waypoint.Backend{
		Namespace: "default", Hostname: rapid.SampledFrom([]string{"a.svc", "b.svc", "c.svc"}).Draw(t, "backend"), Port: 80, Weight: 1,
	}
	if rapid.Bool().Draw(t, "http") {
		rule := &waypoint.HTTPRule{Action: &waypoint.HTTPRule_Forward{Forward: &waypoint.Forward{Backends: []*waypoint.Backend{backend}}}}
		if rapid.Bool().Draw(t, "claims") {
			rule.Matches = []*waypoint.HTTPMatch{{Claims: []*waypoint.ClaimMatch{{Path: []string{"group"},
				Value: &waypoint.StringMatch{Kind: &waypoint.StringMatch_Exact{Exact: "x"}}}}}}
		}
		port.Http = append(port.Http, rule)
	}
	if rapid.Bool().Draw(t, "stream") {
		port.Stream = append(port.Stream, &waypoint.StreamRule{Backends: []*waypoint.Backend{backend}})
	}
	svc := &waypoint.Service{Namespace: "default", Hostname: host, Name: host, Ports: []*waypoint.ServicePort{port}}
	if rapid.Bool().Draw(t, "policy") {
		svc.Policies = &waypoint.Policies{Authorization: []*waypoint.Authorization{{
			Namespace: "default", Name: "p", Action: waypoint.Authorization_Action(rapid.IntRange(0, 1).Draw(t, "action")),
			Rules: []*waypoint.AuthorizationRule{{From: []*waypoint.Source{{Namespaces: []*waypoint.StringMatch{
				{Kind: &waypoint.StringMatch_Exact{Exact: "x"}}}}}}},
		}}}
	}
	return svc
}

// TestIncremental: after any sequence of changes, what was expanded bit by bit is what is expanded from nothing. It is what
// holds the dependencies this package notes to what the expansions look at.
func TestIncremental(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		inline := rapid.Bool().Draw(rt, "inline")
		w.r.opts.InlineChains = inline
		have := map[resourceID]string{}
		hosts := []string{"a.svc", "b.svc", "c.svc"}
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			for range rapid.IntRange(1, 3).Draw(rt, "batch") {
				i := rapid.IntRange(0, 2).Draw(rt, "which")
				host := hosts[i]
				switch rapid.IntRange(0, 10).Draw(rt, "change") {
				case 0, 1, 2:
					w.put(mesh.TypeWaypointService, prefix+"default/"+host, drawService(rt, host))
				case 3:
					w.drop(mesh.TypeWaypointService, prefix+"default/"+host)
				case 4:
					d := &waypoint.Destination{Namespace: "default", Hostname: host}
					if rapid.Bool().Draw(rt, "session") {
						d.Session = &waypoint.SessionPersistence{By: &waypoint.SessionPersistence_Cookie{Cookie: "c"}}
					}
					if rapid.Bool().Draw(rt, "pool") {
						d.Policy = &waypoint.TrafficPolicy{LoadBalancer: &waypoint.LoadBalancer{
							Algorithm: waypoint.LoadBalancer_HASH, Hash: &waypoint.ConsistentHash{Key: &waypoint.ConsistentHash_SourceIp{SourceIp: true}}}}
					}
					w.put(mesh.TypeWaypointDestination, prefix+"default/"+host, d)
				case 5:
					w.drop(mesh.TypeWaypointDestination, prefix+"default/"+host)
				case 6:
					w.address(host, vip(rapid.IntRange(1, 9).Draw(rt, "vip")))
				case 7:
					w.pod(fmt.Sprint("pod-", rapid.IntRange(0, 3).Draw(rt, "pod")), vip(100), host)
				case 8:
					w.drop(mesh.TypeAddress, rapid.SampledFrom([]string{"default/" + host, "Kubernetes//Pod/default/pod-1"}).Draw(rt, "gone"))
				case 10:
					w.drop(mesh.TypeWaypointGateway, prefix+"gateway")
				case 9:
					w.put(mesh.TypeWaypointGateway, prefix+"gateway", &waypoint.Gateway{
						Namespace: "default", Name: "waypoint", Services: true, Workloads: rapid.Bool().Draw(rt, "workloads"), TrustDomains: []string{"cluster.local"}})
				}
			}
			snapshot, changes := w.store.Take()
			follow(have, w.r.Render(snapshot, changes))
			if snapshot.Gateway() == nil {
				continue // what there was stays
			}
			fresh := New(w.r.opts, nil, slog.New(slog.DiscardHandler))
			want := map[resourceID]string{}
			follow(want, fresh.Render(snapshot, facts.Changes{}))
			if d := cmp.Diff(names(want), names(have)); d != "" {
				rt.Fatalf("names (-from nothing +bit by bit):\n%s", d)
			}
			for id, body := range want {
				if have[id] != body {
					rt.Fatalf("%s %s is out of date", id.typeURL, id.name)
				}
			}
			if a, b := problemTexts(fresh), problemTexts(w.r); a != b {
				rt.Fatalf("problems from nothing:\n%s\nbit by bit:\n%s", a, b)
			}
		}
	})
}

func follow(have map[resourceID]string, updates []ads.Update) {
	for _, u := range updates {
		for _, name := range u.Remove {
			delete(have, resourceID{u.Type, name})
		}
		for _, r := range u.Put {
			have[resourceID{u.Type, r.Name}] = string(r.Body)
		}
	}
}

func names(m map[resourceID]string) map[string]bool {
	out := map[string]bool{}
	for id := range m {
		out[id.typeURL+" "+id.name] = true
	}
	return out
}

func problemTexts(r *Renderer) string {
	text := ""
	for _, p := range r.Problems() {
		text += p.Unit + ": " + p.Object + ": " + p.Text + "\n"
	}
	return text
}
