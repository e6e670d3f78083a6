// Package kind tells stories on a Kubernetes cluster that Ambit was installed on: what people who run platforms do with a
// mesh, and what happens to them.
//
// The stories are built with the tag kind and take the cluster that KUBECONFIG names; how it came to be (`make kind`, or
// anybody's cluster) is none of their business. Each has namespaces of its own and leaves the cluster as it found it, so
// that they may run in any order; those that upgrade or break the mesh itself run alone and mend it. Programs (ambitctl)
// come from AMBIT_BIN. Start reading at open in cluster_test.go; journey_test.go is the story to read first.
package kind
