// Package xds is both ends of delta ADS, the protocol that carries configuration from the control plane to a node proxy.
//
// The server end keeps each resource type in a Collection: the producer hands over changes, every connected client reads
// them at its own pace. A resource is encoded once, when it is put in; all streams send the same bytes. The client end
// keeps one stream alive, applies what arrives through a Handler and acknowledges it.
//
// The package knows names, versions, aliases, scopes and bytes. It does not know what is inside a resource, who may read it, or
// how the bytes are protected on the way: authentication and TLS belong to the caller.
//
// A stream is served on the goroutine gRPC gives it plus one that reads requests, which Server.Wait waits for; a Client
// works on its caller's goroutine plus one a connection, which Run waits for. Constructors start nothing. Start reading
// at collection.go, then stream.go, then demand.go and selection.go for what a stream by name is owed; for the other end at client.go.
package xds
