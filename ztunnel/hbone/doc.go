// Package hbone carries TCP streams between two mesh peers, each inside one HTTP/2 CONNECT request on a shared
// connection (in production mutual TLS on port 15008; any net.Conn will do).
//
// It knows framing, flow control, stream states, pooling and draining: the parts of RFC 9113 a CONNECT tunnel needs,
// in both roles. It does not know Kubernetes, xDS, certificates, or who may talk to whom; the caller dials, shakes
// hands and decides, and hbone moves bytes.
//
// Goroutines: ClientConn.Run and ServerConn.Run block in the caller's goroutine, which reads the connection, and own
// one writer goroutine each; a server adds one per request. A Pool owns the connections it dialled. All of them are
// gone when the corresponding Run returns.
//
// Locking: each connection has one mutex over its streams, windows and send queues. It is never held across I/O.
//
// Start reading at conn.go, then parser.go, conn_recv.go and conn_send.go; client.go, server.go and pool.go are the
// surface.
package hbone
