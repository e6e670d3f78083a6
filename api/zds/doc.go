// Package zds is the protocol by which the CNI agent of a node hands the network namespaces of pods to a node proxy:
// the messages (zds.proto, generated into zds.pb.go) and the framing of both ends, side by side so that they are
// tested against each other.
//
// One message is one packet on a SOCK_SEQPACKET unix socket; the namespace travels beside it as a file descriptor
// (SCM_RIGHTS). The agent listens, a proxy connects and says hello; from then on the agent asks and the proxy answers
// each request with one ack, in order.
//
// It knows framing, limits and who owns a descriptor. It does not know when to send what, what a pod is, or what a
// namespace is good for: the conversation of the agent lives in cni/handoff, that of the proxy in ztunnel/inpod.
//
// The package starts no goroutine. Start reading at agent.go and proxy.go, then packet.go.
package zds
