// Package nodenet is the pod network of the clusters that tools/kind builds without images of others: on every node it writes
// the CNI configuration for the node's own pod ranges and keeps a route to every other node's. IPv4, IPv6 and both.
//
// All nodes share one link, so that a route by way of a node's address is all it takes; pods keep their addresses between nodes.
// It talks to the API server over plain HTTP and knows of nothing but Nodes. NetworkPolicies are not enforced here, and nothing
// is masqueraded: such a cluster has no outside. Once its configuration is there it is never written again, because other
// plugins chain themselves to it.
//
// Run owns no goroutines beyond its own. Start reading at Decide, which is pure, then Agent.Run.
package nodenet
