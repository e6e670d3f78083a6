package workload_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/api/auth"
	"github.com/ambit-mesh/ambit/api/security"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/api/zds"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// The wire as Istio ambient fixes it, written down once more by hand: a message's fields, or an enum's values, with their
// numbers. A field reads name=number type; types are protobuf's, messages and enums by name, [] repeated, ? optional, | in a oneof.
// Istio ambient wire contract: istio.workload, istio.security, ZDS, CA.
var wire = map[string]string{
	"istio.workload.Address": "workload=1 Workload | service=2 Service |",
	"istio.workload.Service": `name=1 string namespace=2 string hostname=3 string addresses=4 []NetworkAddress ports=5 []Port
		subject_alt_names=6 []string waypoint=7 GatewayAddress load_balancing=8 LoadBalancing ip_families=9 IPFamilies
		extensions=10 []Extension canonical=11 bool ingress_use_waypoint=12 bool weighted_waypoints=13 []WeightedWaypoint visibility=14 Visibility`,
	"istio.workload.Service.Visibility":         "PUBLIC=0 NAMESPACE=1",
	"istio.workload.IPFamilies":                 "AUTOMATIC=0 IPV4_ONLY=1 IPV6_ONLY=2 DUAL=3",
	"istio.workload.LoadBalancing":              "routing_preference=1 []Scope mode=2 Mode health_policy=3 HealthPolicy",
	"istio.workload.LoadBalancing.Scope":        `UNSPECIFIED_SCOPE=0 REGION=1 ZONE=2 SUBZONE=3 NODE=4 CLUSTER=5 NETWORK=6`,
	"istio.workload.LoadBalancing.Mode":         "UNSPECIFIED_MODE=0 STRICT=1 FAILOVER=2 PASSTHROUGH=3",
	"istio.workload.LoadBalancing.HealthPolicy": "ONLY_HEALTHY=0 ALLOW_ALL=1",
	"istio.workload.Port":                       "service_port=1 uint32 target_port=2 uint32 app_protocol=3 AppProtocol",
	"istio.workload.AppProtocol":                "UNKNOWN=0 HTTP11=1 HTTP2=2 GRPC=3 TCP=4 TLS=5",
	"istio.workload.Workload": `name=1 string namespace=2 string addresses=3 []bytes network=4 string tunnel_protocol=5 TunnelProtocol
		trust_domain=6 string service_account=7 string waypoint=8 GatewayAddress node=9 string canonical_name=10 string
		canonical_revision=11 string workload_type=12 WorkloadType workload_name=13 string native_tunnel=14 bool
		authorization_policies=16 []string status=17 WorkloadStatus cluster_id=18 string network_gateway=19 GatewayAddress
		uid=20 string hostname=21 string services=22 map<string,PortList> application_tunnel=23 ApplicationTunnel
		locality=24 Locality network_mode=25 NetworkMode extensions=26 []Extension capacity=27 UInt32Value`,
	"istio.workload.TunnelProtocol":             "NONE=0 HBONE=1 LEGACY_ISTIO_MTLS=2",
	"istio.workload.WorkloadType":               "DEPLOYMENT=0 CRONJOB=1 POD=2 JOB=3",
	"istio.workload.WorkloadStatus":             "HEALTHY=0 UNHEALTHY=1",
	"istio.workload.NetworkMode":                "STANDARD=0 HOST_NETWORK=1",
	"istio.workload.PortList":                   "ports=1 []Port",
	"istio.workload.ApplicationTunnel":          "protocol=1 Protocol port=2 uint32",
	"istio.workload.ApplicationTunnel.Protocol": "NONE=0 PROXY=1",
	"istio.workload.GatewayAddress":             "hostname=1 NamespacedHostname | address=2 NetworkAddress | hbone_mtls_port=3 uint32",
	"istio.workload.NamespacedHostname":         "namespace=1 string hostname=2 string",
	"istio.workload.NetworkAddress":             "network=1 string address=2 bytes length=3 ?uint32",
	"istio.workload.WeightedWaypoint":           "destination=1 GatewayAddress weight=2 uint32",
	"istio.workload.Locality":                   "region=1 string zone=2 string subzone=3 string",
	"istio.workload.Extension":                  "name=1 string config=2 Any",

	"istio.security.Authorization": `name=1 string namespace=2 string scope=3 Scope action=4 Action rules=5 []Rule dry_run=6 bool
		extensions=7 []Extension`,
	"istio.security.Scope":  "GLOBAL=0 NAMESPACE=1 WORKLOAD_SELECTOR=2",
	"istio.security.Action": "ALLOW=0 DENY=1",
	"istio.security.Rule":   "clauses=1 []Clause",
	"istio.security.Clause": "matches=2 []Match",
	"istio.security.Match": `namespaces=1 []StringMatch not_namespaces=2 []StringMatch principals=3 []StringMatch
		not_principals=4 []StringMatch source_ips=5 []Address not_source_ips=6 []Address destination_ips=7 []Address
		not_destination_ips=8 []Address destination_ports=9 []uint32 not_destination_ports=10 []uint32
		service_accounts=11 []ServiceAccountMatch not_service_accounts=12 []ServiceAccountMatch extensions=13 []Extension`,
	"istio.security.Address":             "address=1 bytes length=2 uint32",
	"istio.security.StringMatch":         "exact=1 string | prefix=2 string | suffix=3 string | presence=4 Empty |",
	"istio.security.ServiceAccountMatch": "namespace=1 string serviceAccount=2 string",
	"istio.security.Extension":           "name=1 string config=2 Any",
	"istio.security.Empty":               "",

	"istio.workload.zds.Version":          "NOT_USED=0 V1=1",
	"istio.workload.zds.ZdsHello":         "version=1 Version",
	"istio.workload.zds.WorkloadRequest":  "add=1 AddWorkload | del=2 DelWorkload | snapshot_sent=3 SnapshotSent | keep=5 KeepWorkload |",
	"istio.workload.zds.AddWorkload":      "uid=1 string workload_info=2 WorkloadInfo",
	"istio.workload.zds.WorkloadInfo":     "name=1 string namespace=2 string service_account=3 string",
	"istio.workload.zds.KeepWorkload":     "uid=1 string",
	"istio.workload.zds.DelWorkload":      "uid=2 string",
	"istio.workload.zds.SnapshotSent":     "",
	"istio.workload.zds.WorkloadResponse": "ack=1 Ack |",
	"istio.workload.zds.Ack":              "error=1 string",

	"istio.v1.auth.IstioCertificateRequest":  "csr=1 string validity_duration=3 int64 metadata=4 Struct",
	"istio.v1.auth.IstioCertificateResponse": "cert_chain=1 []string",
}

func TestDescriptorsAreTheContract(t *testing.T) {
	got := map[string]string{}
	for _, file := range []protoreflect.FileDescriptor{
		workload.File_workload_workload_proto, security.File_security_authorization_proto, zds.File_zds_zds_proto, auth.File_auth_ca_proto,
	} {
		describeEnums(got, file.Enums())
		describeMessages(got, file.Messages())
	}
	for name, fields := range wire {
		if want := strings.Join(strings.Fields(fields), " "); got[name] != want {
			t.Errorf("%s\n got %s\nwant %s", name, got[name], want)
		}
	}
	for name := range got {
		if _, ok := wire[name]; !ok {
			t.Errorf("%s is not part of the contract", name)
		}
	}
}

func TestCertificateServiceName(t *testing.T) {
	m := auth.File_auth_ca_proto.Services().Get(0).Methods().Get(0)
	if m.FullName() != "istio.v1.auth.IstioCertificateService.CreateCertificate" || m.IsStreamingClient() || m.IsStreamingServer() {
		t.Errorf("method %s", m.FullName())
	}
}

func describeMessages(out map[string]string, ms protoreflect.MessageDescriptors) {
	for i := range ms.Len() {
		m := ms.Get(i)
		if m.IsMapEntry() {
			continue
		}
		var lines []string
		for j := range m.Fields().Len() {
			lines = append(lines, describeField(m.Fields().Get(j)))
		}
		out[string(m.FullName())] = strings.Join(lines, " ")
		describeEnums(out, m.Enums())
		describeMessages(out, m.Messages())
	}
}

func describeField(f protoreflect.FieldDescriptor) string {
	typ := kind(f)
	switch {
	case f.IsMap():
		typ = fmt.Sprintf("map<%s,%s>", kind(f.MapKey()), kind(f.MapValue()))
	case f.IsList():
		typ = "[]" + typ
	case f.HasOptionalKeyword():
		typ = "?" + typ
	case f.ContainingOneof() != nil:
		typ += " |"
	}
	return fmt.Sprintf("%s=%d %s", f.Name(), f.Number(), typ)
}

func kind(f protoreflect.FieldDescriptor) string {
	switch {
	case f.Message() != nil:
		return string(f.Message().Name())
	case f.Enum() != nil:
		return string(f.Enum().Name())
	}
	return f.Kind().String()
}

func describeEnums(out map[string]string, es protoreflect.EnumDescriptors) {
	for i := range es.Len() {
		var values []string
		for j := range es.Get(i).Values().Len() {
			v := es.Get(i).Values().Get(j)
			values = append(values, fmt.Sprintf("%s=%d", v.Name(), v.Number()))
		}
		out[string(es.Get(i).FullName())] = strings.Join(values, " ")
	}
}
