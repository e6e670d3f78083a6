// Package ads serves configuration to the one Envoy beside this process: delta ADS and delta SDS on a unix socket.
//
// It is made for one client of a known kind, which is why it can do what a general server cannot. It sends types in the
// order in which Envoy needs them, keeps routes back until the clusters they may lead to have endpoints, and takes things
// away only after everything else was accepted. When Envoy refuses a response, the resource at fault is found (by its name in
// Envoy's answer, or by halving the response), the last accepted version of it is put back, and the others are sent again:
// a bad resource never holds up a good one.
//
// The stream protocol is written out here rather than left to go-control-plane's server and caches, because those decide
// the other way exactly where it matters to us: a watch does not know its stream nor whether Envoy took what it was sent,
// versions are noted as delivered when they are sent, so that nothing refused in company is ever sent again, and types
// have no order. The messages are go-control-plane's.
//
// It knows names, bytes and the protocol of envoy.service.discovery.v3. It does not know what is in a resource or where it
// came from. Streams are served on the goroutines gRPC gives them. Start reading at Server, then stream.go.
package ads
