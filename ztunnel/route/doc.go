// Package route decides where a connection goes: Outbound for what a pod sends, Inbound for what arrives for one.
//
// It is pure: a state.Snapshot and a few plain values in, a Decision or a *telemetry.Error out. It opens no socket, resolves
// no name and checks no policy. Chance (weighted endpoints) comes from the caller, so that tests choose. Multi-network
// routing is not supported yet and has its own reason, telemetry.OtherNetwork. Start reading at outbound.go.
package route
