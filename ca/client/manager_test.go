package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ambit-mesh/ambit/ca/catest"
	"github.com/ambit-mesh/ambit/ca/certs"
	"github.com/ambit-mesh/ambit/ca/identity"
)

func id(n int) identity.ID {
	return identity.ID{TrustDomain: "cluster.local", Namespace: "default", ServiceAccount: fmt.Sprintf("sa-%d", n)}
}

// run starts a Manager over a fresh authority for the length of the bubble fn runs in.
func run(t *testing.T, opts Options, fn func(t *testing.T, ca *catest.CA, m *Manager)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ca := catest.New()
		m := NewManager(ca, opts)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- m.Run(ctx) }()
		fn(t, ca, m)
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// get fails the test when there is no certificate within d.
func get(t *testing.T, m *Manager, id identity.ID, d time.Duration) *certs.SVID {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	svid, err := m.Get(ctx, id)
	if err != nil {
		t.Fatalf("Get(%s): %v", id, err)
	}
	return svid
}

func TestRenewsAtHalfLife(t *testing.T) {
	run(t, Options{}, func(t *testing.T, ca *catest.CA, m *Manager) {
		defer m.Hold(id(1))()
		first := get(t, m, id(1), time.Second)
		time.Sleep(12*time.Hour*9/10 - time.Minute)
		synctest.Wait()
		if n := len(ca.Calls()); n != 1 {
			t.Fatalf("%d requests before the earliest renewal, want 1", n)
		}
		time.Sleep(12*time.Hour*2/10 + 2*time.Minute)
		synctest.Wait()
		second := get(t, m, id(1), time.Second)
		if len(ca.Calls()) != 2 || second.TLS.Leaf.SerialNumber.Cmp(first.TLS.Leaf.SerialNumber) == 0 {
			t.Fatalf("%d requests after the latest renewal, want a second certificate", len(ca.Calls()))
		}
		if first.Generation != 1 || second.Generation != 2 {
			t.Errorf("generations %d, %d, want 1, 2", first.Generation, second.Generation)
		}
		if first.Roots != second.Roots {
			t.Error("equal roots are not shared between renewals")
		}
	})
}

// The authority is down for 80 % of the lifetime: nobody notices. Down for longer: the certificate ends when it expires,
// not before, and comes back within a second of the authority.
func TestLastGoodIsKept(t *testing.T) {
	run(t, Options{}, func(t *testing.T, ca *catest.CA, m *Manager) {
		defer m.Hold(id(1))()
		first := get(t, m, id(1), time.Second)
		down := errors.New("authority is down")
		ca.SetHook(func(context.Context, identity.ID) error { return down })
		time.Sleep(24 * time.Hour * 8 / 10)
		if got := get(t, m, id(1), time.Nanosecond); got.TLS.Leaf.SerialNumber.Cmp(first.TLS.Leaf.SerialNumber) != 0 {
			t.Error("another certificate while the authority is down")
		}
		s := m.Dump()[0]
		if s.State != StateAvailable || s.Err != down.Error() {
			t.Errorf("state %s, error %q, want Available with the authority's error", s.State, s.Err)
		}
		time.Sleep(24*time.Hour*2/10 + time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := m.Get(ctx, id(1))
		if !errors.Is(err, ErrNoCertificate) || !errors.Is(err, down) {
			t.Fatalf("after expiry: %v, want no certificate because the authority is down", err)
		}
		if s := m.Dump()[0]; s.State != StateUnavailable {
			t.Errorf("state %s after expiry, want Unavailable", s.State)
		}
		ca.SetHook(nil)
		get(t, m, id(1), time.Second)
	})
}

func TestBackoff(t *testing.T) {
	run(t, Options{}, func(t *testing.T, ca *catest.CA, m *Manager) {
		var at []time.Time
		ca.SetHook(func(context.Context, identity.ID) error { at = append(at, time.Now()); return errors.New("no") })
		defer m.Hold(id(1))()
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		want := 500 * time.Millisecond
		for i := 1; i < len(at); i++ {
			if gap := at[i].Sub(at[i-1]); gap < want*8/10 || gap > want*12/10 {
				t.Errorf("wait %d is %v, want %v ±20%%", i, gap, want)
			}
			want = min(2*want, 150*time.Second)
		}
		if len(at) < 15 || len(at) > 25 {
			t.Errorf("%d attempts in half an hour", len(at))
		}
	})
}

// With one worker busy, a connection that waits is served before identities that only warm up, and those before renewals.
func TestPriority(t *testing.T) {
	run(t, Options{Workers: 1}, func(t *testing.T, ca *catest.CA, m *Manager) {
		defer m.Hold(id(0))()
		get(t, m, id(0), time.Second)
		ca.SetHook(func(ctx context.Context, _ identity.ID) error {
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
			return nil
		})
		defer m.Hold(id(7))()
		synctest.Wait() // the one worker has identity 7 now
		m.mu.Lock()
		m.entries[id(0)].job.due = time.Now() // its renewal is due
		m.mu.Unlock()
		for n := 1; n <= 3; n++ {
			defer m.Hold(id(n))()
		}
		get(t, m, id(9), 2500*time.Millisecond)
		time.Sleep(10 * time.Second)
		var order []string
		for _, c := range ca.Calls()[1:] {
			order = append(order, strings.TrimPrefix(c.ServiceAccount, "sa-"))
		}
		if got := strings.Join(order, " "); got != "7 9 1 2 3 0" {
			t.Errorf("order %q, want 7 9 1 2 3 0", got)
		}
	})
}

func TestHoldsAreShared(t *testing.T) {
	run(t, Options{}, func(t *testing.T, ca *catest.CA, m *Manager) {
		a, b := m.Hold(id(1)), m.Hold(id(1))
		get(t, m, id(1), time.Second)
		a()
		a()
		time.Sleep(48 * time.Hour)
		get(t, m, id(1), time.Nanosecond)
		if len(ca.Calls()) < 3 {
			t.Errorf("%d requests in two days, want renewals while one holder is left", len(ca.Calls()))
		}
		b()
		time.Sleep(time.Minute)
		synctest.Wait()
		if d := m.Dump(); len(d) != 0 {
			t.Errorf("nobody holds it, still there: %+v", d)
		}
		n := len(ca.Calls())
		time.Sleep(48 * time.Hour)
		if len(ca.Calls()) != n {
			t.Error("renewed although nobody holds it")
		}
	})
}

// A certificate somebody only asked for is forgotten again; asking costs one request however many ask at once.
func TestGetWithoutHold(t *testing.T) {
	run(t, Options{}, func(t *testing.T, ca *catest.CA, m *Manager) {
		var ok atomic.Int32
		for range 50 {
			go func() {
				if _, err := m.Get(t.Context(), id(1)); err == nil {
					ok.Add(1)
				}
			}()
		}
		synctest.Wait()
		if ok.Load() != 50 || len(ca.Calls()) != 1 {
			t.Errorf("%d of 50 served with %d requests, want all with one", ok.Load(), len(ca.Calls()))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(m.Dump()) != 0 {
			t.Error("not forgotten")
		}
	})
}

func TestRootRotationIsNoticed(t *testing.T) {
	run(t, Options{}, func(t *testing.T, ca *catest.CA, m *Manager) {
		defer m.Hold(id(1))()
		if n := len(get(t, m, id(1), time.Second).RootCerts); n != 1 {
			t.Fatalf("%d roots at first", n)
		}
		_, news := m.Watch(id(1))
		ca.Rotate()
		<-news
		if n := len(get(t, m, id(1), time.Second).RootCerts); n != 2 {
			t.Errorf("%d roots after the renewal, want old and new", n)
		}
	})
}

// New roots reach all identities with the first answer that brings them. Identities the new roots no longer cover are
// renewed at once, the others at their own time.
func TestRootsReachEveryIdentity(t *testing.T) {
	for name, c := range map[string]struct {
		forget bool
		calls  int
	}{"overlap": {false, 3}, "no overlap": {true, 5}} {
		t.Run(name, func(t *testing.T) {
			run(t, Options{}, func(t *testing.T, ca *catest.CA, m *Manager) {
				for n := range 2 {
					defer m.Hold(id(n))()
					get(t, m, id(n), time.Second)
				}
				_, news := m.Watch(id(0))
				ca.Rotate()
				if c.forget {
					ca.Forget()
				}
				time.Sleep(time.Second)
				third := get(t, m, id(2), time.Second)
				<-news
				time.Sleep(time.Second)
				synctest.Wait()
				for n := range 2 {
					svid := get(t, m, id(n), time.Nanosecond)
					if svid.Bundle() != third.Bundle() {
						t.Errorf("identity %d does not have the new roots", n)
					}
					if svid.Generation != 2 && !c.forget || svid.Generation != 3 && c.forget {
						t.Errorf("identity %d is at generation %d", n, svid.Generation)
					}
				}
				if n := len(ca.Calls()); n != c.calls {
					t.Errorf("%d requests", n)
				}
			})
		})
	}
}

func TestWrongAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := catest.New()
		wrong := signerFunc(func(ctx context.Context, _ identity.ID) (*certs.SVID, error) { return ca.Sign(ctx, id(2)) })
		m := NewManager(wrong, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = m.Run(ctx) }()
		short, stop := context.WithTimeout(ctx, 3*time.Second)
		defer stop()
		if _, err := m.Get(short, id(1)); err == nil || !strings.Contains(err.Error(), "another identity") {
			t.Errorf("got %v, want a refusal of another's certificate", err)
		}
		cancel()
		synctest.Wait()
	})
}

type signerFunc func(context.Context, identity.ID) (*certs.SVID, error)

func (f signerFunc) Sign(ctx context.Context, id identity.ID) (*certs.SVID, error) { return f(ctx, id) }

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	run(t, Options{Registerer: reg}, func(t *testing.T, ca *catest.CA, m *Manager) {
		defer m.Hold(id(1))()
		get(t, m, id(1), time.Second)
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "ambit_cert_seconds_to_expiry" {
				if v := f.Metric[0].GetGauge().GetValue(); v < 86000 || v > 86400 {
					t.Errorf("%v seconds to expiry, want about a day", v)
				}
				return
			}
		}
		t.Error("no ambit_cert_seconds_to_expiry")
	})
}

func BenchmarkGet(b *testing.B) {
	ca := catest.New()
	m := NewManager(ca, Options{})
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	go func() { _ = m.Run(ctx); close(done) }()
	defer func() { cancel(); <-done }()
	defer m.Hold(id(1))()
	for b.Loop() {
		if _, err := m.Get(ctx, id(1)); err != nil {
			b.Fatal(err)
		}
	}
}
