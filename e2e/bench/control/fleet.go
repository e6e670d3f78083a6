package main

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

const (
	adsMethod     = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
	typeAddress   = "type.googleapis.com/istio.workload.Address"
	typePolicy    = "type.googleapis.com/istio.security.Authorization"
	maxMessage    = 200 << 20
	clientTimeout = 2 * time.Minute
	window        = 4 << 20 // fixed, as in Istio's node proxy: guessing it costs a PING with every response
)

// fleet is a number of simulated node proxies. They speak delta xDS by hand, neither with our client nor with Envoy's classes: two hundred
// of them share two cores with the control plane they measure. Each keeps hashes of what it has, to be compared in the end.
type fleet struct {
	addr    string
	seed    maphash.Seed
	probes  sync.Map // name hash → *probe
	armed   atomic.Int32
	clients []*client
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	failed  chan error
}

// probe waits until every client has been sent a resource.
type probe struct {
	start   time.Time
	waiting atomic.Int32
	last    atomic.Int64 // nanoseconds after start
	done    chan struct{}
}

// client is one simulated proxy. Its state is owned by its goroutine until the fleet is stopped or at rest.
type client struct {
	fleet  *fleet
	id     int
	synced chan struct{}

	mu      sync.Mutex
	state   map[uint64]uint64 // guarded by mu: name → content
	sum     uint64            // guarded by mu: order-independent digest of state
	seen    map[*probe]bool   // guarded by mu
	bytes   int64             // guarded by mu
	record  map[string]string // name → version, only kept if not nil; guarded by mu
	answers int
}

// start connects n clients at once. Each is synced when both its types have been answered.
func (f *fleet) start(ctx context.Context, n int) {
	f.seed = maphash.MakeSeed()
	f.clients = nil
	for i := range n {
		f.clients = append(f.clients, &client{fleet: f, id: i, state: map[uint64]uint64{}, seen: map[*probe]bool{}})
	}
	f.connect(ctx, nil)
}

// resume connects clients that ran before. known is encoded initial_resource_versions, the same for all since all have the same.
func (f *fleet) resume(ctx context.Context, known []byte) {
	f.connect(ctx, known)
}

func (f *fleet) connect(ctx context.Context, known []byte) {
	ctx, f.cancel = context.WithCancel(ctx)
	f.failed = make(chan error, len(f.clients))
	for _, c := range f.clients {
		c.synced, c.answers, c.bytes = make(chan struct{}), 0, 0
		f.wg.Go(func() {
			if err := c.run(ctx, known); err != nil && ctx.Err() == nil {
				f.failed <- fmt.Errorf("proxy %d: %w", c.id, err)
			}
		})
	}
}

// versions asks the control plane, as one more client, for what a reconnecting client would say it has.
func versions(ctx context.Context, addr string) ([]byte, error) {
	f := &fleet{addr: addr, seed: maphash.MakeSeed()}
	c := &client{fleet: f, state: map[uint64]uint64{}, seen: map[*probe]bool{}, record: map[string]string{}}
	f.clients = []*client{c}
	f.connect(ctx, nil)
	defer f.stop()
	if err := f.awaitSync(ctx); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var known []byte
	for name, version := range c.record {
		known = protowire.AppendTag(known, 5, protowire.BytesType)
		known = protowire.AppendBytes(known, field(field(nil, 1, name), 2, version))
	}
	return known, nil
}

// stop ends all clients and waits for them.
func (f *fleet) stop() {
	if f.cancel != nil {
		f.cancel()
	}
	f.wg.Wait()
}

// awaitSync returns when all clients have everything.
func (f *fleet) awaitSync(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, clientTimeout)
	defer cancel()
	for _, c := range f.clients {
		select {
		case <-c.synced:
		case err := <-f.failed:
			return err
		case <-ctx.Done():
			return fmt.Errorf("proxy %d has no complete answer after %s", c.id, clientTimeout)
		}
	}
	return nil
}

// expect arms a probe for the resource's next change.
func (f *fleet) expect(resource string) *probe {
	p := &probe{start: time.Now(), done: make(chan struct{})}
	p.waiting.Store(int32(len(f.clients)))
	f.probes.Store(maphash.String(f.seed, resource), p)
	f.armed.Add(1)
	return p
}

func (f *fleet) forget(resource string, p *probe) {
	f.probes.CompareAndDelete(maphash.String(f.seed, resource), p)
	f.armed.Add(-1)
}

func (p *probe) arrive() {
	at := time.Since(p.start).Nanoseconds()
	for {
		last := p.last.Load()
		if at <= last || p.last.CompareAndSwap(last, at) {
			break
		}
	}
	if p.waiting.Add(-1) == 0 {
		close(p.done)
	}
}

// await returns how long after the probe's start the last client had the change.
func (p *probe) await(ctx context.Context, f *fleet) (time.Duration, error) {
	timeout := time.NewTimer(30 * time.Second)
	defer timeout.Stop()
	select {
	case <-p.done:
		return time.Duration(p.last.Load()), nil
	case err := <-f.failed:
		return 0, err
	case <-timeout.C:
		return 0, fmt.Errorf("%d proxies did not see a change within 30 s", p.waiting.Load())
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// agree checks that all clients have the same, and returns how many resources that is.
func (f *fleet) agree() (int, error) {
	var first *client
	for _, c := range f.clients {
		c.mu.Lock()
		n, sum := len(c.state), c.sum
		c.mu.Unlock()
		if first == nil {
			first = c
			continue
		}
		if n != len(first.state) || sum != first.sum {
			return 0, fmt.Errorf("proxy %d has %d resources (%x), proxy %d has %d (%x)", c.id, n, sum, first.id, len(first.state), first.sum)
		}
	}
	return len(first.state), nil
}

// received is what a client was sent since it connected, on average, in bytes.
func (f *fleet) received() (sum int64) {
	if len(f.clients) == 0 {
		return 0
	}
	for _, c := range f.clients {
		c.mu.Lock()
		sum += c.bytes
		c.mu.Unlock()
	}
	return sum / int64(len(f.clients))
}

func (c *client) run(ctx context.Context, known []byte) error {
	conn, err := grpc.NewClient("passthrough:///"+c.fleet.addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.ForceCodecV2(lean{encoding.GetCodecV2(proto.Name)})),
		grpc.WithSharedWriteBuffer(true), grpc.WithStaticStreamWindowSize(window), grpc.WithStaticConnWindowSize(window))
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, adsMethod)
	if err != nil {
		return err
	}
	for i, typeURL := range []string{typeAddress, typePolicy} {
		var req []byte
		if i == 0 {
			req = protowire.AppendTag(req, 1, protowire.BytesType)
			req = protowire.AppendBytes(req, c.node())
			req = append(req, known...)
		}
		if err := stream.SendMsg(message(field(req, 2, typeURL))); err != nil {
			return err
		}
	}
	for {
		r := &update{client: c}
		if err := stream.RecvMsg(r); err != nil {
			return err
		}
		if err := stream.SendMsg(message(field(field(nil, 2, r.typeURL), 6, r.nonce))); err != nil {
			return err
		}
		if c.answers++; c.answers == 2 {
			close(c.synced)
		}
	}
}

func (c *client) node() []byte {
	id := fmt.Sprintf("ztunnel~10.1.%d.%d~ztunnel-%d.%s~%s.svc.cluster.local", c.id>>8, c.id&255, c.id, rootNamespace, rootNamespace)
	return field(nil, 1, id)
}

func field(b []byte, num protowire.Number, s string) []byte {
	b = protowire.AppendTag(b, num, protowire.BytesType)
	return protowire.AppendString(b, s)
}

// message is an encoded request.
type message []byte

// update is a response, read straight into its client.
type update struct {
	client         *client
	typeURL, nonce string
}

// lean is the codec of the simulated proxies.
type lean struct{ encoding.CodecV2 }

func (l lean) Marshal(v any) (mem.BufferSlice, error) {
	if m, ok := v.(message); ok {
		return mem.BufferSlice{mem.SliceBuffer(m)}, nil
	}
	return l.CodecV2.Marshal(v)
}

func (l lean) Unmarshal(data mem.BufferSlice, v any) error {
	u, ok := v.(*update)
	if !ok {
		return l.CodecV2.Unmarshal(data, v)
	}
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	return u.read(buf.ReadOnlyData())
}

var errGarbled = errors.New("garbled response")

func (u *update) read(b []byte) error {
	c := u.client
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bytes += int64(len(b))
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 || typ != protowire.BytesType {
			return errGarbled
		}
		val, m := protowire.ConsumeBytes(b[n:])
		if m < 0 {
			return errGarbled
		}
		b = b[n+m:]
		switch num {
		case 2:
			c.put(val)
		case 4:
			u.typeURL = string(val)
		case 5:
			u.nonce = string(val)
		case 6:
			name := maphash.Bytes(c.fleet.seed, val)
			if content, had := c.state[name]; had {
				c.sum -= name ^ content
				delete(c.state, name)
			}
		}
	}
	return nil
}

// put takes one resource in. Caller holds mu.
func (c *client) put(resource []byte) {
	var name, version []byte
	for b := resource; len(b) > 0; {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 || typ != protowire.BytesType {
			break
		}
		val, m := protowire.ConsumeBytes(b[n:])
		if m < 0 {
			break
		}
		switch num {
		case 1:
			version = val
		case 3:
			name = val
		}
		b = b[n+m:]
	}
	if c.record != nil && len(version) > 0 { // policies have no version and are sent again in any case
		c.record[string(name)] = string(version)
	}
	key, content := maphash.Bytes(c.fleet.seed, name), maphash.Bytes(c.fleet.seed, resource)
	old, had := c.state[key]
	if had {
		c.sum -= key ^ old
	}
	c.sum += key ^ content
	c.state[key] = content
	if c.fleet.armed.Load() == 0 || had && old == content {
		return
	}
	if p, ok := c.fleet.probes.Load(key); ok && !c.seen[p.(*probe)] {
		c.seen[p.(*probe)] = true
		p.(*probe).arrive()
	}
}
