// Package waypoint turns configuration objects into what waypoints and gateways need to know beyond workloads and
// services: the facts of ambit.waypoint, each belonging to one Gateway.
//
// A fact is computed by a function that reads objects and indexes through a reader, and the reader writes down what was
// read. An event touches what it changes, and what read it is computed again: work follows the change, and no rule here
// has to know who might be interested in it.
//
//	objects ─┐                        ┌► gateway ─► service ─► destination ─► report
//	         ├─► topics ─► dirty units ┤     └► listener ─► virtual host
//	hosts ───┘   (read by)            └► secret
//
// Units are computed in that order, so that what one finds out (where a route is attached, which destination a rule
// names) is there before it is asked for. A unit exists while another one wants it; gateways and reports exist by
// themselves.
//
// The package knows Istio's and Gateway API's rules of which route and policy applies where. Which service is behind
// which Gateway it is told by package model. It does not know Envoy, encoding or time, starts no goroutine and has no
// lock: one goroutine owns a Model. Start reading at model.go, then graph.go and service.go.
package waypoint
