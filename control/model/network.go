package model

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// Kubernetes NetworkPolicies look at addresses and ports, and of traffic inside the mesh the network sees port 15008 alone.
// So node proxies enforce them at the destination, where the inner port and the client's identity are known. This file
// knows who is chosen by which policy; what becomes of that is networkrule.go's.

// networks is what there is to know for NetworkPolicies. Nothing in it is used unless Config.NetworkPolicies is set.
type networks struct {
	// pods are those that peers may choose.
	pods map[*source]networkPod
	// accounts counts them, all and not only those that a peer chooses.
	accounts map[accountName]int
	// wide are the policies with peers in namespaces chosen by labels; the others look at their own namespace alone.
	wide     set[*networkPolicy]
	variants map[string]*variant
	// fresh are variants that a workload is about to name for the first time.
	fresh []*variant
	// dirty are policies whose peers have changed.
	dirty set[*networkPolicy]
}

// networkPod is what a peer is known by.
type networkPod struct {
	account accountName
	ips     []netip.Addr
	// captured says that its connections come with an identity.
	captured bool
}

func (p networkPod) equal(o networkPod) bool {
	return p.account == o.account && p.captured == o.captured && slices.Equal(p.ips, o.ips)
}

// networkPolicy is a NetworkPolicy.
type networkPolicy struct {
	ns    *namespace
	name  string
	obj   *object.NetworkPolicy // nil once gone
	peers [][]*networkPeer      // as in the rules
	// variants are those it is a part of.
	variants set[*variant]
	// outside are pods it is about whose node proxy does not see their traffic.
	outside set[*source]
}

// networkPeer is a peer that chooses pods.
type networkPeer struct {
	policy  *networkPolicy
	obj     *object.NetworkPeer
	members set[*source]
	// accounts counts the members.
	accounts map[accountName]int
	// told is how each account was known when the policy was last handed out.
	told map[accountName]knownBy
}

// knownBy says how the pods of an account are known to be a peer's.
type knownBy uint8

const (
	unknown knownBy = iota // there are none
	byIdentity
	byAddress
)

// known says how the pods of an account are to be known now.
func (m *Model) known(p *networkPeer, a accountName) knownBy {
	switch {
	case p.accounts[a] == 0:
		return unknown
	case p.wholeNamespaces() || p.accounts[a] == m.networks.accounts[a]:
		return byIdentity
	}
	return byAddress
}

// weigh asks whether news of an account change what a peer comes to. changed says that a pod of it came, went or changed;
// one that is in the mesh is of no matter where all of the account's are peers.
func (m *Model) weigh(p *networkPeer, a accountName, changed, captured bool) {
	if now := m.known(p, a); now != p.told[a] || changed && (now == byAddress || !captured) {
		m.networks.dirty.add(p.policy)
	}
}

func newNetworks() networks {
	return networks{
		pods: map[*source]networkPod{}, accounts: map[accountName]int{}, wide: set[*networkPolicy]{},
		variants: map[string]*variant{}, dirty: set[*networkPolicy]{},
	}
}

func (p *networkPolicy) key() object.Key {
	return object.Key{Kind: object.KindNetworkPolicy, Namespace: p.ns.name, Name: p.name}
}

func (m *Model) putNetworkPolicy(ns *namespace, name string, o *object.NetworkPolicy) {
	if !m.cfg.NetworkPolicies {
		return
	}
	p := ns.networkPolicies[name]
	if p == nil {
		if o == nil {
			return
		}
		p = &networkPolicy{ns: ns, name: name, variants: set[*variant]{}, outside: set[*source]{}}
		ns.networkPolicies[name] = p
	}
	p.obj, p.peers = o, nil
	delete(m.networks.wide, p)
	m.dirty.reports.add(p)
	m.networks.dirty.add(p)
	// Which of the policies are about a pod is asked when its workload is built.
	for _, s := range ns.pods {
		m.touch(s)
	}
	if o == nil {
		return // it is forgotten when nothing is built of it any more
	}
	for i := range o.Rules {
		var peers []*networkPeer
		for j := range o.Rules[i].From {
			if o.Rules[i].From[j].Namespaces != nil {
				m.networks.wide.add(p)
			}
			peer := &networkPeer{policy: p, obj: &o.Rules[i].From[j], members: set[*source]{}, accounts: map[accountName]int{}, told: map[accountName]knownBy{}}
			for s, pod := range m.networks.pods {
				if s.obj != nil && peer.chooses(s) {
					peer.add(s, pod)
				}
			}
			peers = append(peers, peer)
		}
		p.peers = append(p.peers, peers)
	}
}

// chooses reports whether a pod is one of the peer's.
func (p *networkPeer) chooses(s *source) bool {
	o := p.obj
	switch {
	case o.Pods == nil && o.Namespaces == nil: // a range of addresses
		return false
	case o.Namespaces == nil && s.ns != p.policy.ns:
		return false
	case o.Namespaces != nil && !o.Namespaces.Matches(s.ns.labelled()):
		return false
	}
	return o.Pods == nil || o.Pods.Matches(s.obj.Metadata().Labels)
}

func (p *networkPeer) add(s *source, pod networkPod) {
	p.members.add(s)
	p.accounts[pod.account]++
}

func (p *networkPeer) remove(s *source, pod networkPod) {
	delete(p.members, s)
	if p.accounts[pod.account]--; p.accounts[pod.account] == 0 {
		delete(p.accounts, pod.account)
	}
}

// networkPodOf is what a source is as a peer. Pods that share their node's network are not told apart from the node.
func networkPodOf(s *source) (networkPod, bool) {
	p, ok := s.obj.(*object.Pod)
	if !ok || p == nil || p.HostNetwork || p.Phase.Terminal() {
		return networkPod{}, false
	}
	return networkPod{accountName{s.ns.name, p.ServiceAccount}, p.IPs, tunnelled(p)}, true
}

// settleNetworks takes the pods that were marked in as peers.
func (m *Model) settleNetworks() {
	if !m.cfg.NetworkPolicies {
		return
	}
	n := &m.networks
	counted := set[accountName]{} // accounts of which there are more or fewer pods now
	var moved []move
	for s := range m.dirty.sources {
		if s.kind != object.KindPod {
			continue
		}
		was, before := n.pods[s]
		now, is := networkPodOf(s)
		for p := range n.wide {
			moved = p.settle(s, was, before, now, is, moved)
		}
		for _, p := range s.ns.networkPolicies {
			if !n.wide.has(p) {
				moved = p.settle(s, was, before, now, is, moved)
			}
		}
		if before && (!is || was.account != now.account) {
			if n.accounts[was.account]--; n.accounts[was.account] == 0 {
				delete(n.accounts, was.account)
			}
			counted.add(was.account)
		}
		if is && (!before || was.account != now.account) {
			n.accounts[now.account]++
			counted.add(now.account)
		}
		if is {
			n.pods[s] = now
		} else {
			delete(n.pods, s)
		}
	}
	// Only now it is known of which accounts all pods are peers.
	for _, c := range moved {
		m.weigh(c.peer, c.account, true, c.captured)
	}
	for a := range counted {
		for p := range n.wide {
			m.recount(p, a)
		}
		if ns := m.namespaces[a.ns]; ns != nil {
			for _, p := range ns.networkPolicies {
				m.recount(p, a)
			}
		}
	}
}

// move is a pod that became a peer, or is one no more, or is another than before.
type move struct {
	peer     *networkPeer
	account  accountName
	captured bool
}

// settle asks again whether a pod is a peer of the policy.
func (p *networkPolicy) settle(s *source, was networkPod, before bool, now networkPod, is bool, moved []move) []move {
	for _, peers := range p.peers {
		for _, peer := range peers {
			in, has := is && peer.chooses(s), peer.members.has(s)
			if has == in && (!in || before && was.equal(now)) {
				continue
			}
			if has {
				peer.remove(s, was)
				moved = append(moved, move{peer, was.account, was.captured})
			}
			if in {
				peer.add(s, now)
				moved = append(moved, move{peer, now.account, now.captured})
			}
		}
	}
	return moved
}

// recount is told that an account has more or fewer pods now: all of them may be a peer, or not be one any more.
func (m *Model) recount(p *networkPolicy, a accountName) {
	for _, peers := range p.peers {
		for _, peer := range peers {
			if peer.accounts[a] > 0 {
				m.weigh(peer, a, false, true)
			}
		}
	}
}

// labelled are the labels of a namespace with the one that Kubernetes gives to each.
func (n *namespace) labelled() object.Labels {
	labels := n.labels()
	if n.named == (object.Labels{}) || n.namedOf != labels {
		all := labels.Map()
		if all == nil {
			all = map[string]string{}
		}
		if all[labelNamespaceName] == "" {
			all[labelNamespaceName] = n.name
		}
		n.named, n.namedOf = object.MakeLabels(all), labels
	}
	return n.named
}

const labelNamespaceName = "kubernetes.io/metadata.name"

// report of a NetworkPolicy: what of it the mesh does not enforce.
func (p *networkPolicy) report(m *Model) (object.Key, Report) {
	var r Report
	if p.obj == nil {
		return p.key(), r
	}
	r.About(p.obj)
	if p.obj.Egress {
		r.warn(status.NetworkPolicyInPart, "spec.egress", "the mesh enforces what comes in; of what goes out it enforces nothing", "leave that to the cluster's network plugin, or restrict it at the destinations")
	}
	for i := range p.obj.Rules {
		for j, port := range p.obj.Rules[i].Ports {
			field := fmt.Sprintf("spec.ingress[%d].ports[%d]", i, j)
			if port.Protocol != object.TCP {
				r.warn(status.NetworkPolicyInPart, field, "the mesh carries TCP: of "+port.Protocol.String()+" it enforces nothing", "leave that to the cluster's network plugin")
			}
			if _, _, ok := rangesOf([]object.NetworkPort{port}, nil); !ok {
				r.warn(status.NetworkPolicyTooLarge, field, fmt.Sprintf("a range of more than %d ports that leaves out more than %d cannot be enforced: connections to it are refused", maxPorts, maxPorts), "write smaller ranges")
			}
		}
	}
	for i, peers := range p.peers {
		for j, peer := range peers {
			if len(peer.members) <= maxPeers {
				continue
			}
			if n := m.addressed(peer); n > maxPeers {
				r.warn(status.NetworkPolicyTooLarge, fmt.Sprintf("spec.ingress[%d].from[%d]", i, j),
					fmt.Sprintf("%d of the pods can only be told by their addresses, more than %d: connections from them are refused", n, maxPeers),
					"choose whole namespaces, give the pods service accounts of their own, and take them into the mesh")
			}
		}
	}
	for v := range p.variants {
		if i := slices.Index(v.policies, p); v.users > 0 && i >= v.whole {
			r.warn(status.NetworkPolicyTooLarge, "spec.ingress",
				fmt.Sprintf("with the policies before it, by name, it has more than %d ports and addresses for a pod: what it admits is refused", maxRule), "write fewer rules, with ranges and whole namespaces")
			break
		}
	}
	if n := len(p.outside); n > 0 && p.obj.Ingress {
		example := ""
		for s := range p.outside {
			if k := s.ns.name + "/" + s.name; example == "" || k < example {
				example = k
			}
		}
		text := "pod " + example + " is not in the mesh, or its proxy is its own"
		if n > 1 {
			text = fmt.Sprintf("%d pods are not in the mesh, or their proxies are their own, %s for one", n, example)
		}
		r.warn(status.NetworkPolicyInPart, "spec.podSelector", text+": no node proxy enforces it there", "take the pods into the mesh, or leave that to the cluster's network plugin")
	}
	return p.key(), r
}
