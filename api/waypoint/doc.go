// Package waypoint is the generated code of the waypoint API: the facts a waypoint or gateway is told about what it
// serves, in units its users think in. It has no behaviour and knows nobody; control/waypoint makes the facts and
// waypoint/envoy gives them their meaning. Regenerate with `make generate`. Start reading at waypoint.proto, then
// route.proto and policy.proto; guard.proto is for node proxies.
package waypoint
