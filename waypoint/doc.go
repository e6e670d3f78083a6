// Package waypoint is the L7 layer of the mesh: what runs for services that ask for routing, L7 policy or telemetry of
// requests, and for gateways at the edge. It holds nothing itself; README.md says what is where.
package waypoint
