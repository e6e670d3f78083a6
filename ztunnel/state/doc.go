// Package state holds what the control plane has told this proxy: workloads, services and L4 policies, indexed the way a
// connection asks for them.
//
// A State takes xDS responses in Apply and publishes an immutable Snapshot after each. Readers take Current and never lock;
// they may keep a snapshot as long as they like. An update costs what it changes, not what the mesh holds (trie.go).
// It starts no goroutine; Apply is called by one, the xDS client's. It does not know sockets, certificates or what a
// lookup is for: deciding is the work of the packages route, authz and dns. Start reading at snapshot.go, then apply.go.
package state
