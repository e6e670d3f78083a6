// Package sandbox finds the network namespaces of pods that run already, among the processes of the node: by the control
// group of a process, which names its pod.
//
// It asks no container runtime, knows no API server, and starts no goroutine. Reading a control group's name is pure
// (cgroup.go); looking through /proc is the shell around it (finder.go). Start reading at Finder.Open.
package sandbox
