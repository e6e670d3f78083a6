package envoy

import (
	"fmt"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
)

func TestPolicyFor(t *testing.T) {
	lb := func(a waypoint.LoadBalancer_Algorithm) *waypoint.LoadBalancer {
		return &waypoint.LoadBalancer{Algorithm: a}
	}
	pool := func(n uint32) *waypoint.ConnectionPool { return &waypoint.ConnectionPool{MaxConnections: n} }
	const random, roundRobin, hash = waypoint.LoadBalancer_RANDOM, waypoint.LoadBalancer_ROUND_ROBIN, waypoint.LoadBalancer_HASH
	d := &waypoint.Destination{
		Policy: &waypoint.TrafficPolicy{LoadBalancer: lb(random), Pool: pool(1), Tls: &waypoint.ClientTLS{Sni: "all"}},
		Ports:  map[uint32]*waypoint.TrafficPolicy{80: {LoadBalancer: lb(roundRobin)}, 81: {ProxyProtocol: 1}},
		Subsets: []*waypoint.Subset{
			{Name: "empty"},
			{Name: "v1", Policy: &waypoint.TrafficPolicy{Pool: pool(2)}},
			{Name: "v2", Policy: &waypoint.TrafficPolicy{LoadBalancer: lb(hash), Outliers: &waypoint.OutlierDetection{}},
				Ports: map[uint32]*waypoint.TrafficPolicy{80: {Pool: pool(3), RetryBudget: &waypoint.RetryBudget{Percent: 5}}}},
		},
	}
	tls := d.GetPolicy().GetTls()
	for name, c := range map[string]struct {
		d      *waypoint.Destination
		port   uint32
		subset string
		want   *waypoint.TrafficPolicy
	}{
		"no destination":                       {nil, 80, "", &waypoint.TrafficPolicy{}},
		"the destination's":                    {d, 90, "", &waypoint.TrafficPolicy{LoadBalancer: lb(random), Pool: pool(1), Tls: tls}},
		"its port's replaces what it sets":     {d, 80, "", &waypoint.TrafficPolicy{LoadBalancer: lb(roundRobin), Pool: pool(1), Tls: tls}},
		"its port's adds":                      {d, 81, "", &waypoint.TrafficPolicy{LoadBalancer: lb(random), Pool: pool(1), Tls: tls, ProxyProtocol: 1}},
		"a subset without settings":            {d, 80, "empty", &waypoint.TrafficPolicy{LoadBalancer: lb(roundRobin), Pool: pool(1), Tls: tls}},
		"a subset nobody defined":              {d, 90, "v9", &waypoint.TrafficPolicy{LoadBalancer: lb(random), Pool: pool(1), Tls: tls}},
		"the subset's replaces what it sets":   {d, 80, "v1", &waypoint.TrafficPolicy{LoadBalancer: lb(roundRobin), Pool: pool(2), Tls: tls}},
		"the subset's goes before the port's":  {d, 90, "v2", &waypoint.TrafficPolicy{LoadBalancer: lb(hash), Pool: pool(1), Tls: tls, Outliers: &waypoint.OutlierDetection{}}},
		"the subset's port goes before it all": {d, 80, "v2", &waypoint.TrafficPolicy{LoadBalancer: lb(hash), Pool: pool(3), Tls: tls, Outliers: &waypoint.OutlierDetection{}, RetryBudget: &waypoint.RetryBudget{Percent: 5}}},
	} {
		before := proto.CloneOf(c.d)
		if diff := cmp.Diff(c.want, policyFor(c.d, c.port, c.subset), protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if !proto.Equal(before, c.d) {
			t.Errorf("%s: the destination changed", name)
		}
	}
}

func at(region, zone, subzone string) *workload.Workload {
	return &workload.Workload{Locality: &workload.Locality{Region: region, Zone: zone, Subzone: subzone}}
}

func nearEnv() *Env {
	e := routesEnv()
	e.Options = Options{Region: "r1", Zone: "z1", Subzone: "s1", Node: "n1", Network: "net", Cluster: "c1"}
	return e
}

func TestDistance(t *testing.T) {
	on := wrapperspb.Bool(true)
	outliers := &waypoint.OutlierDetection{}
	policy := func(l *waypoint.Locality) *waypoint.TrafficPolicy {
		return &waypoint.TrafficPolicy{Outliers: outliers, LoadBalancer: &waypoint.LoadBalancer{Locality: l}}
	}
	node := func(w *workload.Workload, node string) *workload.Workload { w.Node = node; return w }
	for name, c := range map[string]struct {
		policy *waypoint.TrafficPolicy
		w      *workload.Workload
		want   uint32
	}{
		"here":                               {policy(&waypoint.Locality{Enabled: on}), at("r1", "z1", "s1"), 0},
		"another subzone":                    {policy(&waypoint.Locality{Enabled: on}), at("r1", "z1", "s2"), 1},
		"another zone":                       {policy(&waypoint.Locality{Enabled: on}), at("r1", "z2", "s1"), 2},
		"another region":                     {policy(&waypoint.Locality{Enabled: on}), at("r2", "z1", "s1"), 3},
		"the region to fail over to":         {policy(&waypoint.Locality{Failover: []*waypoint.Locality_Failover{{From: "r1", To: "r2"}}}), at("r2", "z9", ""), 3},
		"not the region to fail over to":     {policy(&waypoint.Locality{Failover: []*waypoint.Locality_Failover{{From: "r1", To: "r2"}}}), at("r3", "z9", ""), 4},
		"off":                                {policy(&waypoint.Locality{Enabled: wrapperspb.Bool(false)}), at("r3", "", ""), 0},
		"nothing said":                       {&waypoint.TrafficPolicy{Outliers: outliers}, at("r3", "", ""), 0},
		"nobody would see that it fails":     {&waypoint.TrafficPolicy{LoadBalancer: &waypoint.LoadBalancer{Locality: &waypoint.Locality{Enabled: on}}}, at("r3", "", ""), 0},
		"distribution has no order":          {policy(&waypoint.Locality{Distribute: []*waypoint.Locality_Distribute{{From: "r1"}}}), at("r3", "", ""), 0},
		"the same labels":                    {policy(&waypoint.Locality{FailoverPriority: []string{labelNode, labelRegion}}), node(at("r1", "", ""), "n1"), 0},
		"the second label differs":           {policy(&waypoint.Locality{FailoverPriority: []string{labelNode, labelRegion}}), node(at("r2", "", ""), "n1"), 1},
		"the first label differs":            {policy(&waypoint.Locality{FailoverPriority: []string{labelNode, labelRegion}}), node(at("r1", "", ""), "n2"), 2},
		"a label with a value of its own":    {policy(&waypoint.Locality{FailoverPriority: []string{labelRegion + "=r2"}}), at("r2", "", ""), 0},
		"a label nobody knows of ourselves":  {policy(&waypoint.Locality{FailoverPriority: []string{"version"}}), at("r1", "", ""), 1},
		"labels first, regions among equals": {policy(&waypoint.Locality{FailoverPriority: []string{labelNode}, Failover: []*waypoint.Locality_Failover{{From: "r1", To: "r2"}}}), at("r3", "", ""), 9},
	} {
		if got := nearEnv().distance(c.policy, c.w); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
	e := nearEnv()
	e.Gateway.Mesh = &waypoint.MeshSettings{LocalityLoadBalancing: true}
	if got := e.distance(&waypoint.TrafficPolicy{Outliers: outliers}, at("r2", "", "")); got != 3 {
		t.Errorf("on by the mesh: %d", got)
	}
}

func TestDistributed(t *testing.T) {
	place := func(region, zone string, endpoints int) *endpointv3.LocalityLbEndpoints {
		p := &endpointv3.LocalityLbEndpoints{Locality: &corev3.Locality{Region: region, Zone: zone}, Priority: 1, LoadBalancingWeight: uint32Value(uint32(endpoints))}
		for range endpoints {
			p.LbEndpoints = append(p.LbEndpoints, &endpointv3.LbEndpoint{})
		}
		return p
	}
	for name, c := range map[string]struct {
		from string
		to   map[string]uint32
		want string
	}{
		"by zone":                     {"r1/z1/*", map[string]uint32{"r1/z1/*": 80, "r1/z2/*": 20}, "r1/z1=8000 r1/z2=2000"},
		"a region's part is divided":  {"*", map[string]uint32{"r1/*": 70, "r2/*": 30}, "r1/z1=1750 r1/z2=5250 r2/z1=3000"},
		"the most specific part wins": {"r1", map[string]uint32{"*": 50, "r1/z1/*": 50}, "r1/z1=5000 r1/z2=3750 r2/z1=1250"},
		"from somewhere else":         {"r2", map[string]uint32{"r1": 100}, "r1/z1=1 r1/z2=3 r2/z1=1"},
		"nothing to nobody":           {"r1", map[string]uint32{"r1/z1": 100, "r2": 0}, "r1/z1=10000"},
	} {
		all := []*endpointv3.LocalityLbEndpoints{place("r1", "z1", 1), place("r1", "z2", 3), place("r2", "z1", 1)}
		got := ""
		for _, p := range nearEnv().distributed(&waypoint.TrafficPolicy{LoadBalancer: &waypoint.LoadBalancer{Locality: &waypoint.Locality{
			Distribute: []*waypoint.Locality_Distribute{{From: c.from, To: c.to}},
		}}}, all) {
			if got != "" {
				got += " "
			}
			got += fmt.Sprintf("%s/%s=%d", p.GetLocality().GetRegion(), p.GetLocality().GetZone(), p.GetLoadBalancingWeight().GetValue())
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestTableSize(t *testing.T) {
	for n, want := range map[uint64]uint64{1: 2, 2: 2, 4: 5, 100: 101, 65537: 65537, 5_000_000: 5_000_011, 1 << 60: maxMaglevTable} {
		if got := tableSize(n); got != want {
			t.Errorf("%d: %d, want %d", n, got, want)
		}
	}
}
