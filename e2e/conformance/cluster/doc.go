// Package cluster runs Gateway API's own conformance suite against a cluster that Ambit is installed on, and writes its
// report:
//
//	KUBECONFIG=… go test -tags kind -timeout 90m ./conformance/cluster -report-output=report.yaml
//
// The suite is the module's, unchanged; its flags are this test's flags (-run-test, -conformance-profiles, …). The package
// adds what the suite expects to find: waypoints in the mesh's namespaces, images that need no registry (-hub, -tag), and,
// where nobody hands out addresses to LoadBalancers (-addresses), somebody who does.
//
// It does not know how Ambit came to the cluster, nor what Ambit is made of. Start reading at TestConformance.
package cluster
