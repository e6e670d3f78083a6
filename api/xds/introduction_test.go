package xds

import (
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

func TestIntroduction(t *testing.T) {
	node := &corev3.Node{
		Id: "ztunnel~10.0.0.1~zt.ns~ns.svc.cluster.local", UserAgentName: "ambit-ztunnel\x1b[31m",
		ClientFeatures: slices.Repeat([]string{"ambit.io/guards", strings.Repeat("é", 100)}, 50),
		Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{
			"NODE_NAME": structpb.NewStringValue("worker-1"), "CLUSTER_ID": structpb.NewStringValue("Kubernetes"),
			"ISTIO_VERSION": structpb.NewStringValue("1.30"), "AMBIT_VERSION": structpb.NewStringValue("v1\n2"),
		}},
	}
	cs := introduction(node)
	if cs.Agent != "ambit-ztunnel[31m" || cs.NodeName != "worker-1" || cs.Cluster != "Kubernetes" || cs.Version != "v12" || cs.NodeID != node.Id {
		t.Errorf("got %+v", cs)
	}
	if len(cs.Features) != maxFeatures || cs.Features[0] != "ambit.io/guards" || len(cs.Features[1]) > maxSaid {
		t.Errorf("features are %q", cs.Features)
	}
	if got := introduction(&corev3.Node{UserAgentVersionType: &corev3.Node_UserAgentVersion{UserAgentVersion: "1.2"}}); got.Version != "1.2" || got.Features != nil {
		t.Errorf("got %+v", got)
	}
	if got := introduction(nil); got.NodeID != "" {
		t.Errorf("nobody is %+v", got)
	}
}
