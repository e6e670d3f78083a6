// Package jwks fetches the key sets that RequestAuthentications name by address, so that no waypoint has to: one place
// to limit, to watch and to explain.
//
// Whoever may write a RequestAuthentication decides what the control plane connects to, so addresses are judged after
// they were looked up and at the moment of dialing, where a name cannot be bent to another address any more. Loopback,
// link-local (cloud metadata services), multicast and unspecified addresses are never dialed, private ones unless allowed;
// plain HTTP only when allowed. Answers are bounded in size, time and redirects. The last good set stays.
//
// The package does not know what tokens are verified with the keys. Run owns one goroutine for each source, at most
// MaxSources, and waits for all. Start reading at Fetcher.
package jwks
