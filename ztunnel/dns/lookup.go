// Package dns answers the names of the mesh for the pods of this node, and passes all other questions on.
//
// Lookup is pure: a snapshot, a client and a name in, addresses out. Server puts it behind UDP and TCP sockets that others
// open, and forwards through a dial function, because both must happen inside the pod's network namespace. The package
// caches nothing and does not know how services come to be. Serve functions wait for every question they took on. Start
// reading at lookup.go, then server.go.
package dns

import (
	"iter"
	"math/rand/v2"
	"net/netip"
	"strings"

	"github.com/ambit-mesh/ambit/ztunnel/state"
)

// Zone is what look-ups are relative to.
type Zone struct {
	Domain  string // of the cluster, "cluster.local"
	Network string // the network of this proxy; addresses on others are not told
	// PreferredNamespace wins among services that share a hostname, after the client's own and the canonical one.
	PreferredNamespace string
	// Search are domains a client's resolver may have appended, besides those Kubernetes gives every pod.
	Search []string
}

// Answer is what is known of a name.
type Answer struct {
	Service *state.Service
	// Alias is the part of the asked name, counted from its start, that the addresses belong to; 0 means all of it. It is
	// set when the client's resolver had appended a search domain, and is answered through a CNAME so that the client
	// learns the real name. istio/ztunnel src/dns/server.rs.
	Alias int
	Addrs []netip.Addr
}

// Lookup finds a name, in lower case and without trailing dot, for a client. It reports false for names the mesh does not
// know, which somebody else may. A known name without an address of the family has an answer without addresses.
func Lookup(s *state.Snapshot, z Zone, client *state.Workload, name string, v6 bool) (Answer, bool) {
	for alias, length := range z.aliases(name, client.Namespace) {
		svc := z.find(s, client, alias)
		if svc == nil {
			continue
		}
		a := Answer{Service: svc, Addrs: z.addrs(s, svc, v6)}
		if length != len(name) {
			a.Alias = length
		}
		rand.Shuffle(len(a.Addrs), func(i, j int) { a.Addrs[i], a.Addrs[j] = a.Addrs[j], a.Addrs[i] })
		return a, true
	}
	return Answer{}, false
}

// aliases yields the names the client may mean, each with how many bytes of the asked name it was made from: the name and
// its expansions, then the same without each search domain.
func (z Zone) aliases(name, namespace string) iter.Seq2[string, int] {
	return func(yield func(string, int) bool) {
		if !z.expand(name, namespace, yield) {
			return
		}
		for search := range z.searches(namespace) {
			if rest, ok := strings.CutSuffix(name, search); ok && len(rest) > 1 && rest[len(rest)-1] == '.' {
				if !z.expand(rest[:len(rest)-1], namespace, yield) {
					return
				}
			}
		}
	}
}

// searches yields the search domains: those kubelet writes for a pod of the namespace, then the configured ones.
func (z Zone) searches(namespace string) iter.Seq[string] {
	return func(yield func(string) bool) {
		if !yield(namespace+".svc."+z.Domain) || !yield("svc."+z.Domain) || !yield(z.Domain) {
			return
		}
		for _, s := range z.Search {
			if s != "" && s != z.Domain && s != "svc."+z.Domain && s != namespace+".svc."+z.Domain && !yield(s) {
				return
			}
		}
	}
}

// expand yields the name as it is, and as the short form of a Kubernetes name it may be.
func (z Zone) expand(name, namespace string, yield func(string, int) bool) bool {
	n := len(name)
	if !yield(name, n) {
		return false
	}
	labels := strings.Count(name, ".") + 1
	svc := strings.HasSuffix(name, ".svc")
	inNamespace, inDomain := "."+namespace+".svc."+z.Domain, ".svc."+z.Domain
	switch {
	case labels == 1: // service
		return yield(name+inNamespace, n)
	case labels == 2: // service.namespace, or pod.subdomain
		return yield(name+inDomain, n) && yield(name+inNamespace, n)
	case labels == 3: // service.namespace.svc, or pod.subdomain.namespace
		return (!svc || yield(name+"."+z.Domain, n)) && yield(name+inDomain, n)
	case labels == 4 && svc: // pod.subdomain.namespace.svc
		return yield(name+"."+z.Domain, n)
	}
	return true
}

// find returns the service a name stands for: of that very name, or of the closest wildcard above it.
func (z Zone) find(s *state.Snapshot, client *state.Workload, name string) *state.Service {
	for pattern := name; ; {
		if svc := state.Best(z.answerable(s.ServicesNamed(pattern)), client.Namespace, z.PreferredNamespace); svc != nil {
			return svc
		}
		_, parent, ok := strings.Cut(strings.TrimPrefix(pattern, "*."), ".")
		if !ok {
			return nil
		}
		pattern = "*." + parent
	}
}

// answerable leaves out services there is nothing to say about: without a VIP only the headless services of the cluster
// have addresses of their own.
func (z Zone) answerable(services iter.Seq[*state.Service]) iter.Seq[*state.Service] {
	return func(yield func(*state.Service) bool) {
		for svc := range services {
			if (len(svc.VIPs) > 0 || z.headless(svc)) && !yield(svc) {
				return
			}
		}
	}
}

func (z Zone) headless(svc *state.Service) bool {
	return len(svc.VIPs) == 0 && len(svc.CIDRs) == 0 && strings.HasSuffix(svc.Hostname, ".svc."+z.Domain)
}

func (z Zone) addrs(s *state.Snapshot, svc *state.Service, v6 bool) []netip.Addr {
	var out []netip.Addr
	for _, v := range svc.VIPs {
		if v.Network == z.Network && v.Addr.Is6() == v6 {
			out = append(out, v.Addr)
		}
	}
	if !z.headless(svc) {
		return out
	}
	eps, _ := s.Endpoints(svc).List()
	for _, e := range eps {
		w := e.Workload
		if w.Network != z.Network || !w.Healthy && !svc.AllowUnhealthy {
			continue
		}
		for _, a := range w.Addrs {
			if a.Is6() == v6 && svc.Families.Allow(a) {
				out = append(out, a)
			}
		}
	}
	return out
}
