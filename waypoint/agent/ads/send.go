package ads

import (
	"slices"
	"strconv"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// next makes the next response, or nil and how long to wait for news at most.
//
// Envoy handles what comes on a stream in its order, so that most of what refers to something else only has to come after
// it. A cluster alone takes effect later than it is received, when it has its endpoints: what is sent after endpoints
// waits for that. (It must not wait for the cluster's response to be accepted: Envoy does that only when clusters it
// received before have their endpoints.)
func (st *stream) next(now time.Time) (*discoveryv3.DeltaDiscoveryResponse, time.Duration) {
	st.server.mu.Lock()
	defer st.server.mu.Unlock()
	held := st.coldUntil(now)
	waiting, unanswered := false, false
	for _, t := range order {
		sub := st.subs[t]
		switch {
		case sub == nil:
		case sub.sent != nil:
			unanswered = true
		case !st.hasPuts(t, sub):
		case held.IsZero() || t == TypeSecret || t == TypeCluster || t == TypeEndpoint:
			return st.puts(t, sub, now), 0
		default:
			waiting = true
		}
	}
	if waiting {
		return nil, held.Sub(now) + time.Millisecond
	}
	if !unanswered {
		for _, t := range removals {
			if sub := st.subs[t]; sub != nil && len(sub.dirty) > 0 {
				return st.takeAway(t, sub), 0
			}
		}
	}
	return nil, time.Hour
}

// coldUntil is how long to wait for clusters without endpoints; zero when there are none. Callers hold mu.
func (st *stream) coldUntil(now time.Time) (until time.Time) {
	for name, end := range st.warming {
		if !end.After(now) {
			delete(st.warming, name)
		} else if end.After(until) {
			until = end
		}
	}
	return until
}

// hasPuts reports whether there is something to send besides removals, and cleans up names that need nothing.
func (st *stream) hasPuts(t string, sub *subscription) bool {
	entries := st.server.types[t]
	found := sub.fresh
	for name := range sub.dirty {
		v := entries[name].effective()
		have, had := sub.have[name]
		switch {
		case v != nil && (!had || have != v.id):
			found = true
		case v == nil && had && entries[name] == nil:
			// to be removed, later
		default:
			delete(sub.dirty, name)
		}
	}
	return found
}

// puts sends what is new of a type.
func (st *stream) puts(t string, sub *subscription, now time.Time) *discoveryv3.DeltaDiscoveryResponse {
	entries := st.server.types[t]
	sent := &response{put: map[string]uint64{}}
	resp := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: t}
	size := 0
	for _, name := range sortedNames(sub.dirty) {
		v := entries[name].effective()
		if v == nil || sub.limit > 0 && len(resp.Resources) == sub.limit || !sub.wildcard && size > chunk {
			continue
		}
		if t == TypeCluster {
			st.warm(name, now, sub)
		}
		body := v.bytes()
		resp.Resources = append(resp.Resources, &discoveryv3.Resource{
			Name: name, Version: versionText(v.id), Resource: &anypb.Any{TypeUrl: t, Value: body},
		})
		size += len(body)
		sent.put[name] = v.id
		sub.have[name] = v.id
		delete(sub.dirty, name)
	}
	sub.fresh = false
	return st.finish(resp, sub, sent)
}

// warm sees to it that a cluster gets its endpoints. A new one is not used before Envoy has asked for them and got them, so
// routes wait. For a changed one Envoy makes the cluster anew but, being subscribed already, does not ask again: the
// endpoints follow unasked.
func (st *stream) warm(cluster string, now time.Time, clusters *subscription) {
	if st.server.types[TypeEndpoint][cluster] == nil {
		return
	}
	st.warming[cluster] = now.Add(patience)
	if eds := st.subs[TypeEndpoint]; eds != nil && eds.asks(cluster) {
		eds.have[cluster] = 0
		eds.dirty[cluster] = struct{}{}
	}
}

// takeAway sends the removals of a type.
func (st *stream) takeAway(t string, sub *subscription) *discoveryv3.DeltaDiscoveryResponse {
	resp := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: t, RemovedResources: sortedNames(sub.dirty)}
	for _, name := range resp.RemovedResources {
		delete(sub.have, name)
	}
	clear(sub.dirty)
	return st.finish(resp, sub, &response{})
}

func (st *stream) finish(resp *discoveryv3.DeltaDiscoveryResponse, sub *subscription, sent *response) *discoveryv3.DeltaDiscoveryResponse {
	st.nonce++
	sent.nonce = strconv.FormatUint(st.nonce, 10)
	resp.Nonce, resp.SystemVersionInfo = sent.nonce, sent.nonce
	sub.sent = sent
	return resp
}

func sortedNames(set map[string]struct{}) []string {
	out := make([]string, 0, len(set))
	for name := range set {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}
