// Package handoff gives the network namespaces of a node's pods to the node proxies: it is the agent's side of ZDS.
//
// Server holds what the proxies should know. Each proxy that connects first receives all of it as a snapshot, then what
// changes. Several proxies may be connected while one replaces another: what is added goes to the newest, what is deleted
// goes to all.
//
// It does not know why a pod is here, what redirects its traffic, or Kubernetes. The bytes are package api/zds. Run owns
// the listener and one goroutine for each connection, and waits for them. Start reading at server.go, then conn.go.
package handoff
