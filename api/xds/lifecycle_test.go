package xds

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// TestBackoffGrowsAndIsCapped counts attempts against a control plane that is not there, in virtual time.
func TestBackoffGrowsAndIsCapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Time
		c := NewClient(ClientConfig{Target: "nowhere:15012", Node: testNode("n"), Dial: func(context.Context) (net.Conn, error) {
			at = append(at, time.Now())
			return nil, errors.New("connection refused")
		}}, newReplica(), addressType)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		if err := c.Run(ctx); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for i := 1; i < len(at); i++ {
			want := maxBackoff
			if i < 12 {
				want = min(minBackoff<<(i-1), maxBackoff)
			}
			if gap := at[i].Sub(at[i-1]); gap < want/2 || gap > want {
				t.Errorf("attempt %d came after %v, want %v to %v", i, gap, want/2, want)
			}
		}
		if len(at) < 30 || len(at) > 60 {
			t.Errorf("%d attempts in five minutes", len(at))
		}
	})
}

func TestClassify(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want string
	}{
		{nil, reasonComplete},
		{&connectError{errors.New("refused")}, reasonConnectionError},
		{status.Error(codes.Unknown, "x"), reasonReconnect},
		{status.Error(codes.Canceled, "x"), reasonReconnect},
		{status.Error(codes.DeadlineExceeded, "x"), reasonReconnect},
		{status.Error(codes.Unavailable, "transport is closing"), reasonReconnect},
		{status.Error(codes.Unavailable, "closing transport due to: connection error, received prior goaway: code: NO_ERROR"), reasonReconnect},
		{status.Error(codes.Unavailable, "no more memory"), reasonError},
		{status.Error(codes.PermissionDenied, "x"), reasonError},
	} {
		if got := classify(tc.err); got != tc.want {
			t.Errorf("%v is %s, want %s", tc.err, got, tc.want)
		}
	}
}

// TestConnectionsAreRecycled lets the server end connections every few milliseconds while things change.
func TestConnectionsAreRecycled(t *testing.T) {
	w := newWorld(t, ServerConfig{MaxConnectionAge: 20 * time.Millisecond})
	r := newReplica()
	reg := prometheus.NewRegistry()
	c, _ := w.run(ClientConfig{Registerer: reg}, r)
	awaitSynced(t, c)
	for i := range 20 {
		body := fmt.Sprint(i)
		w.address.Apply([]*Resource{res("a", body)}, nil)
		eventually(t, "change "+body+" arrives", func() bool { return r.get(addressType)["a"] == body })
	}
	ended := func() float64 { return counter(t, reg, "istio_xds_connection_terminations_total") }
	eventually(t, "several connections", func() bool { return ended() > 5 })
	if counter(t, reg, "istio_xds_message_total") < 20 || counter(t, reg, "istio_xds_message_bytes_total") < 100 {
		t.Error("messages are not counted")
	}
}

func counter(t *testing.T, reg *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// TestSlowClient never reads while others do and one name changes a thousand times.
func TestSlowClient(t *testing.T) {
	w := newWorld(t, ServerConfig{})
	slow := w.plain()
	slow.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: addressType, Node: testNode("n1")})
	fast := newReplica()
	c, _ := w.run(ClientConfig{}, fast)
	awaitSynced(t, c)
	body := bytes.Repeat([]byte{'x'}, 20<<10)
	for i := range 1000 {
		last := fmt.Sprint(i)
		w.address.Apply([]*Resource{{Name: "a", Version: last, Body: append(body, last...)}, res("b", last)}, nil)
		if i%100 == 99 {
			eventually(t, "the fast client is up to date", func() bool { return fast.get(addressType)["b"] == last })
		}
	}
	for n := 1; ; n++ {
		r := slow.recv()
		if n > 60 {
			t.Fatalf("%d messages for a client that missed most", n)
		}
		if i := slices.IndexFunc(r.GetResources(), func(r *discoveryv3.Resource) bool { return r.GetName() == "b" }); i >= 0 &&
			string(r.GetResources()[i].GetResource().GetValue()) == "999" {
			return
		}
	}
}

// TestCredentialsAreReadForEveryStream looks at what arrives with each of several streams.
func TestCredentialsAreReadForEveryStream(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	w := newWorld(t, ServerConfig{Authorize: func(ctx context.Context, n *corev3.Node) error {
		md, _ := metadata.FromIncomingContext(ctx)
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, fmt.Sprint(md.Get("authorization"), md.Get("clusterid")))
		return nil
	}})
	var reads atomic.Int32
	c, _ := w.run(ClientConfig{Headers: map[string]string{"clusterid": "east"}, Token: func() (string, error) {
		return fmt.Sprint("t", reads.Add(1)), nil
	}}, newReplica())
	awaitSynced(t, c)
	w.cut()
	eventually(t, "a second stream", func() bool { mu.Lock(); defer mu.Unlock(); return len(seen) == 2 })
	if want := []string{"[Bearer t1] [east]", "[Bearer t2] [east]"}; !slices.Equal(seen, want) {
		t.Fatalf("saw %v", seen)
	}
}

// TestRefusedResourceIsSentAgain reconnects after a NACK: what was refused is offered anew, the rest is not repeated.
func TestRefusedResourceIsSentAgain(t *testing.T) {
	w := newWorld(t, ServerConfig{})
	w.address.Apply([]*Resource{res("good", "1"), res("bad", "1")}, nil)
	r := newReplica()
	var offered []string
	r.refuse = func(raw Raw) error {
		offered = append(offered, raw.Name)
		if raw.Name == "bad" && len(offered) == 2 {
			return errors.New("not today")
		}
		return nil
	}
	c, _ := w.run(ClientConfig{}, r, addressType)
	awaitSynced(t, c)
	w.cut()
	eventually(t, "the refused resource is there", func() bool { return len(r.names(addressType)) == 2 })
	if want := []string{"good", "bad", "bad"}; !slices.Equal(offered, want) {
		t.Fatalf("offered %v", offered)
	}
}

// TestFleetArrivesAtOnce connects many clients to a server that holds things, restarts it, and connects them again.
func TestFleetArrivesAtOnce(t *testing.T) {
	w := newWorld(t, ServerConfig{})
	var put []*Resource
	for i := range 500 {
		put = append(put, res(fmt.Sprintf("c//Pod/ns/%d", i), fmt.Sprintf("%0100d", i)))
	}
	w.address.Apply(put, nil)
	var fleet []*replica
	for range 60 {
		r := newReplica()
		w.run(ClientConfig{}, r, addressType)
		fleet = append(fleet, r)
	}
	complete := func(n int) func() bool {
		return func() bool {
			return !slices.ContainsFunc(fleet, func(r *replica) bool { return len(r.get(addressType)) != n })
		}
	}
	eventually(t, "all clients are complete", complete(500))
	w.address.Apply(nil, []string{put[0].Name, put[1].Name})
	w.cut()
	eventually(t, "all clients are complete again", complete(498))
	eventually(t, "all are listed", func() bool { return len(w.server.Clients()) == 60 })
}

// TestDrainEndsStreams stops gracefully under load: streams end in order, so nothing has to be cut.
func TestDrainEndsStreams(t *testing.T) {
	w := newWorld(t, ServerConfig{})
	c, stop := w.run(ClientConfig{}, newReplica())
	awaitSynced(t, c)
	w.server.Drain()
	w.server.Drain()
	w.grpc.GracefulStop()
	stop()
}
