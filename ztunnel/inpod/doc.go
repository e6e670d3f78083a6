// Package inpod learns from the node's CNI agent which pods the proxy serves, and opens sockets inside them.
//
// Client keeps the conversation (package api/zds): it reconnects, reconciles snapshots, retries pods whose listeners
// could not be opened, and says why the proxy is not ready. Netns is the network namespace of one pod: a descriptor, and
// sockets opened inside it.
//
// It does not know what a proxy does with a pod: whoever implements Pods owns the listeners and connections. It knows
// nothing of Kubernetes, xDS or identities.
//
// Client.Run is the package's only long-lived loop; Pods.Start and Pods.Stop are called from it, one at a time. Netns
// starts short goroutines on threads of their own and waits for them. Start reading at client.go.
package inpod
