// Package kube is the agent's view of pods and namespaces when there is an API server, and the agent's one door to it.
//
//	API server ══ list+watch: pods of one node, all namespaces ══► Source.Run ──► enroll.Sink
//	Source.Annotate, Source.Tell ══ patch of pods/status, Events ══► API server
//
// Of each object only what enrolment looks at is kept. What was told before stays while the API server is away. It does not
// decide which pods are in the mesh, nor what an agent that ends leaves behind beyond the question whether it will have a
// successor (successor.go, pure).
//
// Source.Run waits for the goroutines it starts. Start reading at source.go.
package kube
