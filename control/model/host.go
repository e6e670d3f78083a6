package model

import (
	"github.com/ambit-mesh/ambit/control/object"
)

// Host is one service name in one namespace: who has it, and which Gateways stand before it.
type Host struct {
	Namespace string
	Hostname  string
	// Object is the Service or ServiceEntry that has the name; zero once nobody has.
	Object object.Key
	// Canonical is set when the name means this service also in namespaces that have none of that name.
	Canonical bool
	// Private is set for a ServiceEntry that only its own namespace may see.
	Private bool
	// Waypoint and Canary are the Gateways that traffic to it comes through; zero without.
	Waypoint, Canary object.Key
	// Guarded is set when its endpoints refuse what did not come through them.
	Guarded bool
	// Ingress says that gateways at the edge of the mesh go through the waypoint too.
	Ingress bool
}

// tell says what became of a name, when that is news.
func (m *Model) tell(out Output, c *slot) {
	h := Host{Namespace: c.ns.name, Hostname: c.hostname}
	if c.winner != nil {
		h.Object, h.Canonical = c.winner.key(), c.canonical
		h.Private = m.visibility(c.winner) == NamespaceOnly
		if b := c.bound; b.to != nil {
			h.Waypoint, h.Ingress = b.to.key(), b.ingress
			if b.canary != nil {
				h.Canary = b.canary.key()
			}
		}
		h.Guarded = c.watch.guard != nil
	}
	if h != c.told && (c.winner != nil || c.told.Object != object.Key{}) {
		out.Host(h)
	}
	c.told = h
}

func (w *waypoint) key() object.Key {
	return object.Key{Kind: object.KindGateway, Namespace: w.id.ns, Name: w.id.name}
}
