package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"github.com/ambit-mesh/ambit/control/intake"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// discover finds out what is served and keeps a watch on each kind, until ctx ends. Kinds may come and go at any time:
// their CustomResourceDefinitions are watched, and in case that is not allowed the API server is asked now and then.
func (s *Source) discover(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.definitions(ctx, s.news) })
	pause := time.NewTimer(0)
	defer pause.Stop()
	again, loaded := 200*time.Millisecond, false
	for {
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		case <-s.news:
		}
		served, err := s.cfg.Cluster.served(ctx)
		if err == nil && !loaded {
			err = s.keep.load(ctx, s.cfg.Cluster)
			loaded = err == nil
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			e := status.Entry{
				Severity: status.Warning, Kind: "APIServer", Problem: "cannot be asked what it serves: " + err.Error(), Fix: "what was known stays in force; it is tried again all the time",
			}
			if apierrors.IsUnauthorized(err) {
				e.Problem = "refuses the control plane's token: " + err.Error()
				e.Fix = "see that its ServiceAccount is there and its clock is right; a renewed token is used within a minute, and what was known stays in force"
			}
			s.cfg.Status.Set("kube/discover", e)
			s.log.Warn("the API server cannot be asked, trying again", "err", err)
			pause.Reset(again)
			again = min(2*again, 5*time.Second)
			continue
		}
		again = 200 * time.Millisecond
		s.cfg.Status.Set("kube/discover")
		for _, f := range s.feeds {
			s.attend(ctx, &wg, f, served)
		}
		s.mu.Lock()
		s.served, s.resources = true, served
		s.mu.Unlock()
		s.poke()
		pause.Reset(s.cfg.Discover)
	}
}

// attend makes a feed follow its kind where it is served now.
func (s *Source) attend(ctx context.Context, wg *sync.WaitGroup, f *feed, served map[object.Kind]schema.GroupVersionResource) {
	var lw *cache.ListWatch
	var name string
	var store cache.ReflectorStore = f
	if b, ok := builtins()[f.kind]; ok {
		if f.cancel != nil {
			return
		}
		var err error
		if f.kind == object.KindSecret && len(s.cfg.Secrets) > 0 {
			var own context.Context
			own, f.cancel = context.WithCancel(ctx)
			wg.Go(func() { (&portions{feed: f}).follow(own, b, s.cfg.Secrets) })
			return
		}
		if lw, err = s.cfg.Cluster.typed(b, ""); err != nil {
			f.asked(ctx, err)
			return
		}
		name = b.resource
	} else {
		gvr, ok := served[f.kind]
		if name = gvr.String(); ok && f.cancel != nil && f.serves == name && !f.overdue() {
			return
		}
		if f.cancel != nil {
			f.cancel()
			f.cancel, f.serves = nil, ""
		}
		if !ok {
			s.absent(ctx, f)
			return
		}
		lw = s.cfg.Cluster.untyped(gvr, "", "")
		s.back(f)
		store = s.defined(ctx, f, gvr)
	}
	var own context.Context
	own, f.cancel = context.WithCancel(ctx)
	f.serves = name
	lw = watched(lw, f.asked)
	before := f.ended
	ended := make(chan struct{})
	f.ended = ended
	wg.Go(func() {
		defer close(ended)
		if before != nil {
			<-before // the watch of another version; a feed has one at a time
		}
		follow(own, s.cfg.Cluster, name, lw, store)
	})
}

// absent handles a kind that is not served. Of one that was, what is known is only out of sight; of one that was not while
// this process runs, what an earlier one has noted is.
func (s *Source) absent(ctx context.Context, f *feed) {
	if f.missed {
		return
	}
	if f.ended != nil {
		<-f.ended
		f.asked(ctx, nil) // what was wrong with the watch is now something else
		f.note()
	} else {
		f.recall()
	}
	f.settle()
	if f.ended == nil && len(f.have) == 0 {
		return // the cluster never had it
	}
	f.missed = true
	s.mu.Lock()
	s.missing++
	s.mu.Unlock()
	e := status.Entry{
		Severity: status.Warning, Kind: f.kind.String(), Problem: "the API server does not serve the kind any more",
		Fix: "install its CustomResourceDefinition again (\"ambitctl upgrade\" brings those of Istio's kinds and the mesh's own), and the objects you still want",
	}
	if n := len(f.have); n > 0 {
		e.Problem += fmt.Sprintf("; %d objects it told of stay in force", n)
	}
	s.log.Warn(e.Problem, "kind", e.Kind, "fix", e.Fix)
	s.cfg.Status.Set("kube/kind/"+f.kind.String(), e)
}

// back handles a kind that is served. Its definition comes before its objects do, so policies of before that are not there
// are given a moment: until then they stay in force.
func (s *Source) back(f *feed) {
	owner := "kube/kind/" + f.kind.String()
	if !f.missed {
		if f.until.IsZero() { // else another version of it is served than a moment ago, when it came back
			s.cfg.Status.Set(owner)
		}
		return
	}
	f.missed = false
	s.mu.Lock()
	s.missing--
	s.mu.Unlock()
	s.log.Info("a kind that was missing is served again", "kind", f.kind.String())
	if !guards(f.kind) || len(f.have) == 0 {
		s.cfg.Status.Set(owner)
		return
	}
	f.until = time.Now().Add(s.cfg.Grace)
	time.AfterFunc(s.cfg.Grace, func() { _ = bell(s.news).ring() })
	s.cfg.Status.Set(owner, status.Entry{
		Severity: status.Warning, Kind: f.kind.String(), Problem: fmt.Sprintf("the kind is served again; of the %d objects of before, those that are not there stay in force for %s", len(f.have), s.cfg.Grace),
		Fix: "apply the ones you still want",
	})
}

// overdue ends the time that policies of before are given, once.
func (f *feed) overdue() bool {
	if f.until.IsZero() || time.Now().Before(f.until) {
		return false
	}
	f.until = time.Time{}
	return true
}

// served asks which of the kinds that are read there are, and where.
func (c *Cluster) served(ctx context.Context) (map[object.Kind]schema.GroupVersionResource, error) {
	base := builtins()
	wanted := make(map[string][]intake.Resource)
	for _, r := range intake.Resources() {
		if _, ok := base[r.Kind]; !ok {
			wanted[r.Group] = append(wanted[r.Group], r)
		}
	}
	out := make(map[object.Kind]schema.GroupVersionResource)
	for group, kinds := range wanted {
		var g metav1.APIGroup
		if err := c.get(ctx, "/apis/"+group, &g); apierrors.IsNotFound(err) {
			continue
		} else if err != nil {
			return nil, err
		}
		for _, v := range g.Versions {
			if !slices.ContainsFunc(kinds, func(r intake.Resource) bool { return slices.Contains(r.Versions, v.Version) }) {
				continue
			}
			var list metav1.APIResourceList
			if err := c.get(ctx, "/apis/"+v.GroupVersion, &list); apierrors.IsNotFound(err) {
				continue
			} else if err != nil {
				return nil, err
			}
			choose(out, kinds, v.Version, list.APIResources)
		}
	}
	return out, nil
}

// choose takes the version in for each kind it is the best so far of.
func choose(out map[object.Kind]schema.GroupVersionResource, kinds []intake.Resource, version string, there []metav1.APIResource) {
	for _, r := range kinds {
		rank := slices.Index(r.Versions, version)
		if rank < 0 {
			continue
		}
		if have, ok := out[r.Kind]; ok && slices.Index(r.Versions, have.Version) < rank {
			continue
		}
		for _, a := range there {
			// Subresources have the kind, too.
			if a.Kind == r.Kind.String() && !strings.Contains(a.Name, "/") {
				out[r.Kind] = schema.GroupVersionResource{Group: r.Group, Version: version, Resource: a.Name}
				break
			}
		}
	}
}

func (c *Cluster) get(ctx context.Context, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	data, err := c.raw.Get().AbsPath(path).SetHeader("Accept", "application/json").Do(ctx).Raw()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// definitions pokes whenever a CustomResourceDefinition comes, changes or goes. Only their metadata travels.
func (s *Source) definitions(ctx context.Context, news chan<- struct{}) {
	client, err := metadata.NewForConfig(s.cfg.Cluster.config)
	if err != nil {
		s.log.Warn("news of CustomResourceDefinitions cannot be followed", "err", err)
		return
	}
	crds := client.Resource(definitionsResource)
	lw := listWatch(crds)
	follow(ctx, s.cfg.Cluster, "customresourcedefinitions", lw, bell(news))
}

// bell is a store that keeps nothing and rings.
type bell chan<- struct{}

func (b bell) ring() error {
	select {
	case b <- struct{}{}:
	default:
	}
	return nil
}

// Add implements cache.ReflectorStore.
func (b bell) Add(any) error { return b.ring() }

// Update implements cache.ReflectorStore.
func (b bell) Update(any) error { return b.ring() }

// Delete implements cache.ReflectorStore.
func (b bell) Delete(any) error { return b.ring() }

// Replace implements cache.ReflectorStore.
func (b bell) Replace([]any, string) error { return b.ring() }

// Resync implements cache.ReflectorStore.
func (b bell) Resync() error { return nil }
