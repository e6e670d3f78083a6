// Package static reads the workloads, services and policies that a proxy may be given in a file instead of, or besides, by a
// control plane (LOCAL_XDS and LOCAL_XDS_PATH of Istio's ztunnel).
//
// The document has the shape of config_dump, which is also what Istio's ztunnel reads: lists named workloads, services and
// policies; a workload's services map namespace/hostname to service ports and target ports. A field that is not known is
// refused, as is anything the control plane's own messages would be refused for. The package turns text into those messages;
// it opens no files and keeps no state. Start reading at Parse.
package static

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/api/xds"
)

// Resource is one workload, service or policy as a control plane would send it.
type Resource struct {
	TypeURL string
	Raw     xds.Raw
}

// maxSize bounds the document. A hundred thousand workloads do not belong into a file.
const maxSize = 16 << 20

type document struct {
	Workloads []workloadIn `json:"workloads"`
	Services  []serviceIn  `json:"services"`
	Policies  []policyIn   `json:"policies"`
}

// Parse reads a document. Services come first and policies before workloads, so that no workload is without what it names.
func Parse(text []byte, clusterID string) ([]Resource, error) {
	if len(text) > maxSize {
		return nil, fmt.Errorf("%d bytes are more than the %d a static configuration may have", len(text), maxSize)
	}
	var doc document
	if err := yaml.UnmarshalStrict(text, &doc); err != nil {
		return nil, fmt.Errorf("not a static configuration (workloads, services, policies): %w", err)
	}
	var out []Resource
	for i := range doc.Services {
		in := &doc.Services[i]
		svc, err := in.proto()
		if err != nil {
			return nil, fmt.Errorf("services[%d] (%s/%s): %w", i, in.Namespace, in.Hostname, err)
		}
		name := mesh.ServiceName(svc.GetNamespace(), svc.GetHostname())
		out = append(out, encode(mesh.TypeAddress, name, &workload.Address{Type: &workload.Address_Service{Service: svc}}))
	}
	for i := range doc.Policies {
		in := &doc.Policies[i]
		p, err := in.proto()
		if err != nil {
			return nil, fmt.Errorf("policies[%d] (%s/%s): %w", i, in.Namespace, in.Name, err)
		}
		out = append(out, encode(mesh.TypeAuthorization, p.GetNamespace()+"/"+p.GetName(), p))
	}
	for i := range doc.Workloads {
		in := &doc.Workloads[i]
		w, err := in.proto(clusterID)
		if err != nil {
			return nil, fmt.Errorf("workloads[%d] (%s/%s): %w", i, in.Namespace, in.Name, err)
		}
		out = append(out, encode(mesh.TypeAddress, w.GetUid(), &workload.Address{Type: &workload.Address_Workload{Workload: w}}))
	}
	return out, nil
}

func encode(typeURL, name string, m proto.Message) Resource {
	body, err := proto.Marshal(m)
	if err != nil {
		panic("static: " + err.Error()) // strings from YAML are valid UTF-8, and nothing else can fail
	}
	return Resource{typeURL, xds.Raw{Name: name, Body: body}}
}

type gatewayIn struct {
	Destination string `json:"destination"`
	Port        uint16 `json:"hboneMtlsPort"`
}

// proto reads "network/ip" or "namespace/hostname".
func (g *gatewayIn) proto() (*workload.GatewayAddress, error) {
	if g == nil {
		return nil, nil
	}
	first, second, ok := strings.Cut(g.Destination, "/")
	if !ok || second == "" {
		return nil, fmt.Errorf("destination %q is neither network/ip nor namespace/hostname", g.Destination)
	}
	out := &workload.GatewayAddress{HboneMtlsPort: uint32(g.Port)}
	if ip, err := netip.ParseAddr(second); err == nil {
		out.Destination = &workload.GatewayAddress_Address{Address: &workload.NetworkAddress{Network: first, Address: ip.AsSlice()}}
	} else {
		out.Destination = &workload.GatewayAddress_Hostname{Hostname: &workload.NamespacedHostname{Namespace: first, Hostname: second}}
	}
	return out, nil
}

type tunnelIn struct {
	Protocol string `json:"protocol"`
	Port     uint16 `json:"port"`
}

type localityIn struct {
	Region  string `json:"region"`
	Zone    string `json:"zone"`
	Subzone string `json:"subzone"`
}

type workloadIn struct {
	WorkloadIPs           []netip.Addr `json:"workloadIps"`
	Waypoint              *gatewayIn   `json:"waypoint"`
	NetworkGateway        *gatewayIn   `json:"networkGateway"`
	Protocol              string       `json:"protocol"`
	NetworkMode           string       `json:"networkMode"`
	UID                   string       `json:"uid"`
	Name                  string       `json:"name"`
	Namespace             string       `json:"namespace"`
	TrustDomain           string       `json:"trustDomain"`
	ServiceAccount        string       `json:"serviceAccount"`
	Network               string       `json:"network"`
	WorkloadName          string       `json:"workloadName"`
	WorkloadType          string       `json:"workloadType"`
	CanonicalName         string       `json:"canonicalName"`
	CanonicalRevision     string       `json:"canonicalRevision"`
	Hostname              string       `json:"hostname"`
	Node                  string       `json:"node"`
	NativeTunnel          bool         `json:"nativeTunnel"`
	ApplicationTunnel     *tunnelIn    `json:"applicationTunnel"`
	AuthorizationPolicies []string     `json:"authorizationPolicies"`
	Status                string       `json:"status"`
	ClusterID             string       `json:"clusterId"`
	Locality              *localityIn  `json:"locality"`
	Services              memberships  `json:"services"`
	Capacity              *uint32      `json:"capacity"`
}

// memberships are services with the ports the workload maps itself; a list of names where it maps none, as in config_dump.
type memberships map[string]map[uint16]uint16

// UnmarshalJSON reads either form.
func (m *memberships) UnmarshalJSON(b []byte) error {
	var names []string
	if err := json.Unmarshal(b, &names); err == nil {
		*m = make(memberships, len(names))
		for _, name := range names {
			(*m)[name] = nil
		}
		return nil
	}
	var ports map[string]map[uint16]uint16
	if err := json.Unmarshal(b, &ports); err != nil {
		return fmt.Errorf("services: want namespace/hostname: {service port: target port}: %w", err)
	}
	*m = ports
	return nil
}

func (in *workloadIn) proto(clusterID string) (*workload.Workload, error) {
	w := &workload.Workload{
		Uid: in.UID, Name: in.Name, Namespace: in.Namespace, TrustDomain: in.TrustDomain, ServiceAccount: in.ServiceAccount,
		Network: in.Network, WorkloadName: in.WorkloadName, CanonicalName: in.CanonicalName, CanonicalRevision: in.CanonicalRevision,
		Hostname: in.Hostname, Node: in.Node, NativeTunnel: in.NativeTunnel, AuthorizationPolicies: in.AuthorizationPolicies, ClusterId: in.ClusterID,
	}
	if w.ClusterId == "" {
		w.ClusterId = clusterID
	}
	if w.Uid == "" {
		if in.Name == "" || in.Namespace == "" {
			return nil, fmt.Errorf("has neither a uid nor a namespace and a name to make one of")
		}
		w.Uid = mesh.PodUID(w.ClusterId, in.Namespace, in.Name)
	}
	if in.Capacity != nil {
		w.Capacity = wrapperspb.UInt32(*in.Capacity)
	}
	if l := in.Locality; l != nil {
		w.Locality = &workload.Locality{Region: l.Region, Zone: l.Zone, Subzone: l.Subzone}
	}
	for _, a := range in.WorkloadIPs {
		w.Addresses = append(w.Addresses, a.Unmap().AsSlice())
	}
	for name, ports := range in.Services {
		if w.Services == nil {
			w.Services = map[string]*workload.PortList{}
		}
		w.Services[name] = &workload.PortList{Ports: portList(ports)}
	}
	var err error
	if w.Waypoint, err = in.Waypoint.proto(); err != nil {
		return nil, fmt.Errorf("waypoint: %w", err)
	}
	if w.NetworkGateway, err = in.NetworkGateway.proto(); err != nil {
		return nil, fmt.Errorf("networkGateway: %w", err)
	}
	return w, in.enums(w)
}

func (in *workloadIn) enums(w *workload.Workload) (err error) {
	if w.TunnelProtocol, err = choose("protocol", in.Protocol, map[string]workload.TunnelProtocol{
		"": workload.TunnelProtocol_NONE, "TCP": workload.TunnelProtocol_NONE, "HBONE": workload.TunnelProtocol_HBONE,
	}); err != nil {
		return err
	}
	if w.NetworkMode, err = choose("networkMode", in.NetworkMode, map[string]workload.NetworkMode{
		"": workload.NetworkMode_STANDARD, "Standard": workload.NetworkMode_STANDARD, "HostNetwork": workload.NetworkMode_HOST_NETWORK,
	}); err != nil {
		return err
	}
	if w.WorkloadType, err = choose("workloadType", in.WorkloadType, map[string]workload.WorkloadType{
		"": workload.WorkloadType_DEPLOYMENT, "deployment": workload.WorkloadType_DEPLOYMENT, "cronjob": workload.WorkloadType_CRONJOB,
		"pod": workload.WorkloadType_POD, "job": workload.WorkloadType_JOB,
	}); err != nil {
		return err
	}
	if w.Status, err = choose("status", in.Status, map[string]workload.WorkloadStatus{
		"": workload.WorkloadStatus_HEALTHY, "Healthy": workload.WorkloadStatus_HEALTHY, "Unhealthy": workload.WorkloadStatus_UNHEALTHY,
	}); err != nil {
		return err
	}
	if t := in.ApplicationTunnel; t != nil {
		w.ApplicationTunnel = &workload.ApplicationTunnel{Port: uint32(t.Port)}
		w.ApplicationTunnel.Protocol, err = choose("applicationTunnel.protocol", t.Protocol, map[string]workload.ApplicationTunnel_Protocol{
			"NONE": workload.ApplicationTunnel_NONE, "PROXY": workload.ApplicationTunnel_PROXY,
		})
	}
	return err
}

// choose finds the value a word stands for.
func choose[E any](field, word string, values map[string]E) (E, error) {
	v, ok := values[word]
	if !ok {
		var words []string
		for w := range values {
			if w != "" {
				words = append(words, w)
			}
		}
		return v, fmt.Errorf("%s %q is not known: use one of %s", field, word, sorted(words))
	}
	return v, nil
}
