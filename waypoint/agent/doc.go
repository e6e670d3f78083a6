// Package agent is the process beside Envoy in a waypoint or gateway: it takes facts from the control plane and a
// certificate from the authority, makes Envoy's configuration of them, keeps Envoy running, and drains it in the right order.
//
//	control plane ══ delta ADS ══ facts ─► render ─► ads ══ unix socket ══ Envoy ◄─ process
//	authority ══ CreateCertificate ══ ca/client ──────► ads ══ SDS ══════════╝
//
// It owns every goroutine of the process. When the control plane is away, Envoy goes on with what it has. When Envoy
// crashes, it is started again at once and gets everything from here. When this process ends, Envoy ends with it: in a
// container both are one unit, and requests survive because other instances take them. It does not know what a route or a
// policy means: that is waypoint/envoy. Start reading at Run; what can be configured is in config.go.
package agent
