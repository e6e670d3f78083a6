package ads

import (
	"maps"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// patience is how long routes wait for a new cluster to have its endpoints. Then they are sent all the same: a cluster
// that never gets there must not stop the others.
const patience = time.Second

// chunk bounds a response about names that were asked for. An answer about everything is never cut: Envoy takes the first
// one for the whole.
const chunk = 2 << 20

// push sends everything that can be sent now. Callers hold mu.
//
// Envoy handles what comes on a stream in its order, so that most of what refers to something else only has to come after
// it. A cluster alone takes effect later than it is received, when it has its endpoints: what is sent after endpoints
// waits for that. (It must not wait for the cluster's response to be accepted: Envoy does that only when clusters it
// received before have their endpoints.)
func (f *feed) push() {
	now := time.Now()
	busy := false
	var held time.Time
	for _, typeURL := range order {
		t := f.types[typeURL]
		switch {
		case t == nil:
		case t.sent != nil || t.watch == nil:
			busy = true
		case !f.hasPuts(typeURL, t):
		case typeURL == TypeSecret || typeURL == TypeCluster || typeURL == TypeEndpoint:
			f.puts(typeURL, t, now)
			busy = true
		default:
			if held = f.coldUntil(now); held.IsZero() {
				f.puts(typeURL, t, now)
			}
			busy = true
		}
	}
	if !held.IsZero() {
		f.wakeAfter(held.Sub(now) + time.Millisecond)
	}
	if busy {
		return
	}
	for _, typeURL := range removals {
		if t := f.types[typeURL]; t != nil && len(t.news) > 0 {
			f.takeAway(typeURL, t)
			return
		}
	}
}

// wakeAfter pushes again later.
func (f *feed) wakeAfter(d time.Duration) {
	if f.timer != nil {
		f.timer.Reset(d)
		return
	}
	f.timer = time.AfterFunc(d, func() {
		f.server.mu.Lock()
		defer f.server.mu.Unlock()
		f.push()
	})
}

// coldUntil is how long to wait for clusters without endpoints; zero when there are none. Callers hold mu.
func (f *feed) coldUntil(now time.Time) (until time.Time) {
	for name, end := range f.warming {
		if !end.After(now) {
			delete(f.warming, name)
		} else if end.After(until) {
			until = end
		}
	}
	return until
}

// hasPuts reports whether there is something to send besides removals, and forgets names that need nothing.
func (f *feed) hasPuts(typeURL string, t *typeFeed) bool {
	entries, has := f.server.types[typeURL], t.watch.sub.ReturnedResources()
	found := t.fresh
	for name, again := range t.news {
		v := entries[name].effective()
		have, had := has[name]
		switch {
		case v != nil && t.watch.asks(name) && (again || !had || have != v.id):
			found = true
		case entries[name] == nil && (had || again && t.watch.asks(name)):
			// to be removed, later
		default:
			delete(t.news, name)
		}
	}
	return found
}

// puts sends what is new of a type.
func (f *feed) puts(typeURL string, t *typeFeed, now time.Time) {
	entries := f.server.types[typeURL]
	sent := &response{put: map[string]string{}}
	resp := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeURL}
	size := 0
	for _, name := range sortedNames(t.news) {
		v := entries[name].effective()
		if v == nil || t.limit > 0 && len(resp.Resources) == t.limit || !t.watch.sub.IsWildcard() && size > chunk {
			continue
		}
		if typeURL == TypeCluster {
			f.warm(name, now)
		}
		body := v.bytes()
		resp.Resources = append(resp.Resources, &discoveryv3.Resource{
			Name: name, Version: v.id, Resource: &anypb.Any{TypeUrl: typeURL, Value: body},
		})
		size += len(body)
		sent.put[name] = v.id
		delete(t.news, name)
	}
	t.fresh = false
	t.send(resp, sent)
}

// warm sees to it that a cluster gets its endpoints. A new one is not used before Envoy has asked for them and got them, so
// routes wait. For a changed one Envoy makes the cluster anew but, being subscribed already, does not ask again: the
// endpoints follow unasked.
func (f *feed) warm(cluster string, now time.Time) {
	if f.server.types[TypeEndpoint][cluster] == nil {
		return
	}
	f.warming[cluster] = now.Add(patience)
	if t := f.types[TypeEndpoint]; t != nil {
		t.look(cluster, true)
	}
}

// takeAway sends the removals of a type.
func (f *feed) takeAway(typeURL string, t *typeFeed) {
	resp := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeURL, RemovedResources: sortedNames(t.news)}
	clear(t.news)
	t.send(resp, &response{})
}

// send answers the watch.
func (t *typeFeed) send(resp *discoveryv3.DeltaDiscoveryResponse, sent *response) {
	next := maps.Clone(t.watch.sub.ReturnedResources())
	maps.Copy(next, sent.put)
	for _, name := range resp.RemovedResources {
		delete(next, name)
	}
	w := t.watch
	t.watch, t.sent = nil, sent
	w.out <- &cache.DeltaPassthroughResponse{DeltaRequest: w.req, NextVersionMap: next, DeltaDiscoveryResponse: resp}
}
