// Package workload is the generated code of workload.proto: the facts a node proxy is told about workloads and services.
// It has no behaviour and knows nobody; ztunnel/state and control/model give the messages their meaning. Regenerate with
// `make generate`. Start reading at workload.proto.
package workload
