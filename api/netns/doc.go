// Package netns is a network namespace as a value: a descriptor that the CNI agent and a node proxy agree to mean the
// same by, and sockets and other work inside it.
//
// It does not know pods, rules or who hands descriptors to whom. Work inside a namespace runs on a thread of its own,
// which the call waits for and which dies if it cannot return. Linux only. Start reading at netns_linux.go.
package netns
