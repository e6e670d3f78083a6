// Package daemon is the CNI agent of a node: it brings pods into the mesh and out of it.
//
// A Source tells which pods and namespaces there are; the CNI plugin announces pods that are being made. For each pod the
// agent compares what should be (enroll) with what it has done, and closes the gap in a fixed order: rules (redirect),
// node proxy (handoff), addresses of probed pods, annotation. Nothing it does depends on having been there before: after
// a restart it reads back what it can and repeats the rest, which is idempotent.
//
// It does not know Kubernetes; sources do. Agent.Run owns all goroutines: the source's, the hand-off's, a few workers,
// and the HTTP servers, and waits for them. Work on one pod is done by one goroutine at a time. Start reading at
// agent.go, then pod.go.
package daemon
