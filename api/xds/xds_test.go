package xds

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/structpb"
)

const (
	addressType = "type.googleapis.com/istio.workload.Address"
	policyType  = "type.googleapis.com/istio.security.Authorization"
)

// world is a server on an in-memory listener.
type world struct {
	t        *testing.T
	address  *Collection
	policy   *Collection
	server   *Server
	listener *bufconn.Listener
	grpc     *grpc.Server
	stopped  chan error
	once     sync.Once

	mu    sync.Mutex
	conns []net.Conn // guarded by mu: what clients dialed
}

func newWorld(t *testing.T, cfg ServerConfig, more ...*Collection) *world {
	t.Helper()
	w := &world{t: t, address: NewCollection(addressType), policy: NewCollection(policyType)}
	w.server = NewServer(cfg, append(more, w.address, w.policy)...)
	w.start()
	t.Cleanup(w.stop)
	return w
}

func (w *world) start() {
	w.listener = bufconn.Listen(1 << 16)
	w.grpc = grpc.NewServer(w.server.Options()...)
	w.server.Register(w.grpc)
	w.stopped = make(chan error, 1)
	l, g, stopped := w.listener, w.grpc, w.stopped
	go func() { stopped <- g.Serve(l) }()
}

func (w *world) stop() {
	w.once.Do(func() {
		w.grpc.Stop()
		<-w.stopped
		w.server.Wait()
	})
}

func (w *world) dial(ctx context.Context) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, err := w.listener.DialContext(ctx)
	if err == nil {
		w.conns = append(w.conns, c)
	}
	return c, err
}

// cut closes every connection there is, as a failing network would.
func (w *world) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		c.Close()
	}
	w.conns = nil
}

// replica is a Handler that keeps what it was given.
type replica struct {
	mu      sync.Mutex
	state   map[string]map[string]string // type → name → body
	calls   int
	unknown map[string]bool // removed though never held
	refuse  func(r Raw) error
	changed chan struct{}
}

func newReplica() *replica {
	return &replica{state: map[string]map[string]string{}, unknown: map[string]bool{}, changed: make(chan struct{}, 1)}
}

func (r *replica) Apply(typeURL string, upserts []Raw, removed []string) (rejected []Rejected) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	m := r.state[typeURL]
	if m == nil {
		m = map[string]string{}
		r.state[typeURL] = m
	}
	for _, name := range removed {
		if _, ok := m[name]; !ok {
			r.unknown[name] = true
		}
		delete(m, name)
	}
	for _, raw := range upserts {
		if r.refuse != nil {
			if err := r.refuse(raw); err != nil {
				rejected = append(rejected, Rejected{Name: raw.Name, Err: err})
				continue
			}
		}
		m[raw.Name] = string(raw.Body)
	}
	select {
	case r.changed <- struct{}{}:
	default:
	}
	return rejected
}

func (r *replica) get(typeURL string) map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.state[typeURL])
}

func (r *replica) names(typeURL string) []string {
	return slices.Sorted(maps.Keys(r.get(typeURL)))
}

// run starts a client that ends with the test or with the returned stop.
func (w *world) run(cfg ClientConfig, h Handler, types ...string) (c *Client, stop func()) {
	w.t.Helper()
	cfg.Target = "bufconn"
	cfg.Dial = w.dial
	if cfg.Node == nil {
		cfg.Node = testNode("node-a")
	}
	if len(types) == 0 {
		types = []string{addressType, policyType}
	}
	c = NewClient(cfg, h, types...)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run: %v", err)
		}
	})
	w.t.Cleanup(stop)
	return c, stop
}

func testNode(nodeName string) *corev3.Node {
	meta, err := structpb.NewStruct(map[string]any{"NODE_NAME": nodeName, "NAMESPACE": "ambit-system"})
	if err != nil {
		panic(err)
	}
	return &corev3.Node{Id: "ztunnel~10.0.0.1~ztunnel-x.ambit-system~ambit-system.svc.cluster.local", Metadata: meta}
}

// eventually polls a condition that other goroutines bring about.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func awaitSynced(t *testing.T, c *Client) {
	t.Helper()
	select {
	case <-c.Synced():
	case <-time.After(10 * time.Second):
		t.Fatal("client never synced")
	}
}

func res(name, body string) *Resource {
	return &Resource{Name: name, Version: "v-" + body, Body: []byte(body)}
}

func TestEmptyAnswersMakeAClientReady(t *testing.T) {
	w := newWorld(t, ServerConfig{})
	c, _ := w.run(ClientConfig{}, newReplica())
	awaitSynced(t, c)
}

func TestWildcardFollowsChanges(t *testing.T) {
	w := newWorld(t, ServerConfig{})
	w.address.Apply([]*Resource{res("a", "1"), res("b", "1")}, nil)
	w.policy.Apply([]*Resource{{Name: "ns/p", Body: []byte("deny")}}, nil)
	r := newReplica()
	c, _ := w.run(ClientConfig{}, r)
	awaitSynced(t, c)
	if got := r.names(addressType); !slices.Equal(got, []string{"a", "b"}) {
		t.Fatalf("first answer holds %v", got)
	}
	w.address.Apply([]*Resource{res("c", "1"), res("a", "2")}, []string{"b"})
	eventually(t, "a changed, b gone, c there", func() bool {
		return maps.Equal(r.get(addressType), map[string]string{"a": "2", "c": "1"})
	})
	if got := r.get(policyType); got["ns/p"] != "deny" {
		t.Fatalf("policies: %v", got)
	}
}

func TestRefusalNamesOnlyTheRefused(t *testing.T) {
	nacks := make(chan NACK, 1)
	w := newWorld(t, ServerConfig{OnNACK: func(n NACK) { nacks <- n }})
	w.address.Apply([]*Resource{res("good", "1"), res("bad", "1")}, nil)
	r := newReplica()
	r.refuse = func(raw Raw) error {
		if raw.Name == "bad" {
			return errors.New("address has 3 bytes")
		}
		return nil
	}
	c, _ := w.run(ClientConfig{}, r)
	awaitSynced(t, c)
	if n := <-nacks; n.Message != "bad: address has 3 bytes" || n.TypeURL != addressType {
		t.Fatalf("NACK %+v", n)
	}
	if got := r.names(addressType); !slices.Equal(got, []string{"good"}) {
		t.Fatalf("state %v", got)
	}
	if got := w.server.Clients(); len(got) != 1 || !slices.ContainsFunc(got[0].Types, func(ts TypeStatus) bool { return ts.TypeURL == addressType && ts.NACK != "" }) {
		t.Fatalf("status %+v", got)
	}
	// The server does not answer a NACK, yet goes on sending.
	w.address.Apply([]*Resource{res("more", "1")}, nil)
	eventually(t, "the next push arrives", func() bool { return len(r.names(addressType)) == 2 })
}

func TestManyResources(t *testing.T) {
	w := newWorld(t, ServerConfig{})
	var put []*Resource
	for i := range 20000 {
		put = append(put, res(fmt.Sprintf("cluster//Pod/ns/%d", i), fmt.Sprintf("%0300d", i)))
	}
	w.address.Apply(put, nil)
	r := newReplica()
	c, _ := w.run(ClientConfig{}, r)
	awaitSynced(t, c)
	if got := len(r.get(addressType)); got != len(put) {
		t.Fatalf("%d of %d resources in the first answer", got, len(put))
	}
}

func TestSnapshotShowsWhatIsSent(t *testing.T) {
	c := town()
	got := c.Snapshot()
	if len(got) != c.Len() || !slices.IsSortedFunc(got, func(a, b Resource) int { return cmp.Compare(a.Name, b.Name) }) {
		t.Fatalf("snapshot %+v", got)
	}
	c.Apply([]*Resource{res("a", "body")}, nil)
	if a := c.Snapshot()[0]; a.Name != "a" || a.Version != "v-body" || string(a.Body) != "body" {
		t.Fatalf("snapshot starts with %+v", a)
	}
}
