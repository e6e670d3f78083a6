// Package ads serves configuration to the one Envoy beside this process: delta ADS and delta SDS on a unix socket.
//
// The streams are go-control-plane's: its delta server reads requests, keeps what Envoy subscribed to and what it has,
// numbers responses and sends them. What it asks its cache (cache.ConfigWatcher) is answered here, by one feed per stream,
// because the caches that come with it hand out each type by itself and take what was sent for accepted. A feed sends types in
// the order in which Envoy needs them, keeps routes back until the clusters they may lead to have endpoints, and takes things
// away only after everything else was accepted. When Envoy refuses a response, the resource at fault is found (by its name in
// Envoy's answer, or by halving the response), the last accepted version of it is put back, and the others are sent again:
// a bad resource never holds up a good one.
//
// The package knows names, bytes and versions. It does not know what is in a resource or where it came from. Streams are
// served on the goroutines gRPC gives them. Start reading at Server, then feed.go.
package ads
