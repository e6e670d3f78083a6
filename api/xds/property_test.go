package xds

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// drawResource makes workloads and services of a mesh so small that names, addresses, nodes and memberships collide often.
func drawResource(t *rapid.T) *Resource {
	n := rapid.IntRange(0, 9).Draw(t, "n")
	r := &Resource{Body: fmt.Appendf(nil, "body-%d", rapid.IntRange(0, 5).Draw(t, "body"))}
	r.Version = string(r.Body)
	ip := func() string { return fmt.Sprintf("net/10.0.0.%d", rapid.IntRange(0, 7).Draw(t, "ip")) }
	if n < 3 {
		r.Name = fmt.Sprintf("ns/svc%d", n)
		if rapid.Bool().Draw(t, "range") {
			r.Aliases = append(r.Aliases, fmt.Sprintf("net/10.0.0.0/%d", rapid.IntRange(28, 30).Draw(t, "len")))
		} else {
			r.Aliases = append(r.Aliases, ip())
		}
		return r
	}
	r.Name = fmt.Sprintf("c//Pod/ns/%d", n)
	r.Node = rapid.SampledFrom([]string{"", "node-a", "node-b"}).Draw(t, "node")
	r.Aliases = append(r.Aliases, ip())
	for i := range 3 {
		if rapid.IntRange(0, 3).Draw(t, "member") == 0 {
			r.Services = append(r.Services, fmt.Sprintf("ns/svc%d", i))
		}
	}
	for i := range 2 {
		if rapid.IntRange(0, 2).Draw(t, "scope") == 0 {
			r.Scopes = append(r.Scopes, fmt.Sprintf("ns/gw%d", i))
		}
	}
	return r
}

func drawName(t *rapid.T) string {
	return rapid.OneOf(
		rapid.Custom(func(t *rapid.T) string { return fmt.Sprintf("net/10.0.0.%d", rapid.IntRange(0, 9).Draw(t, "ip")) }),
		rapid.Custom(func(t *rapid.T) string { return fmt.Sprintf("ns/svc%d", rapid.IntRange(0, 3).Draw(t, "svc")) }),
		rapid.Custom(func(t *rapid.T) string { return fmt.Sprintf("c//Pod/ns/%d", rapid.IntRange(3, 9).Draw(t, "pod")) }),
	).Draw(t, "name")
}

// drawSelected is drawName, or a gateway's scope.
func drawSelected(t *rapid.T) string {
	if rapid.Bool().Draw(t, "scope") {
		return rapid.SampledFrom([]string{"ns/gw0/*", "ns/gw1/*"}).Draw(t, "gateway")
	}
	return drawName(t)
}

// owed computes, the slow way, what an on-demand client of node-a must have.
func owed(c *Collection, demanded map[string]bool) map[string]bool {
	want := map[string]bool{}
	c.mu.RLock()
	defer c.mu.RUnlock()
	for name := range demanded {
		for _, e := range c.find(name) {
			want[e.name] = true
			for _, m := range c.entries {
				if m.item != nil && slices.Contains(m.item.services, e.name) {
					want[m.name] = true
				}
			}
		}
	}
	for _, e := range c.entries {
		if e.item != nil && e.item.node == "node-a" {
			want[e.name] = true
		}
	}
	return want
}

// selected computes, the slow way, what a client that goes by name must have, and nothing else.
func selected(c *Collection, names map[string]bool) map[string]string {
	want := map[string]string{}
	c.mu.RLock()
	defer c.mu.RUnlock()
	for name := range names {
		hits := c.find(name)
		for _, m := range c.entries {
			if m.item == nil {
				continue
			}
			in := slices.ContainsFunc(m.item.scopes, func(s string) bool { return s+"/*" == name })
			for _, e := range hits {
				in = in || e == m || slices.Contains(m.item.services, e.name)
			}
			if in {
				want[m.name] = string(m.item.body())
			}
		}
	}
	return want
}

// TestClientsConverge churns a small mesh, cuts connections and asks for names in any order. Once it is quiet the wildcard
// client has exactly what the server has, the one that goes by name exactly what its names lead to; the on-demand client has everything it
// is owed, and nothing outdated.
func TestClientsConverge(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, ServerConfig{})
		defer w.stop()
		w.address.keep, w.address.sweepAt = 2, 2 // forget removals early, so that clients fall behind
		all, some, exact := newReplica(), newReplica(), newReplica()
		_, stopAll := w.run(ClientConfig{}, all, addressType)
		defer stopAll()
		client, stopSome := w.run(ClientConfig{OnDemand: true}, some, addressType)
		defer stopSome()
		byName, stopExact := w.run(ClientConfig{Named: true}, exact, addressType)
		defer stopExact()

		truth := map[string]string{}
		demanded, subscribed := map[string]bool{}, map[string]bool{}
		released := false
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			switch rapid.IntRange(0, 12).Draw(rt, "step") {
			case 0:
				w.cut()
			case 1, 2:
				name := drawName(rt)
				demanded[name] = true
				client.Demand(addressType, name)
			case 3:
				if len(demanded) > 0 {
					name := rapid.SampledFrom(slices.Sorted(maps.Keys(demanded))).Draw(rt, "release")
					delete(demanded, name)
					released = true
					client.Release(addressType, name)
				}
			case 5, 6:
				name := drawSelected(rt)
				subscribed[name] = true
				byName.Subscribe(addressType, name)
			case 7:
				if len(subscribed) > 0 {
					name := rapid.SampledFrom(slices.Sorted(maps.Keys(subscribed))).Draw(rt, "unsubscribe")
					delete(subscribed, name)
					byName.Unsubscribe(addressType, name)
				}
			case 4: // give the clients a moment to see an intermediate state
				time.Sleep(time.Duration(rapid.IntRange(0, 3).Draw(rt, "ms")) * time.Millisecond)
			default:
				put := rapid.SliceOfNDistinct(rapid.Custom(drawResource), 0, 4, func(r *Resource) string { return r.Name }).Draw(rt, "put")
				var remove []string
				for _, name := range slices.Sorted(maps.Keys(truth)) {
					if rapid.IntRange(0, 3).Draw(rt, "remove") == 0 {
						remove = append(remove, name)
						delete(truth, name)
					}
				}
				for _, r := range put {
					truth[r.Name] = string(r.Body)
				}
				w.address.Apply(put, remove)
			}
		}

		deadline := time.Now().Add(10 * time.Second)
		for {
			problem := disagreement(truth, all.get(addressType), some.get(addressType), owed(w.address, demanded), released)
			if want := selected(w.address, subscribed); problem == "" && !maps.Equal(want, exact.get(addressType)) {
				problem = fmt.Sprintf("client of names %v has %v, want %v", slices.Sorted(maps.Keys(subscribed)), exact.get(addressType), want)
			}
			if problem == "" {
				return
			}
			if time.Now().After(deadline) {
				rt.Fatal(problem)
			}
			time.Sleep(time.Millisecond)
		}
	})
}

// disagreement describes how the clients differ from the truth. After a release the on-demand client may hold things it is no longer told
// about; only what it is owed has to be right then.
func disagreement(truth, all, some map[string]string, want map[string]bool, released bool) string {
	if !maps.Equal(truth, all) {
		return fmt.Sprintf("wildcard client has %v, server %v", all, truth)
	}
	for name, body := range some {
		if truth[name] != body && (want[name] || !released) {
			return fmt.Sprintf("on-demand client has %s=%q, server %q", name, body, truth[name])
		}
	}
	for name := range want {
		if _, ok := some[name]; !ok {
			return fmt.Sprintf("on-demand client lacks %s of %v", name, want)
		}
	}
	return ""
}

// TestLogAgreesWithMap drives the collection alone: readers that look rarely, images of different ages and resumes all
// arrive at the same state.
func TestLogAgreesWithMap(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := NewCollection(addressType)
		c.keep, c.sweepAt = 3, 3
		truth := map[string]string{}
		type view struct {
			reader reader
			state  map[string]string
		}
		var views []*view
		take := func(v *view, b *batch) {
			for _, name := range b.removed {
				delete(v.state, name)
			}
			for _, buf := range b.resources {
				var r received
				if err := r.decode(buf.ReadOnlyData()); err != nil {
					rt.Fatal(err)
				}
				for _, u := range r.upserts {
					v.state[u.Name] = u.Version
				}
			}
		}
		catchUp := func(v *view) {
			for c.pending(v.reader.cursor.Load()) {
				b, cursor, err := c.changes(v.reader.cursor.Load())
				if err != nil { // what a reconnecting client does
					if b, cursor, err = c.resume(knownOf(v.state)); err != nil {
						rt.Fatal(err)
					}
				}
				v.reader.cursor.Store(cursor)
				take(v, b)
			}
		}
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			switch op := rapid.IntRange(0, 5).Draw(rt, "op"); {
			case op == 0 && len(views) < 4:
				v := &view{state: map[string]string{}}
				v.reader.wake = make(chan struct{}, 1)
				c.join(&v.reader)
				img := c.everything()
				v.reader.cursor.Store(img.cursor)
				take(v, &batch{resources: img.slabs})
				views = append(views, v)
			case op == 1 && len(views) > 0:
				catchUp(views[rapid.IntRange(0, len(views)-1).Draw(rt, "view")])
			default:
				var put []*Resource
				var remove []string
				for range rapid.IntRange(1, 6).Draw(rt, "changes") {
					name := fmt.Sprintf("r%d", rapid.IntRange(0, 12).Draw(rt, "name"))
					if rapid.Bool().Draw(rt, "gone") {
						remove = append(remove, name)
					} else {
						put = append(put, res(name, fmt.Sprint(rapid.IntRange(0, 3).Draw(rt, "v"))))
					}
				}
				for _, name := range remove {
					delete(truth, name)
				}
				for _, r := range put {
					truth[r.Name] = r.Version
				}
				c.Apply(put, remove)
			}
			if c.stale > len(c.log) || c.live != len(truth) {
				rt.Fatalf("%d stale of %d slots, %d live, want %d", c.stale, len(c.log), c.live, len(truth))
			}
		}
		for i, v := range views {
			catchUp(v)
			if !maps.Equal(v.state, truth) {
				rt.Fatalf("view %d has %v, want %v", i, v.state, truth)
			}
		}
	})
}
