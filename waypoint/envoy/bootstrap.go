package envoy

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	overloadv3 "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	internalv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/bootstrap/internal_listener/v3"
	heapv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/fixed_heap/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
)

// Bootstrap is what Envoy is started with: where the agent is, the ports that tell of Envoy itself, and limits. All
// else comes from the agent. It never changes while Envoy runs.
func Bootstrap(o Options) (*bootstrapv3.Bootstrap, error) {
	o = o.withDefaults()
	if o.NodeID == "" {
		return nil, errors.New("bootstrap of Envoy: no node id: set POD_NAME, POD_NAMESPACE and INSTANCE_IP")
	}
	sockets := []string{o.XDSSocket, o.SDSSocket}
	if o.AdminSocket != "" {
		sockets = append(sockets, o.AdminSocket)
	}
	for _, path := range sockets {
		// sockaddr_un holds 108 bytes with the terminating zero, unix(7).
		if path == "" || len(path) > 107 {
			return nil, fmt.Errorf("bootstrap of Envoy: socket path %q: must have 1 to 107 characters; choose a shorter run directory", path)
		}
	}
	stats, err := o.stats()
	if err != nil {
		return nil, err
	}
	return &bootstrapv3.Bootstrap{
		Node:                o.node(),
		Admin:               &bootstrapv3.Admin{Address: o.adminAddress()},
		StaticResources:     &bootstrapv3.Bootstrap_StaticResources{Listeners: o.selfListeners(), Clusters: o.selfClusters()},
		DynamicResources:    o.dynamicResources(),
		StatsConfig:         stats,
		StatsEviction:       &bootstrapv3.Bootstrap_StatsEvictionInterval{StatsEvictionInterval: seconds(300)},
		LayeredRuntime:      o.runtime(),
		OverloadManager:     o.overload(),
		BootstrapExtensions: []*corev3.TypedExtensionConfig{typedExtension("envoy.bootstrap.internal_listener", &internalv3.InternalListener{})},
	}, nil
}

func (o Options) adminAddress() *corev3.Address {
	if o.AdminSocket == "" {
		return socketAddress("127.0.0.1", o.AdminPort)
	}
	return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: o.AdminSocket, Mode: 0o600}}}
}

func (o Options) node() *corev3.Node {
	return &corev3.Node{
		Id:       o.NodeID,
		Cluster:  o.NodeCluster,
		Locality: &corev3.Locality{Region: o.Region, Zone: o.Zone, SubZone: o.Subzone},
		Metadata: stringStruct("NAMESPACE", o.Namespace, "NAME", o.Pod, "WORKLOAD_NAME", o.Workload, "CLUSTER_ID", o.Cluster, "NETWORK", o.Network),
	}
}

func (o Options) dynamicResources() *bootstrapv3.Bootstrap_DynamicResources {
	return &bootstrapv3.Bootstrap_DynamicResources{
		AdsConfig: &corev3.ApiConfigSource{
			ApiType:                   corev3.ApiConfigSource_DELTA_GRPC,
			TransportApiVersion:       corev3.ApiVersion_V3,
			SetNodeOnFirstMessageOnly: true,
			GrpcServices:              []*corev3.GrpcService{o.toAgent(ClusterXDS)},
		},
		LdsConfig: fromADS(),
		CdsConfig: fromADS(),
	}
}

// selfClusters are the agent's sockets and Envoy's own admin port.
func (o Options) selfClusters() []*clusterv3.Cluster {
	var out []*clusterv3.Cluster
	for _, c := range []struct {
		name string
		at   *corev3.Address
	}{
		{ClusterXDS, pipeAddress(o.XDSSocket)},
		{ClusterSDS, pipeAddress(o.SDSSocket)},
		{ClusterAdmin, o.adminAddress()},
	} {
		cluster := staticCluster(c.name, c.at)
		if c.name != ClusterAdmin {
			cluster.TypedExtensionProtocolOptions = http2Upstream(nil, &corev3.Http2ProtocolOptions{})
		}
		out = append(out, cluster)
	}
	return out
}

// selfListeners answer the kubelet's readiness probe and scrapes. They stay open when the overload manager closes others.
func (o Options) selfListeners() []*listenerv3.Listener {
	return []*listenerv3.Listener{
		o.adminListener("readiness", o.ReadyPort, "/healthz/ready", "/ready"),
		o.adminListener("prometheus", o.StatsPort, "/stats/prometheus", "/stats/prometheus"),
	}
}

// runtime switches on what this configuration relies on.
func (o Options) runtime() *bootstrapv3.LayeredRuntime {
	static := stringStruct()
	// Regular expressions of routes and policies are the user's own; this is Istio's bound for them.
	static.Fields["re2.max_program_size.error_level"] = structpb.NewNumberValue(32768)
	static.Fields["re2.max_program_size.warn_level"] = structpb.NewNumberValue(32768)
	// Without it, endpoints' identities are only checked by one of Envoy's two certificate validators.
	static.Fields["envoy.reloadable_features.spiffe_validator_use_upstream_subject_alt_names"] = structpb.NewBoolValue(true)
	static.Fields[formatsInDescriptors] = structpb.NewBoolValue(true)
	// The end of a connection between two of Envoy's own listeners is an end. As a reset, which it is by default, it
	// overtakes the last bytes: the answer to a request that asks for the connection to be closed, or a greeting. The
	// price is that a reset of one side of a TCP service is an end to the other.
	static.Fields["envoy.reloadable_features.enable_send_rst_on_user_space_socket"] = structpb.NewBoolValue(false)
	for _, key := range slices.Sorted(maps.Keys(o.Runtime)) {
		static.Fields[key] = structpb.NewStringValue(o.Runtime[key])
	}
	return &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{
		{Name: "static", LayerSpecifier: &bootstrapv3.RuntimeLayer_StaticLayer{StaticLayer: static}},
		{Name: "admin", LayerSpecifier: &bootstrapv3.RuntimeLayer_AdminLayer_{AdminLayer: &bootstrapv3.RuntimeLayer_AdminLayer{}}},
	}}
}

// overload refuses new work before the kernel kills the whole process for its memory.
func (o Options) overload() *overloadv3.OverloadManager {
	action := func(name string, at float64) *overloadv3.OverloadAction {
		return &overloadv3.OverloadAction{Name: name, Triggers: []*overloadv3.Trigger{{
			Name:         "envoy.resource_monitors.fixed_heap",
			TriggerOneof: &overloadv3.Trigger_Threshold{Threshold: &overloadv3.ThresholdTrigger{Value: at}},
		}}}
	}
	monitor := func(name string, config proto.Message) *overloadv3.ResourceMonitor {
		return &overloadv3.ResourceMonitor{Name: name, ConfigType: &overloadv3.ResourceMonitor_TypedConfig{TypedConfig: toAny(config)}}
	}
	return &overloadv3.OverloadManager{
		RefreshInterval: durationpb.New(250_000_000),
		ResourceMonitors: []*overloadv3.ResourceMonitor{
			monitor("envoy.resource_monitors.fixed_heap", &heapv3.FixedHeapConfig{MaxHeapSizeBytes: o.MaxHeap}),
			monitor("envoy.resource_monitors.global_downstream_max_connections", downstreamConnections(o.MaxConnections)),
		},
		Actions: []*overloadv3.OverloadAction{
			action("envoy.overload_actions.shrink_heap", 0.9),
			action("envoy.overload_actions.stop_accepting_requests", 0.98),
		},
	}
}
