// Package stories proves what a user would want to see, end to end: real daemons on a lab's nodes, real network
// namespaces, connections opened from inside pods. It is nothing but tests; start reading at world_test.go, then
// journey_test.go.
package stories
