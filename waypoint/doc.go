// Package waypoint will hold the L7 layer: the agent beside an unmodified Envoy, and what expands facts into Envoy's
// configuration. Nothing of it exists yet; README.md says what that means for users.
package waypoint
