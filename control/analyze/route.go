package analyze

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
	controlwaypoint "github.com/ambit-mesh/ambit/control/waypoint"
)

// serviceOf finds the Service behind a host.
func (w *world) serviceOf(host string) *object.Service {
	rest, ok := strings.CutSuffix(host, ".svc."+w.cfg.ClusterDomain)
	if !ok {
		return nil
	}
	name, ns, _ := strings.Cut(rest, ".")
	s, _ := w.objects[object.Key{Kind: object.KindService, Namespace: ns, Name: name}].(*object.Service)
	return s
}

// subsets finds those that no pod is in.
func (w *world) subsets() {
	each(w, func(d *object.DestinationRule) {
		s := w.serviceOf(d.Host)
		if s == nil || !s.Selector.Present || !slices.ContainsFunc(w.byLabel[s.Namespace], func(p *pod) bool { return s.Selector.Matches(p.Labels) }) {
			return
		}
		for _, sub := range d.Subsets {
			labels := object.MakeLabels(sub.Labels)
			if !slices.ContainsFunc(w.byLabel[s.Namespace], func(p *pod) bool { return s.Selector.Matches(p.Labels) && p.Labels.Contains(labels) }) {
				f := w.about(status.SubsetEmpty, d.Key(), "spec.subsets["+sub.Name+"]", "no pod of %s has labels %s: requests for the subset fail", s.Key(), labels)
				if f.fix("correct the labels, or start such pods"); labels.Empty() {
					f.fix("name the labels of its pods")
				}
			}
		}
	})
}

// duplicates finds subsets that are defined twice for a host.
func (w *world) duplicates() {
	type subset struct{ host, name string }
	first := map[subset]*object.DestinationRule{}
	each(w, func(d *object.DestinationRule) {
		for _, sub := range d.Subsets {
			k := subset{d.Host, sub.Name}
			o := first[k]
			if o == nil {
				first[k] = d
				continue
			}
			if o.Key() != d.Key() {
				w.about(status.DuplicateSubset, d.Key(), "spec.subsets["+sub.Name+"]", "%s defines the subset for %s as well: only one of them counts, the older", o.Key(), d.Host).
					fix("give it another name, or put all subsets of a host into one DestinationRule")
			}
		}
	})
}

// claim is what a route wants: requests of a parent, a name and a match.
type claim struct {
	route    object.Object
	parent   string
	hosts    []string
	match    *waypoint.HTTPMatch
	anything bool
}

// accepted reports whether a route is in force at a parent.
func (w *world) accepted(route object.Key, p object.ParentRef) bool {
	name := controlwaypoint.ParentName(p)
	return slices.ContainsFunc(w.parents[route], func(part model.Part) bool {
		return part.Name == name && slices.ContainsFunc(part.Conditions, func(c model.Condition) bool { return c.Type == "Accepted" && c.Status })
	})
}

// rivals finds routes that want the same requests. Several VirtualServices for a host are for the control plane to say.
func (w *world) rivals() {
	var claims []claim
	attached := map[object.Key]object.Key{} // Services to routes of the Gateway API
	each(w, func(r *object.HTTPRoute) {
		for _, p := range r.Parents {
			if !w.accepted(r.Key(), p) {
				continue
			}
			if p.Kind == "Service" {
				k := object.Key{Kind: object.KindService, Namespace: cmp.Or(p.Namespace, r.Namespace), Name: p.Name}
				if _, ok := attached[k]; !ok {
					attached[k] = r.Key()
				}
			}
			for i := range r.Rules {
				parent := fmt.Sprintf("%s/%s/%s/%s/%d", p.Kind, cmp.Or(p.Namespace, r.Namespace), p.Name, p.Section, p.Port)
				c := claim{route: r, parent: parent, hosts: r.Hostnames}
				if len(r.Rules[i].Rule.GetMatches()) == 0 {
					c.anything = true
					claims = append(claims, c)
				}
				for _, m := range r.Rules[i].Rule.GetMatches() {
					c.match = m
					claims = append(claims, c)
				}
			}
		}
	})
	said := map[[2]object.Key]bool{}
	for i, a := range claims {
		for _, b := range claims[:i] {
			pair := [2]object.Key{a.route.Key(), b.route.Key()}
			if a.parent != b.parent || pair[0] == pair[1] || said[pair] || !slices.Equal(a.hosts, b.hosts) || a.anything != b.anything || !proto.Equal(a.match, b.match) {
				continue
			}
			said[pair] = true
			w.about(status.RivalRoutes, pair[0], "spec.rules", "%s matches the same requests of the same parent: the older of the two gets them all", pair[1]).
				fix("make the matches differ, or put the rules into one route")
		}
	}
	each(w, func(v *object.VirtualService) {
		for _, host := range v.Hosts {
			if s := w.serviceOf(host); s != nil {
				if r, ok := attached[s.Key()]; ok {
					w.about(status.RivalRoutes, v.Key(), "spec.hosts", "%s routes requests for %s as well: the two are merged by age", r, s.Key()).
						fix("use one of the two kinds for a service")
				}
			}
		}
	})
}
