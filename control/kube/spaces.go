package kube

import (
	"context"
	"slices"
	"sync"

	"k8s.io/client-go/tools/cache"
)

// Spaces are the namespaces in which the control plane has a right that it does not have everywhere; none named means
// everywhere.
type Spaces []string

// Has says whether a namespace is among them.
func (s Spaces) Has(namespace string) bool { return len(s) == 0 || slices.Contains(s, namespace) }

// portions feeds one feed from a watch in each of some namespaces, where a watch of all is not permitted.
type portions struct {
	feed *feed

	mu sync.Mutex // also for the feed, whose methods come from one goroutine at a time
	// guarded by mu
	waiting map[string]bool  // namespaces without a complete list yet
	errs    map[string]error // why one cannot be asked at the moment
}

// follow watches in each of the namespaces until ctx ends.
func (p *portions) follow(ctx context.Context, b builtin, spaces Spaces) {
	p.waiting, p.errs = make(map[string]bool), make(map[string]error)
	for _, ns := range spaces {
		p.waiting[ns] = true
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	c := p.feed.to.cfg.Cluster
	// All before the first is followed: what follows takes names out of waiting.
	all := make(map[string]*cache.ListWatch)
	for ns := range p.waiting {
		lw, err := c.typed(b, ns)
		if err != nil {
			p.feed.asked(ctx, err)
			return
		}
		all[ns] = watched(lw, func(ctx context.Context, err error) { p.asked(ctx, ns, err) })
	}
	for ns, lw := range all {
		wg.Go(func() { follow(ctx, c, b.resource+" in "+ns, lw, &portion{p, ns}) })
	}
}

// asked takes in how a question about one namespace went. The kind is readable when all of them are.
func (p *portions) asked(ctx context.Context, namespace string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.errs[namespace] = err
	for ns, other := range p.errs {
		if err == nil && other != nil {
			namespace, err = ns, other
		}
	}
	p.feed.asked(ctx, err)
}

// portion is the store for one namespace.
type portion struct {
	*portions
	namespace string
}

// Add implements cache.ReflectorStore.
func (p *portion) Add(in any) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.feed.put(in)
}

// Update implements cache.ReflectorStore.
func (p *portion) Update(in any) error { return p.Add(in) }

// Delete implements cache.ReflectorStore.
func (p *portion) Delete(in any) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.feed.Delete(in)
}

// Replace implements cache.ReflectorStore.
func (p *portion) Replace(list []any, _ string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	there, err := p.feed.take(list)
	if err != nil {
		return err
	}
	for key := range p.feed.have {
		if key.Namespace == p.namespace && !there[key] {
			p.feed.remove(key)
		}
	}
	delete(p.waiting, p.namespace)
	if len(p.waiting) == 0 {
		p.feed.settle()
	}
	return nil
}

// Resync implements cache.ReflectorStore.
func (p *portion) Resync() error { return nil }

// Transformer implements cache.TransformingStore.
func (p *portion) Transformer() cache.TransformFunc { return slim }
