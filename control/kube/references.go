package kube

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// references knows which Secrets something in the mesh names. Only those are kept anywhere: the others are not the mesh's
// business. It is owned by Source.Run.
type references struct {
	by      map[object.Key]map[object.Key]bool // who names what; a Secret without a namespace is one of any Gateway's
	count   map[object.Key]int
	homes   map[string]int // namespaces with Gateways in them
	shown   map[object.Key]bool
	missing map[object.Key]failure // could not be read
	// flights are the questions under way, which none of what is here waits for.
	flights map[object.Key]*flight
	turns   chan struct{} // full while no other may begin
	done    chan *flight
	// waited is how long what is queued now has waited for the flights of the batch before.
	waited time.Duration
	// known are the Secrets there are. What is named is anybody's text, and may be any number of names: no other is asked for.
	known map[object.Key]bool
}

func (r *references) init() {
	r.by, r.count = make(map[object.Key]map[object.Key]bool), make(map[object.Key]int)
	r.homes, r.shown, r.missing = make(map[string]int), make(map[object.Key]bool), make(map[object.Key]failure)
	r.known, r.flights = make(map[object.Key]bool), make(map[object.Key]*flight)
	r.turns, r.done = make(chan struct{}, fetchMost), make(chan *flight, fetchMost)
}

// flight is a question for a Secret that was passed over while nothing named it, and then its answer.
type flight struct {
	key    object.Key
	object object.Object // nil without one
	err    error
}

func secretKey(namespace, name string) object.Key {
	return object.Key{Kind: object.KindSecret, Namespace: namespace, Name: name}
}

// wanted says whether something names a Secret.
func (r *references) wanted(k object.Key) bool {
	return r.count[k] > 0 || r.homes[k.Namespace] > 0 && r.count[secretKey("", k.Name)] > 0
}

// take takes an object in and reports whether what is wanted is different now.
func (r *references) take(e object.Event) bool {
	switch e.Key.Kind {
	case object.KindGateway, object.KindListenerSet, object.KindDestinationRule, object.KindBackendTLSPolicy:
	default:
		return false
	}
	was, is := r.by[e.Key], named(e.Object)
	changed := !maps.Equal(was, is)
	for k := range was {
		if r.count[k]--; r.count[k] == 0 {
			delete(r.count, k)
		}
	}
	for k := range is {
		r.count[k]++
	}
	if e.Key.Kind == object.KindGateway {
		ns := e.Key.Namespace
		_, known := r.by[e.Key]
		switch {
		case e.Object != nil && !known:
			r.homes[ns]++
			changed = changed || r.homes[ns] == 1
		case e.Object == nil && known:
			if r.homes[ns]--; r.homes[ns] == 0 {
				delete(r.homes, ns)
				changed = true
			}
		}
	}
	if e.Object == nil {
		delete(r.by, e.Key)
	} else if len(is) > 0 || e.Key.Kind == object.KindGateway {
		r.by[e.Key] = is
	} else {
		delete(r.by, e.Key)
	}
	return changed
}

// named are the Secrets an object names.
func named(o object.Object) map[object.Key]bool {
	out := make(map[object.Key]bool)
	refs := func(list ...object.Ref) {
		for _, r := range list {
			if r.Kind == "Secret" && r.Name != "" {
				out[secretKey(r.Namespace, r.Name)] = true
			}
		}
	}
	listeners := func(list []object.Listener) {
		for _, l := range list {
			refs(l.Certificates...)
		}
	}
	policy := func(p *waypoint.TrafficPolicy) {
		if name := p.GetTls().GetSecret(); name != "" {
			out[secretKey("", name)] = true
		}
	}
	switch o := o.(type) {
	case *object.Gateway:
		listeners(o.Listeners)
		refs(o.BackendCertificate)
		if o.ClientTLS != nil {
			refs(o.ClientTLS.CertificateRefs...)
		}
		for _, v := range o.ClientTLSPorts {
			if v != nil {
				refs(v.CertificateRefs...)
			}
		}
	case *object.ListenerSet:
		listeners(o.Listeners)
	case *object.BackendTLSPolicy:
		refs(o.CertificateRefs...)
	case *object.DestinationRule:
		policy(o.Policy)
		for _, p := range o.Ports {
			policy(p)
		}
		for _, s := range o.Subsets {
			policy(s.GetPolicy())
			for _, p := range s.GetPorts() {
				policy(p)
			}
		}
	}
	return out
}

// referred takes out of a batch the Secrets that nothing names, and has those fetched that are named for the first time: it
// returns what it has begun. What failed before and is tried again is not among that.
func (s *Source) referred(ctx context.Context, events []object.Event) (out []object.Event, begun []*flight) {
	r := &s.refs
	changed := len(r.missing) > 0
	for _, e := range events {
		changed = r.take(e) || changed
		if e.Key.Kind == object.KindSecret {
			if r.known[e.Key] = true; e.Object == nil {
				delete(r.known, e.Key)
			}
			delete(r.flights, e.Key) // its answer may be older than this
		}
	}
	heard := make(map[object.Key]bool) // of these the batch itself says how they are
	for _, e := range events {
		heard[e.Key] = true
		switch {
		case e.Key.Kind != object.KindSecret:
		case e.Object == nil && !r.shown[e.Key]:
			continue
		case e.Object == nil:
			delete(r.shown, e.Key)
		case !r.wanted(e.Key):
			continue
		default:
			r.shown[e.Key] = true
		}
		out = append(out, e)
	}
	if !changed {
		return out, nil
	}
	for k := range r.shown {
		if !r.wanted(k) {
			delete(r.shown, k)
			out = append(out, object.Delete(k))
		}
	}
	maps.DeleteFunc(r.missing, func(k object.Key, _ failure) bool { return !r.known[k] || !r.wanted(k) || r.shown[k] })
	for k := range r.known {
		if r.wanted(k) && !r.shown[k] && !heard[k] && r.flights[k] == nil && !time.Now().Before(r.missing[k].at) {
			f := &flight{key: k}
			r.flights[k] = f
			if r.missing[k].pause == 0 {
				begun = append(begun, f)
			}
			s.fetches.Go(func() { s.fetch(ctx, f) })
		}
	}
	s.tellUnreadable()
	return out, begun
}

// arrived waits for the answers to what a batch has begun, and returns what they add to it: a listener that is told of before
// its certificate refuses TLS until that comes. Whatever else is queued waits, too, for fetchWait in all at the most.
func (s *Source) arrived(ctx context.Context, begun []*flight) []object.Event {
	r := &s.refs
	start := time.Now()
	timer := time.NewTimer(fetchWait - r.waited)
	defer timer.Stop()
	var out []object.Event
	for late := false; !late && slices.ContainsFunc(begun, func(f *flight) bool { return r.flights[f.key] == f }); {
		select {
		case f := <-r.done:
			out = append(out, s.landed(f)...)
		case <-timer.C:
			late = true
		case <-ctx.Done():
			late = true
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.waited = 0; len(s.order) > 0 {
		r.waited = min(time.Since(start), fetchWait)
	}
	return out
}

// landed takes an answer in, and returns what it adds to what the sink hears. One that was overtaken by news adds nothing.
func (s *Source) landed(f *flight) []object.Event {
	r := &s.refs
	if r.flights[f.key] != f {
		return nil
	}
	delete(r.flights, f.key)
	switch {
	case !r.wanted(f.key):
	case f.err != nil:
		next := r.missing[f.key].again(fetchAgain, fetchLater)
		r.missing[f.key] = next
		s.log.Warn("a Secret that is named cannot be read, trying again", "namespace", f.key.Namespace, "name", f.key.Name, "err", f.err)
		time.AfterFunc(next.pause, s.poke)
	case f.object != nil:
		delete(r.missing, f.key)
		r.shown[f.key] = true
		return []object.Event{object.Put(f.object)}
	}
	return nil
}

// tellUnreadable warns of what is named in namespaces whose Secrets may not be read: whoever wrote the name is told there is
// no such Secret.
func (s *Source) tellUnreadable() {
	var entries []status.Entry
	for k := range s.refs.count {
		if k.Namespace != "" && !s.cfg.Secrets.Has(k.Namespace) {
			entries = append(entries, status.Entry{
				Severity: status.Warning, Kind: k.Kind.String(), Namespace: k.Namespace, Name: k.Name,
				Problem: "is named by a Gateway or policy, and Secrets of its namespace are not read", Fix: "add the namespace to control.secretNamespaces",
			})
		}
	}
	slices.SortFunc(entries, func(a, b status.Entry) int { return strings.Compare(a.ID(), b.ID()) })
	s.cfg.Status.Set("kube/secrets", entries[:min(len(entries), 20)]...)
}

const (
	// fetchAgain is how soon a Secret is asked for again that the API server could not give, and fetchLater how long that
	// waits at the most.
	fetchAgain = time.Second
	fetchLater = 30 * time.Second
	// fetchMost is how many are asked for at a time.
	fetchMost = 8
	// fetchWait is how long a batch waits at the most for Secrets that it is the first to name.
	fetchWait = 500 * time.Millisecond
)

// fetch asks for a Secret. It runs beside everything else: an API server that is slow must hold up no policy.
func (s *Source) fetch(ctx context.Context, f *flight) {
	select {
	case s.refs.turns <- struct{}{}:
		defer func() { <-s.refs.turns }()
	case <-ctx.Done():
		return
	}
	own, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var secret corev1.Secret
	err := s.cfg.Cluster.get(own, "/api/v1/namespaces/"+f.key.Namespace+"/secrets/"+f.key.Name, &secret)
	switch {
	case apierrors.IsNotFound(err): // the watch will tell when it comes
	case err != nil:
		f.err = err
	default:
		f.object, _ = convert(s.dec, object.KindSecret, &secret)
	}
	select {
	case s.refs.done <- f:
	case <-ctx.Done():
	}
}
