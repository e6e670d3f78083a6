//go:build tools

package main

// etcd is built from this module too, so that go.mod keeps it at the version Kubernetes' own client is of.
import _ "go.etcd.io/etcd/server/v3"
