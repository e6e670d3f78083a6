package model

import (
	"github.com/ambit-mesh/ambit/control/object"
)

type set[T comparable] map[T]struct{}

func (s set[T]) add(v T)      { s[v] = struct{}{} }
func (s set[T]) has(v T) bool { _, ok := s[v]; return ok }

// empty forgets everything. Walking a map costs what it once held, so one that was large is left behind: a start with the
// whole mesh must not make every later change slower.
func (s *set[T]) empty() {
	if len(*s) > 1024 {
		*s = set[T]{}
		return
	}
	clear(*s)
}

// pair is one label.
type pair struct{ key, value string }

// kinds is a set of object kinds.
type kinds uint32

func of(ks ...object.Kind) kinds {
	var m kinds
	for _, k := range ks {
		m |= 1 << k
	}
	return m
}

func (m kinds) has(k object.Kind) bool { return m&(1<<k) != 0 }

// group is all sources of one namespace that have the same labels. Pods of one Deployment are one group, so selection is
// decided once for all of them.
type group struct {
	ns      *namespace
	labels  object.Labels
	members set[*source]
	// matches are the selectors that choose this group.
	matches []*selector
}

// selector chooses groups by labels, in one namespace or, when it belongs to the root namespace, everywhere.
type selector struct {
	labels object.Labels
	// kinds limits which members of a group are meant.
	kinds kinds
	// owner is the *service, *policy, *peer or *waypoint that selects.
	owner  any
	ns     *namespace
	home   *selectors
	anchor pair
	groups set[*group]
}

// selectors finds the selectors that may match a new group: each is filed under one of the labels it asks for.
type selectors struct {
	byPair map[pair]set[*selector]
	all    set[*selector] // those that ask for nothing
}

func newSelectors() *selectors {
	return &selectors{byPair: map[pair]set[*selector]{}, all: set[*selector]{}}
}

func (x *selectors) insert(s *selector) {
	s.home = x
	if s.labels.Empty() {
		x.all.add(s)
		return
	}
	if x.byPair[s.anchor] == nil {
		x.byPair[s.anchor] = set[*selector]{}
	}
	x.byPair[s.anchor].add(s)
}

func (x *selectors) remove(s *selector) {
	if s.labels.Empty() {
		delete(x.all, s)
		return
	}
	delete(x.byPair[s.anchor], s)
	if len(x.byPair[s.anchor]) == 0 {
		delete(x.byPair, s.anchor)
	}
}

// attach links a new group with every selector of x that matches it.
func (x *selectors) attach(g *group) {
	for s := range x.all {
		link(s, g)
	}
	for k, v := range g.labels.All() {
		for s := range x.byPair[pair{k, v}] {
			if g.labels.Contains(s.labels) {
				link(s, g)
			}
		}
	}
}

func link(s *selector, g *group) {
	s.groups.add(g)
	g.matches = append(g.matches, s)
}

func unlink(s *selector, g *group) {
	delete(s.groups, g)
	for i, m := range g.matches {
		if m == s {
			last := len(g.matches) - 1
			g.matches[i] = g.matches[last]
			g.matches[last] = nil
			g.matches = g.matches[:last]
			return
		}
	}
}

// choose adds a selector over a namespace, or over all of them when ns is the root namespace and everywhere is set.
// Everything it selects is marked.
func (m *Model) choose(ns *namespace, everywhere bool, labels object.Labels, ks kinds, owner any) *selector {
	s := &selector{labels: labels, kinds: ks, owner: owner, ns: ns, groups: set[*group]{}}
	first := true
	for k, v := range labels.All() {
		// The rarest label of the namespace makes the shortest list to search.
		if p := (pair{k, v}); first || len(ns.groupsBy[p]) < len(ns.groupsBy[s.anchor]) {
			s.anchor, first = p, false
		}
	}
	if everywhere {
		m.everywhere.insert(s)
		for _, n := range m.namespaces {
			n.search(s)
		}
	} else {
		ns.selectors.insert(s)
		ns.search(s)
	}
	m.touchSelected(s)
	return s
}

// search links a new selector with the groups of the namespace that it matches.
func (n *namespace) search(s *selector) {
	if s.labels.Empty() {
		for _, g := range n.groups {
			link(s, g)
		}
		return
	}
	for g := range n.groupsBy[s.anchor] {
		if g.labels.Contains(s.labels) {
			link(s, g)
		}
	}
}

// discard removes a selector; everything it selected is marked.
func (m *Model) discard(s *selector) {
	if s == nil {
		return
	}
	m.touchSelected(s)
	s.home.remove(s)
	m.dirty.emptied.add(s.ns)
	for g := range s.groups {
		unlink(s, g)
	}
}

// touchSelected marks everything a selector selects.
func (m *Model) touchSelected(s *selector) {
	if s == nil {
		return
	}
	for g := range s.groups {
		for src := range g.members {
			if s.kinds.has(src.kind) {
				m.touch(src)
			}
		}
	}
}

// regroup moves a source to the group of its labels, or out of all groups when it is gone.
func (m *Model) regroup(src *source, labels object.Labels, gone bool) {
	if g := src.group; g != nil {
		if !gone && g.labels == labels {
			return
		}
		delete(g.members, src)
		src.group = nil
		if len(g.members) == 0 {
			g.ns.dropGroup(g)
		}
	}
	if gone {
		return
	}
	g := src.ns.groups[labels]
	if g == nil {
		g = &group{ns: src.ns, labels: labels, members: set[*source]{}}
		src.ns.groups[labels] = g
		for k, v := range labels.All() {
			p := pair{k, v}
			if src.ns.groupsBy[p] == nil {
				src.ns.groupsBy[p] = set[*group]{}
			}
			src.ns.groupsBy[p].add(g)
		}
		src.ns.selectors.attach(g)
		m.everywhere.attach(g)
	}
	g.members.add(src)
	src.group = g
}

func (n *namespace) dropGroup(g *group) {
	for len(g.matches) > 0 {
		unlink(g.matches[0], g)
	}
	delete(n.groups, g.labels)
	for k, v := range g.labels.All() {
		p := pair{k, v}
		delete(n.groupsBy[p], g)
		if len(n.groupsBy[p]) == 0 {
			delete(n.groupsBy, p)
		}
	}
}
