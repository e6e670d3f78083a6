package state_test

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	. "github.com/ambit-mesh/ambit/ztunnel/state/statetest"
)

// asker writes down what is asked for.
type asker struct {
	mu    sync.Mutex
	names []string
}

func (a *asker) Demand(_, name string)  { a.note("+" + name) }
func (a *asker) Release(_, name string) { a.note("-" + name) }

func (a *asker) note(s string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.names = append(a.names, s)
}

func (a *asker) take() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := strings.Join(a.names, " ")
	a.names = nil
	return out
}

func TestDemandWaitsForAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, ask := state.New(), &asker{}
		d := state.NewDemand(st, ask)
		result := make(chan error, 2)
		for range 2 {
			go func() { result <- d.Outbound(t.Context(), at("10.96.0.1")) }()
		}
		synctest.Wait()
		if got := ask.take(); got != "+/10.96.0.1" {
			t.Fatalf("asked %s", got)
		}
		Put(t, st, Pod("a", "unrelated", "sa", "10.0.0.7"))
		synctest.Wait()
		if len(result) > 0 {
			t.Fatal("went on without an answer")
		}
		svc := Service("a", "x", []string{"10.96.0.1"}, 80, 80)
		svc.Waypoint = Waypoint("a", "wp.a.svc.cluster.local")
		svc.WeightedWaypoints = []*workload.WeightedWaypoint{{Destination: WaypointAt("10.96.0.20"), Weight: 1}}
		Put(t, st, svc)
		synctest.Wait()
		if got := ask.take(); got != "+a/wp.a.svc.cluster.local" {
			t.Fatalf("asked %s", got)
		}
		// The first waypoint does not exist, the second does.
		st.Apply(mesh.TypeAddress, nil, []string{"a/wp.a.svc.cluster.local"})
		synctest.Wait()
		if got := ask.take(); got != "+/10.96.0.20" {
			t.Fatalf("asked %s", got)
		}
		Put(t, st, Service("a", "wp2", []string{"10.96.0.20"}, 15008, 15008))
		for range 2 {
			if err := <-result; err != nil {
				t.Error(err)
			}
		}
		if err := d.Outbound(t.Context(), at("10.96.0.1")); err != nil || ask.take() != "" {
			t.Errorf("a second connection: %v", err)
		}
	})
}

func TestDemandOfSomethingUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, ask := World(t, Pod("a", "p", "sa", "10.0.0.1")), &asker{}
		d := state.NewDemand(st, ask)
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- d.Run(ctx) }()

		short, stop := context.WithTimeout(ctx, 5*time.Second)
		defer stop()
		if err := d.Addr(short, at("1.2.3.4")); err == nil || !strings.Contains(err.Error(), "wait for the control plane to say what /1.2.3.4 is") {
			t.Errorf("err = %v", err)
		}
		st.Apply(mesh.TypeAddress, nil, []string{"/1.2.3.4"})
		if err := d.Addr(ctx, at("1.2.3.4")); err != nil {
			t.Error(err)
		}
		// Known without being asked for: no waiting, but kept from now on.
		if err := d.Addr(ctx, at("10.0.0.1")); err != nil {
			t.Error(err)
		}
		if got := ask.take(); got != "+/1.2.3.4 +/10.0.0.1" {
			t.Errorf("asked %s", got)
		}
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		if got := ask.take(); got != "-/1.2.3.4" {
			t.Errorf("after half an hour: %s", got)
		}
		go func() { _ = d.Addr(ctx, at("1.2.3.4")) }()
		synctest.Wait()
		if got := ask.take(); got != "+/1.2.3.4" {
			t.Errorf("then asked %s", got)
		}
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
}

// With the real client and server of api/xds between them.
func TestDemandOverXDS(t *testing.T) {
	addresses := xds.NewCollection(mesh.TypeAddress)
	put := func(m proto.Message, node string, services []string, aliases ...string) {
		_, raw := Raw(t, m)
		addresses.Apply([]*xds.Resource{{Name: raw.Name, Version: "1", Body: raw.Body, Node: node, Services: services, Aliases: aliases}}, nil)
	}
	const key = "shop/cart.shop.svc.cluster.local"
	put(Service("shop", "cart", []string{"10.96.0.1"}, 80, 8080), "", nil, "/10.96.0.1")
	cart := In(Pod("shop", "cart-1", "sa", "10.0.0.1"), key, 80, 8080)
	cart.Node = "node2"
	put(cart, "node2", []string{key}, "/10.0.0.1")
	put(Pod("shop", "mine", "sa", "10.0.0.9"), "node1", nil, "/10.0.0.9")
	put(Pod("shop", "stranger", "sa", "10.0.0.5"), "node2", nil, "/10.0.0.5")

	l := bufconn.Listen(1 << 16)
	srv := xds.NewServer(xds.ServerConfig{}, addresses)
	g := grpc.NewServer(srv.Options()...)
	srv.Register(g)
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	t.Cleanup(func() { g.Stop(); <-served; srv.Wait() })

	meta, err := nodeMetadata("node1")
	if err != nil {
		t.Fatal(err)
	}
	st := state.New()
	client := xds.NewClient(xds.ClientConfig{
		Target: "control", OnDemand: true, Node: &corev3.Node{Id: "ztunnel~1.1.1.1~z.s~s.svc.cluster.local", Metadata: meta},
		Dial: func(ctx context.Context) (net.Conn, error) { return l.DialContext(ctx) },
	}, st, mesh.TypeAddress)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	ran := make(chan error, 1)
	go func() { ran <- client.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ran })

	d := state.NewDemand(st, client)
	for _, addr := range []string{"10.96.0.1", "8.8.8.8"} {
		if err := d.Outbound(ctx, at(addr)); err != nil {
			t.Fatal(err)
		}
	}
	s := st.Current()
	svc := state.Best(s.ServicesAt(at("10.96.0.1")), "shop", "")
	if svc == nil || s.Endpoints(svc).Len() != 1 || s.WorkloadAt(at("10.0.0.5")) != nil {
		t.Fatalf("service %v, stranger %v", svc, s.WorkloadAt(at("10.0.0.5")))
	}
	if mine := slices.Collect(s.OnNode("node1")); len(mine) != 1 {
		t.Errorf("workloads of the own node: %v", mine)
	}
}

func nodeMetadata(node string) (*structpb.Struct, error) {
	return structpb.NewStruct(map[string]any{"NODE_NAME": node})
}

// counter counts the names subscribed to.
type counter struct {
	mu  sync.Mutex
	now int
	max int
}

func (c *counter) Demand(_, _ string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now++
	c.max = max(c.max, c.now)
}

func (c *counter) Release(_, _ string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now--
}

// An application that tries one address after the other must not make the proxy remember them all.
func TestDemandIsBounded(t *testing.T) {
	st := state.New()
	ask := &counter{}
	d := state.NewDemand(st, ask)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for i := range 30_000 {
		// The control plane is slow, the application impatient.
		_ = d.Addr(gone, at(netip.AddrFrom4([4]byte{1, byte(i >> 16), byte(i >> 8), byte(i)}).String()))
	}
	if ask.max > 10_000 {
		t.Errorf("%d names were subscribed to at once", ask.max)
	}
}
