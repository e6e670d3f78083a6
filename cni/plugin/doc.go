// Package plugin is the CNI plugin's work: when the container runtime makes a pod that belongs to the mesh, it tells the
// node's agent and holds the pod back until its traffic is captured. If the agent cannot do it, the pod does not start.
//
// It knows the CNI protocol and how to ask. It does not touch the network itself, and knows no rules and no proxies. It
// starts no goroutine. Start reading at plugin.go.
package plugin
