package static_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/security"
	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	"github.com/ambit-mesh/ambit/ztunnel/static"
)

// The shapes that occur in files people have for Istio's ztunnel.
const sample = `
workloads:
- uid: cluster1//v1/Pod/default/local
  name: local
  namespace: default
  serviceAccount: local-sa
  workloadIps: ["127.0.0.1", "::ffff:127.0.0.9"]
  protocol: HBONE
  node: local
  network: ""
  waypoint: {destination: "net/10.0.0.20", hboneMtlsPort: 15008}
  services:
    default/example.com:
      80: 8080
- name: outside
  namespace: default
  workloadIps: ["127.0.0.2"]
  services: [default/example.com]
  capacity: 0
  status: Unhealthy
  applicationTunnel: {protocol: PROXY, port: 15088}
  locality: {region: r}
services:
- name: example
  namespace: default
  hostname: example.com
  vips: [/127.10.0.1]
  cidrVips: [net/10.1.0.0/16]
  ports: {80: 8080}
  subjectAltNames: [spiffe://cluster.local/ns/default/sa/local]
  waypoint: {destination: default/waypoint.example.com, hboneMtlsPort: 15008}
  loadBalancer: {routingPreferences: [Network, Zone], mode: Failover, healthPolicy: AllowAll}
  ipFamilies: Dual
policies:
- name: only
  namespace: default
  scope: Namespace
  action: Allow
  rules:
  - - - principals: [{Exact: a}, {Prefix: b}, {Suffix: c}, {Presence: []}, Presence]
        notSourceIps: [10.0.0.0/8, 10.1.1.1]
        serviceAccounts: [{namespace: default, serviceAccount: local-sa}]
        notDestinationPorts: [9999]
`

func TestSample(t *testing.T) {
	resources, err := static.Parse([]byte(sample), "east")
	if err != nil {
		t.Fatal(err)
	}
	st := state.New()
	for _, r := range resources {
		if rejected := st.Apply(r.TypeURL, []xds.Raw{r.Raw}, nil); len(rejected) > 0 {
			t.Fatalf("%s: %v", rejected[0].Name, rejected[0].Err)
		}
	}
	s := st.Current()
	local, outside := s.Workload("cluster1//v1/Pod/default/local"), s.Pod("east", "default", "outside")
	if local == nil || local.Tunnel != state.HBONE || local.Endpoint("default/example.com").TargetPort(80) != 8080 || len(local.Addrs) != 2 || !local.Waypoint.Addr.Addr.IsValid() || local.Capacity != 1 {
		t.Errorf("local: %+v", local)
	}
	if outside == nil || outside.Tunnel != state.TCP || outside.Healthy || outside.Capacity != 0 || outside.Endpoint("default/example.com") == nil || !outside.AppTunnel.Proxy || outside.Locality.Region != "r" {
		t.Errorf("outside: %+v", outside)
	}
	svc := s.ServiceByKey("default/example.com")
	if svc == nil || len(svc.VIPs) != 1 || len(svc.CIDRs) != 1 || svc.Waypoint.Hostname != "waypoint.example.com" || svc.Mode != state.Failover || !svc.AllowUnhealthy || svc.Families != state.Dual || len(svc.Accept) != 1 {
		t.Errorf("service: %+v", svc)
	}
	var p security.Authorization
	for _, r := range resources {
		if r.TypeURL == mesh.TypeAuthorization {
			if err := proto.Unmarshal(r.Raw.Body, &p); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := `{"name":"only","namespace":"default","scope":"NAMESPACE","rules":[{"clauses":[{"matches":[{"principals":[{"exact":"a"},{"prefix":"b"},{"suffix":"c"},{"presence":{}},{"presence":{}}],"notSourceIps":[{"address":"CgAAAA==","length":8},{"address":"CgEBAQ==","length":32}],"serviceAccounts":[{"namespace":"default","serviceAccount":"local-sa"}],"notDestinationPorts":[9999]}]}]}]}`
	var expected security.Authorization
	if err := protojson.Unmarshal([]byte(want), &expected); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(&p, &expected) {
		t.Errorf("policy %s", protojson.Format(&p))
	}
}

func TestMistakesAreNamed(t *testing.T) {
	for text, want := range map[string]string{
		"workload: []": `unknown field "workload"`,
		"workloads: [{name: a, namespace: ns, protocl: HBONE}]":                                                                 "protocl",
		"workloads: [{name: a, namespace: ns, protocol: hbone}]":                                                                `workloads[0] (ns/a): protocol "hbone" is not known: use one of HBONE, TCP`,
		"workloads: [{name: a}]":                                                                                                "neither a uid",
		"workloads: [{name: a, namespace: ns, workloadIps: [10.0.0]}]":                                                          "10.0.0",
		"workloads: [{name: a, namespace: ns, waypoint: {destination: somewhere}}]":                                             `destination "somewhere" is neither`,
		"workloads: [{name: a, namespace: ns, services: {x: 80}}]":                                                              "want namespace/hostname",
		"services: [{namespace: ns, hostname: h, vips: [10.0.0.1]}]":                                                            `vips: "10.0.0.1" is not network/ip`,
		"services: [{namespace: ns, hostname: h, cidrVips: [/10.0.0.1]}]":                                                       "is not network/ip/length",
		"policies: [{name: p, namespace: ns, scope: Namespace, action: Audit}]":                                                 `action "Audit" is not known: use one of Allow, Deny`,
		"policies: [{name: p, namespace: ns, action: Deny}]":                                                                    `scope "" is not known`,
		"policies: [{name: p, namespace: ns, scope: Global, action: Deny, rules: [[[{principals: [a]}]]]}]":                     "is not a string match",
		"policies: [{name: p, namespace: ns, scope: Global, action: Deny, rules: [[[{principals: [{Exact: a, Prefix: b}]}]]]}]": "is not a string match",
		"policies: [{name: p, namespace: ns, scope: Global, action: Deny, rules: [[[{principals: [{Regex: a}]}]]]}]":            `"Regex" is no kind of string match`,
		"\x00": "not a static configuration",
	} {
		_, err := static.Parse([]byte(text), "east")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n got %v\nwant %s", text, err, want)
		}
	}
}

// Whatever the file holds, it is refused or applied, and what was written as a policy is a policy.
func FuzzParse(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte("policies: [{name: p, namespace: ns, scope: Global, action: Deny, rules: [[[{principals: [null]}]]]}]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		resources, err := static.Parse(text, "east")
		if err != nil {
			return
		}
		st := state.New()
		for _, r := range resources {
			st.Apply(r.TypeURL, []xds.Raw{r.Raw}, nil)
		}
	})
}
