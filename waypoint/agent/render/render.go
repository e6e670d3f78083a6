// Package render keeps Envoy's configuration in step with the facts: it splits the work into units (a service, a destination,
// the listeners …), watches which facts each unit looked at, and expands again only units that looked at what changed.
//
// It decides and does nothing: no socket, no goroutine, no clock. What a unit becomes is decided in waypoint/envoy; how it
// reaches Envoy is waypoint/agent/ads. Start reading at Renderer.Render.
package render

import (
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/waypoint/agent/ads"
	"github.com/ambit-mesh/ambit/waypoint/envoy"
	"github.com/ambit-mesh/ambit/waypoint/facts"
)

// Renderer holds what every unit became. It belongs to one goroutine.
type Renderer struct {
	opts  envoy.Options
	find  Modules
	log   *slog.Logger
	units map[string]*unit
	byDep map[string]*dep
	owner map[resourceID]*unit
	// losers are units that wanted a name another unit has; they try again when that one changes.
	losers map[*unit]map[*unit]struct{} // owner → losers
	// troubled are the units with problems.
	troubled map[*unit]struct{}
	// missed: changes went by while there was no Gateway.
	missed bool
}

type resourceID struct{ typeURL, name string }

// unit is a part of the configuration that is expanded as a whole.
type unit struct {
	key    string
	expand func(*pass)
	deps   []*dep // by name
	out    []resourceID
	// problems of the last expansion.
	problems []envoy.Problem
	failed   bool // it panicked: what it became before stays
}

// dep is a fact and who looked at it. There are ten thousands: it is the one place where each has its name, and lists take less
// space than sets.
type dep struct {
	name  string
	units []*unit
}

// depend notes what a unit looked at now, in place of what it looked at before. Most of it is the same.
func (r *Renderer) depend(u *unit, names map[string]struct{}) {
	next := make([]*dep, 0, len(names))
	for _, d := range u.deps {
		if _, still := names[d.name]; still {
			next = append(next, d)
			continue
		}
		i := slices.Index(d.units, u)
		if d.units = slices.Delete(d.units, i, i+1); len(d.units) == 0 {
			delete(r.byDep, d.name)
		}
	}
	kept := len(next)
	for name := range names {
		if _, had := slices.BinarySearchFunc(next[:kept], name, func(d *dep, name string) int { return strings.Compare(d.name, name) }); had {
			continue
		}
		d := r.byDep[name]
		if d == nil {
			d = &dep{name: name}
			r.byDep[name] = d
		}
		d.units, next = append(d.units, u), append(next, d)
	}
	slices.SortFunc(next, func(a, b *dep) int { return strings.Compare(a.name, b.name) })
	u.deps = next
}

// New returns a Renderer of nothing. log is told about our own mistakes only; find may be nil.
func New(opts envoy.Options, find Modules, log *slog.Logger) *Renderer {
	return &Renderer{
		opts: opts, find: find, log: log, units: map[string]*unit{}, byDep: map[string]*dep{},
		owner: map[resourceID]*unit{}, losers: map[*unit]map[*unit]struct{}{}, troubled: map[*unit]struct{}{},
	}
}

// Facts that are looked at as a whole, and prefixes of those looked at by name.
const (
	depGateway      = "gateway"
	depServices     = "services"
	depPolicies     = "policies"
	depDestinations = "destinations"
	depHosts        = "hosts"
	depBound        = "bound"
	depService      = "s/"
	depDestination  = "d/"
	depAddress      = "a/"
	depEndpoints    = "e/"
	depSecret       = "c/"
	depModule       = "m/"
)

// Modules finds a Wasm module by its URL and hash, or says why it is not there (yet).
type Modules func(url, sha256 string) (path string, err error)

// Module is the key of a module whose file came, for Render.
func Module(url, sha256 string) string { return sha256 + " " + url }

// Render returns what Envoy must be told after the changes that led to the snapshot, and after Wasm modules (by their
// Module key) came or failed.
func (r *Renderer) Render(s *facts.Snapshot, c facts.Changes, modules ...string) []ads.Update {
	if s.Gateway() == nil {
		// Never known, or taken away: what Envoy has stays, for a Gateway that was deleted by mistake comes back and one
		// that was deleted on purpose takes this process with it.
		r.missed = true
		return nil
	}
	again := map[*unit]struct{}{}
	if r.missed {
		for _, u := range r.units {
			again[u] = struct{}{}
		}
	}
	r.arrange(s, c, again)
	deps := changed(c, r.opts.InlineChains)
	for _, m := range modules {
		deps[depModule+m] = struct{}{}
	}
	for dep := range deps {
		if d := r.byDep[dep]; d != nil {
			for _, u := range d.units {
				again[u] = struct{}{}
			}
		}
	}
	todo := make([]*unit, 0, len(again))
	for u := range again {
		todo = append(todo, u)
	}
	p := &pass{r: r, snapshot: s, updates: map[string]*ads.Update{}}
	for len(todo) > 0 {
		slices.SortFunc(todo, func(a, b *unit) int { return strings.Compare(a.key, b.key) })
		p.retry = nil
		for _, u := range todo {
			p.run(u)
		}
		todo = p.retry
	}
	return p.list()
}

// changed are the facts a unit may have looked at. What looks at all services together sees only their outlines (the listeners,
// unless chains are inlined into them) or these and policies (gateway-wide extensions); TestIncremental holds it to that.
func changed(c facts.Changes, inline bool) map[string]struct{} {
	out := map[string]struct{}{}
	set := func(is bool, dep string) {
		if is {
			out[dep] = struct{}{}
		}
	}
	set(c.Gateway, depGateway)
	set(c.Bound, depBound)
	set(len(c.Outlines) > 0 || inline && len(c.Services) > 0, depServices)
	set(len(c.Policies) > 0, depPolicies)
	set(len(c.Destinations) > 0, depDestinations)
	set(len(c.VirtualHosts) > 0, depHosts)
	for prefix, names := range map[string]facts.Set{
		depService: c.Services, depDestination: c.Destinations, depAddress: c.Addresses, depEndpoints: c.Endpoints, depSecret: c.Secrets,
	} {
		for name := range names {
			out[prefix+name] = struct{}{}
		}
	}
	return out
}

// arrange makes units for what came and marks those to expand for the first time or to end.
func (r *Renderer) arrange(s *facts.Snapshot, c facts.Changes, again map[*unit]struct{}) {
	add := func(key string, expand func(*pass)) {
		if r.units[key] == nil {
			u := &unit{key: key, expand: expand}
			r.units[key] = u
			again[u] = struct{}{}
		}
	}
	first := r.missed || r.units["static"] == nil
	r.missed = false
	add("static", expandStatic)
	add("listeners", expandListeners)
	add("direct", expandDirect)
	add("extensions", expandExtensions)
	add("edge", expandEdge)
	// The first time everything is new, also what changed while there was no Gateway.
	if first {
		for _, svc := range s.Services() {
			r.addService(add, svc.GetNamespace(), svc.GetHostname())
		}
		for _, d := range s.Destinations() {
			r.addDestination(add, d.GetNamespace(), d.GetHostname())
		}
		for _, name := range s.SecretNames() {
			r.addSecret(add, name)
		}
	}
	for key := range c.Services {
		ns, host := cut(key)
		r.addService(add, ns, host)
	}
	for key := range c.Destinations {
		ns, host := cut(key)
		r.addDestination(add, ns, host)
	}
	for name := range c.Secrets {
		r.addSecret(add, name)
	}
}

type adder func(key string, expand func(*pass))

func (r *Renderer) addService(add adder, ns, host string) {
	add("service/"+mesh.ServiceName(ns, host), func(p *pass) { p.expandService(ns, host) })
}

func (r *Renderer) addDestination(add adder, ns, host string) {
	key := mesh.ServiceName(ns, host)
	add("clusters/"+key, func(p *pass) { p.expandClusters(ns, host) })
	add("endpoints/"+key, func(p *pass) { p.expandEndpoints(ns, host) })
}

func (r *Renderer) addSecret(add adder, name string) {
	add("secret/"+name, func(p *pass) { p.expandSecret(name) })
}

func cut(key string) (namespace, hostname string) {
	namespace, hostname, _ = strings.Cut(key, "/")
	return namespace, hostname
}

// env is the facts as the expansions see them; every look is noted.
func (p *pass) env() *envoy.Env {
	deps := p.deps
	return Env(p.snapshot, p.r.opts, p.r.find, func(dep string) { deps[dep] = struct{}{} })
}

// Env is a snapshot in the form expansions look at. Every look is told to see, which may be nil.
func Env(s *facts.Snapshot, opts envoy.Options, find Modules, see func(dep string)) *envoy.Env {
	if see == nil {
		see = func(string) {}
	}
	services := sync.OnceValue(s.Services) // sorting thousands takes a while, and one expansion asks several times
	e := &envoy.Env{
		Gateway: s.Gateway(),
		Options: opts,
		Services: func() []*waypoint.Service {
			see(depServices)
			return services()
		},
		Service: func(ns, host string) *waypoint.Service {
			see(depService + mesh.ServiceName(ns, host))
			return s.Service(ns, host)
		},
		Destinations: func() []*waypoint.Destination {
			see(depDestinations)
			return s.Destinations()
		},
		Destination: func(ns, host string) *waypoint.Destination {
			see(depDestination + mesh.ServiceName(ns, host))
			return s.Destination(ns, host)
		},
		Address: func(ns, host string) *workload.Service {
			see(depAddress + mesh.ServiceName(ns, host))
			return s.Address(ns, host)
		},
		Endpoints: func(ns, host string) []*workload.Workload {
			see(depEndpoints + mesh.ServiceName(ns, host))
			return s.Endpoints(ns, host)
		},
		Workloads: func() []*workload.Workload {
			see(depBound)
			return s.Bound()
		},
		VirtualHosts: func() []*waypoint.VirtualHost {
			see(depHosts)
			return s.VirtualHosts()
		},
	}
	e.Secret = func(name string) *waypoint.Secret {
		see(depSecret + name)
		return s.Secret(name)
	}
	if find != nil {
		e.WasmFile = func(url, sha256 string) (string, error) {
			see(depModule + Module(url, sha256))
			return find(url, sha256)
		}
	}
	return e
}
