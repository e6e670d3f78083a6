// Package facts holds what the control plane has told a waypoint: its Gateway, the services, destinations, virtual hosts and
// secrets behind it, and the workloads and services of istio.workload that those concern.
//
// A Store takes xDS responses in Apply, publishes an immutable Snapshot after each and notes what changed, until somebody
// takes the Changes. It also knows what to ask for: everything that belongs to the Gateway, and by name every service that
// a fact mentions. It does not know Envoy, sockets, or what the facts are good for. It starts no goroutine. Start reading
// at Store, then decode.go.
package facts
