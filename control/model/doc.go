// Package model turns configuration objects into what node proxies need to know: workloads, services and layer 4
// policies. It is incremental: Apply updates indexes and marks what an event may have touched, Flush computes only that.
// Work is proportional to the change, never to the size of the mesh.
//
// What is derived hangs together in one direction, and Flush walks it in this order:
//
//	gateways ─► waypoints ─┐
//	namespaces ────────────┼─► services (names, virtual addresses) ─► workloads ─► reports
//	peer authentications ──┘    policies
//
// Policies that a waypoint enforces become guards of the workloads behind it: what must have come through which waypoint.
// Who has a service name and what stands before it is told as a Host, for package waypoint.
//
// The package knows the rules of Istio ambient for every field of a Workload, a Service and an Authorization. It does
// not know where objects come from, how results are encoded, versioned or sent, nor what time it is. It starts no
// goroutine and has no lock: one goroutine owns a Model. Start reading at model.go, then selection.go.
package model
