package admin

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/http"
	"runtime"
	"slices"

	"github.com/ambit-mesh/ambit/ztunnel/state"
)

// configDump writes what istioctl and ambitctl read. It is written piece by piece: a mesh of fifty thousand workloads is
// forty megabytes of JSON, which nobody should hold to answer a question.
func (s Sources) configDump(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	out := bufio.NewWriterSize(w, 64<<10)
	d := dumper{w: out}
	snap := state.New().Current()
	if s.State != nil {
		snap = s.State()
	}
	d.begin()
	list(&d, "workloads", snap.Workloads(), dumpWorkload)
	list(&d, "services", snap.Services(), func(svc *state.Service) any { return dumpService(snap, svc) })
	list(&d, "policies", snap.Policies(), dumpPolicy)
	d.value("stagedServices", dumpStaged(snap))
	d.value("staticConfig", s.dumpStatic())
	d.value("version", map[string]string{"version": s.Version, "golangVersion": runtime.Version(), "buildStatus": runtime.GOOS + "/" + runtime.GOARCH})
	d.value("config", s.Config)
	d.value("certificates", s.dumpCertificates())
	d.value("workloadState", s.dumpPods())
	d.end()
	if d.err == nil {
		d.err = out.Flush()
	}
	// The status line is out already; a client that went away needs no answer.
}

// dumpStatic shows what LOCAL_XDS was, as far as it says anything.
func (s Sources) dumpStatic() map[string][]any {
	snap := state.New().Current()
	if s.Static != nil {
		snap = s.Static()
	}
	return map[string][]any{
		"workloads": converted(snap.Workloads(), dumpWorkload),
		"services":  converted(snap.Services(), func(svc *state.Service) any { return dumpService(snap, svc) }),
		"policies":  converted(snap.Policies(), dumpPolicy),
	}
}

func converted[V any](seq iter.Seq2[string, V], convert func(V) any) []any {
	all := maps.Collect(seq)
	out := make([]any, 0, len(all))
	for _, key := range slices.Sorted(maps.Keys(all)) {
		out = append(out, convert(all[key]))
	}
	return out
}

// dumper writes one JSON object with two spaces of indentation.
type dumper struct {
	w     io.Writer
	err   error
	comma bool
}

func (d *dumper) raw(s string) {
	if d.err == nil {
		_, d.err = io.WriteString(d.w, s)
	}
}

func (d *dumper) begin() { d.raw("{") }
func (d *dumper) end()   { d.raw("\n}\n") }

func (d *dumper) key(k string) {
	if d.comma {
		d.raw(",")
	}
	d.comma = true
	d.raw("\n  \"" + k + "\": ")
}

func (d *dumper) json(v any, indent string) {
	if d.err != nil {
		return
	}
	var b []byte
	if b, d.err = json.MarshalIndent(v, indent, "  "); d.err == nil {
		_, d.err = d.w.Write(b)
	}
}

func (d *dumper) value(k string, v any) {
	d.key(k)
	d.json(v, "  ")
}

func list[V any](d *dumper, k string, seq iter.Seq2[string, V], convert func(V) any) {
	all := maps.Collect(seq)
	d.key(k)
	d.raw("[")
	for i, key := range slices.Sorted(maps.Keys(all)) {
		if i > 0 {
			d.raw(",")
		}
		d.raw("\n    ")
		d.json(convert(all[key]), "    ")
	}
	if len(all) > 0 {
		d.raw("\n  ")
	}
	d.raw("]")
}

type gatewayJSON struct {
	Destination string `json:"destination"`
	Port        uint16 `json:"hboneMtlsPort"`
}

func dumpGateway(g *state.Gateway) *gatewayJSON {
	switch {
	case g == nil:
		return nil
	case g.Hostname != "":
		return &gatewayJSON{g.Namespace + "/" + g.Hostname, g.Port}
	}
	return &gatewayJSON{g.Addr.String(), g.Port}
}

type tunnelJSON struct {
	Protocol string `json:"protocol"`
	Port     uint16 `json:"port,omitempty"`
}

type localityJSON struct {
	Region  string `json:"region,omitempty"`
	Zone    string `json:"zone,omitempty"`
	Subzone string `json:"subzone,omitempty"`
}

type workloadJSON struct {
	WorkloadIPs           []string     `json:"workloadIps"`
	Waypoint              *gatewayJSON `json:"waypoint,omitempty"`
	NetworkGateway        *gatewayJSON `json:"networkGateway,omitempty"`
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
	ApplicationTunnel     *tunnelJSON  `json:"applicationTunnel,omitempty"`
	AuthorizationPolicies []string     `json:"authorizationPolicies"`
	Status                string       `json:"status"`
	ClusterID             string       `json:"clusterId"`
	Locality              localityJSON `json:"locality"`
	Services              []string     `json:"services"`
	Capacity              uint32       `json:"capacity"`
	Guards                *guardsJSON  `json:"guards,omitempty"`
}

func dumpWorkload(w *state.Workload) any {
	j := workloadJSON{
		WorkloadIPs: []string{}, Waypoint: dumpGateway(w.Waypoint), NetworkGateway: dumpGateway(w.NetworkGateway),
		Protocol: w.Tunnel.String(), NetworkMode: pick(w.HostNetwork, "HostNetwork", "Standard"),
		UID: w.UID, Name: w.Name, Namespace: w.Namespace, TrustDomain: w.TrustDomain, ServiceAccount: w.ServiceAccount,
		Network: w.Network, WorkloadName: w.WorkloadName, WorkloadType: w.Type.String(),
		CanonicalName: w.CanonicalName, CanonicalRevision: w.CanonicalRevision, Hostname: w.Hostname, Node: w.Node,
		NativeTunnel: w.NativeTunnel, AuthorizationPolicies: append([]string{}, w.AuthorizationPolicies...),
		Status: pick(w.Healthy, "Healthy", "Unhealthy"), ClusterID: w.ClusterID, Services: []string{}, Capacity: w.Capacity,
		Guards: dumpGuards(w.Guards),
	}
	for _, a := range w.Addrs {
		j.WorkloadIPs = append(j.WorkloadIPs, a.String())
	}
	for i := range w.Endpoints {
		j.Services = append(j.Services, w.Endpoints[i].Service)
	}
	if t := w.AppTunnel; t != nil {
		j.ApplicationTunnel = &tunnelJSON{pick(t.Proxy, "PROXY", "NONE"), t.Port}
	}
	if l := w.Locality; l != nil {
		j.Locality = localityJSON(*l)
	}
	return j
}

func pick(cond bool, yes, no string) string {
	if cond {
		return yes
	}
	return no
}

type endpointJSON struct {
	WorkloadUID string            `json:"workloadUid"`
	Service     string            `json:"service"`
	Port        map[string]uint16 `json:"port"`
	Status      string            `json:"status"`
}

type balancerJSON struct {
	Preferences  []string `json:"routingPreferences"`
	Mode         string   `json:"mode"`
	HealthPolicy string   `json:"healthPolicy"`
}

type weightedJSON struct {
	Destination *gatewayJSON `json:"destination"`
	Weight      uint32       `json:"weight"`
}

type serviceJSON struct {
	Name              string                  `json:"name"`
	Namespace         string                  `json:"namespace"`
	Hostname          string                  `json:"hostname"`
	VIPs              []string                `json:"vips"`
	CIDRs             []string                `json:"cidrVips"`
	Ports             map[string]uint16       `json:"ports"`
	Endpoints         map[string]endpointJSON `json:"endpoints"`
	SubjectAltNames   []string                `json:"subjectAltNames"`
	Waypoint          *gatewayJSON            `json:"waypoint,omitempty"`
	WeightedWaypoints []weightedJSON          `json:"weightedWaypoints,omitempty"`
	LoadBalancer      *balancerJSON           `json:"loadBalancer,omitempty"`
	IPFamilies        string                  `json:"ipFamilies,omitempty"`
	Canonical         bool                    `json:"canonical"`
	Visibility        string                  `json:"visibility"`
	Guards            *guardsJSON             `json:"guards,omitempty"`
}

func dumpService(snap *state.Snapshot, s *state.Service) any {
	j := serviceJSON{
		Name: s.Name, Namespace: s.Namespace, Hostname: s.Hostname, VIPs: []string{}, CIDRs: []string{},
		Ports: map[string]uint16{}, SubjectAltNames: append([]string{}, s.SubjectAltNames...),
		Endpoints: dumpEndpoints(snap.Endpoints(s)), Waypoint: dumpGateway(s.Waypoint),
		IPFamilies: [...]string{"", "IPv4", "IPv6", "Dual"}[s.Families&3], Canonical: s.Canonical,
		Visibility: pick(s.Private, "Namespace", "Public"), Guards: dumpGuards(s.Guards),
	}
	for _, v := range s.VIPs {
		j.VIPs = append(j.VIPs, v.String())
	}
	for _, c := range s.CIDRs {
		j.CIDRs = append(j.CIDRs, c.String())
	}
	for _, p := range s.Ports {
		j.Ports[fmt.Sprint(p.Service)] = p.Target
	}
	for i := range s.Waypoints {
		j.WeightedWaypoints = append(j.WeightedWaypoints, weightedJSON{dumpGateway(&s.Waypoints[i].Gateway), s.Waypoints[i].Weight})
	}
	if s.Mode != state.Unspecified || len(s.Preference) > 0 || s.AllowUnhealthy {
		j.LoadBalancer = &balancerJSON{Preferences: []string{}, Mode: s.Mode.String(), HealthPolicy: pick(s.AllowUnhealthy, "AllowAll", "OnlyHealthy")}
		for _, p := range s.Preference {
			j.LoadBalancer.Preferences = append(j.LoadBalancer.Preferences, p.String())
		}
	}
	return j
}

func dumpEndpoints(e *state.Endpoints) map[string]endpointJSON {
	out := map[string]endpointJSON{}
	eps, _ := e.List()
	for _, ep := range eps {
		j := endpointJSON{ep.Workload.UID, ep.Service, map[string]uint16{}, pick(ep.Workload.Healthy, "Healthy", "Unhealthy")}
		for _, p := range ep.Ports {
			j.Port[fmt.Sprint(p.Service)] = p.Target
		}
		out[ep.Workload.UID] = j
	}
	return out
}

func dumpStaged(snap *state.Snapshot) map[string]map[string]endpointJSON {
	out := map[string]map[string]endpointJSON{}
	for key, e := range snap.Staged() {
		out[key] = dumpEndpoints(e)
	}
	return out
}

type podJSON struct {
	State       string `json:"state"`
	Connections struct {
		Inbound  []Connection `json:"inbound"`
		Outbound []Connection `json:"outbound"`
	} `json:"connections"`
	Info struct {
		Name           string `json:"name"`
		Namespace      string `json:"namespace"`
		ServiceAccount string `json:"serviceAccount"`
	} `json:"info"`
}

func (s Sources) dumpPods() map[string]podJSON {
	out := map[string]podJSON{}
	if s.Pods == nil {
		return out
	}
	for _, p := range s.Pods() {
		var j podJSON
		j.State = p.State
		j.Connections.Inbound, j.Connections.Outbound = append([]Connection{}, p.Inbound...), append([]Connection{}, p.Outbound...)
		j.Info.Name, j.Info.Namespace, j.Info.ServiceAccount = p.Name, p.Namespace, p.ServiceAccount
		out[p.UID] = j
	}
	return out
}
