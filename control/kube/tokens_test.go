package kube

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ca/server"
	"github.com/ambit-mesh/ambit/ca/token"
	"github.com/ambit-mesh/ambit/control/kube/kubetest"
	"github.com/ambit-mesh/ambit/control/object"
)

// jwtUntil looks like a token that ends then.
func jwtUntil(name string, end time.Time) string {
	return name + "." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp": %d}`, end.Unix())) + ".s"
}

const reviews = "/apis/authentication.k8s.io/v1/tokenreviews"

func reviewer(raw string) kubetest.Doc {
	good := kubetest.Doc{"authenticated": true, "audiences": []any{"istio-ca"}, "user": kubetest.Doc{
		"username": "system:serviceaccount:ambit-system:ztunnel", "uid": "su",
		"extra": kubetest.Doc{extraPod: []any{"zt-1"}, extraPodUID: []any{"pu"}, extraNode: []any{"n1"}},
	}}
	switch {
	case strings.HasPrefix(raw, "good"):
	case strings.HasPrefix(raw, "elsewhere"):
		delete(good, "audiences") // as an API server answers that does not know audiences
	case strings.HasPrefix(raw, "person"):
		good["user"] = kubetest.Doc{"username": "alice"}
	default:
		return kubetest.Doc{"authenticated": false, "error": "expired"}
	}
	return good
}

func TestTokens(t *testing.T) {
	a := kubetest.New(t)
	a.Review(reviewer)
	k := NewTokens(clusterOf(t, a), "cluster.local")
	now := time.Now()
	k.now = func() time.Time { return now }
	as := func(raw string) (server.Caller, error) {
		return k.Authenticate(metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+raw)))
	}
	good := jwtUntil("good", now.Add(time.Hour))
	c, err := as(good)
	want := server.Caller{ID: identity.ID{TrustDomain: "cluster.local", Namespace: "ambit-system", ServiceAccount: "ztunnel"}, Pod: server.Pod{Name: "zt-1", UID: "pu", Node: "n1"}}
	if err != nil || c != want {
		t.Fatalf("%+v %v", c, err)
	}
	for raw, why := range map[string]string{"bad": "expired", "elsewhere": "not for audience istio-ca", "person": `"alice" is no service account`, strings.Repeat("x", maxToken+1): "bytes"} {
		if len(raw) <= maxToken {
			raw = jwtUntil(raw, now.Add(time.Hour))
		}
		if _, err := as(raw); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v", raw, err)
		}
	}
	if _, err := k.Authenticate(t.Context()); err != server.ErrNoCredential {
		t.Error(err)
	}
	// An answer counts for a while, and then is asked for again.
	asked := a.Asked("POST", reviews)
	_, _ = as(good)
	if a.Asked("POST", reviews) != asked {
		t.Error("asked twice within a moment")
	}
	now = now.Add(time.Minute)
	_, _ = as(good)
	if a.Asked("POST", reviews) != asked+1 {
		t.Error("not asked again after a minute")
	}
	// While the API server is away what it said lately counts, up to the token's end; strangers are told to come again.
	a.Fail(func(*http.Request) int { return 503 })
	now = now.Add(time.Minute)
	if c, err := as(good); err != nil || c != want {
		t.Errorf("%+v %v", c, err)
	}
	good2 := jwtUntil("good2", now.Add(3*time.Hour))
	if _, err := as(good2); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
	now = now.Add(time.Hour - time.Minute)
	if _, err := as(good); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
	now = now.Add(time.Hour)
	if _, err := as(good); !errors.Is(err, token.ErrInvalid) || !strings.Contains(err.Error(), "expired") {
		t.Error(err)
	}
	a.Fail(nil)
	if _, err := as(good2); err != nil {
		t.Error(err)
	}
}

// What is no token for the mesh by its own word is refused without a question; what may be one is asked about.
func TestTokensArePlausible(t *testing.T) {
	a := kubetest.New(t)
	a.Review(reviewer)
	k := NewTokens(clusterOf(t, a), "cluster.local")
	now := time.Now()
	of := func(payload string) string {
		return "good." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".s"
	}
	ends := func(d time.Duration) string { return fmt.Sprint(now.Add(d).Unix()) }
	for raw, want := range map[string]string{
		of(`{"aud": ["istio-ca"], "exp": ` + ends(time.Hour) + `}`):             "",
		of(`{"aud": "istio-ca", "exp": ` + ends(time.Hour) + `.5}`):             "",
		of(`{"aud": ["other", "istio-ca"], "exp": ` + ends(-time.Minute) + `}`): "", // clocks differ
		of(`{"sub": "system:serviceaccount:a:b"}`):                              "", // as tokens were that Secrets hold
		of(`{"aud": ["istio-ca"], "exp": ` + ends(-3*time.Minute) + `}`):        "expired",
		of(`{"aud": ["https://kubernetes"], "exp": ` + ends(time.Hour) + `}`):   "not for audience istio-ca",
		of(`{"aud": "", "exp": ` + ends(time.Hour) + `}`):                       "not for audience istio-ca",
		of(`{"aud": 7}`): "aud",
		"good":           "no JSON Web Token",
		"good.!.s":       "no JSON Web Token",
		"good." + base64.RawURLEncoding.EncodeToString([]byte("text")) + ".s": "no JSON Web Token",
		of(`{"exp": 1}`) + ".more": "no JSON Web Token",
		"good." + base64.RawURLEncoding.EncodeToString([]byte(`{"exp":1}`)) + ".": "no JSON Web Token",
	} {
		asked := a.Asked("POST", reviews)
		_, err := k.Review(t.Context(), raw)
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || !errors.Is(err, token.ErrInvalid)) {
			t.Errorf("%s: %v, want %q", raw, err, want)
		}
		if got := a.Asked("POST", reviews) - asked; (got == 1) != (want == "") {
			t.Errorf("%s: %d questions", raw, got)
		}
	}
}

// Somebody with many tokens holds up nobody but himself.
func TestTokensOfOneAddress(t *testing.T) {
	a := kubetest.New(t)
	a.Review(reviewer)
	k := NewTokens(clusterOf(t, a), "cluster.local")
	let := make(chan struct{})
	var under atomic.Int32
	a.Fail(func(r *http.Request) int {
		if r.URL.Path == reviews && under.Add(1) <= peerMost {
			<-let
		}
		return 0
	})
	from := func(ip string) context.Context {
		return peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.ParseIP(ip), Port: 1}})
	}
	var wg sync.WaitGroup
	for i := range 5 * peerMost {
		wg.Go(func() { _, _ = k.Review(from("10.0.0.1"), jwtUntil(fmt.Sprint("bad", i), time.Now().Add(time.Hour))) })
	}
	await(t, "his questions", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.peers["10.0.0.1"] != nil && k.peers["10.0.0.1"].count == 5*peerMost && under.Load() == peerMost
	})
	if _, err := k.Review(from("10.0.0.2"), jwtUntil("good", time.Now().Add(time.Hour))); err != nil {
		t.Error(err)
	}
	if n := under.Load(); n != peerMost+1 {
		t.Errorf("%d questions, want %d of the one and 1 of the other", n, peerMost)
	}
	close(let)
	wg.Wait()
	if len(k.peers) != 0 {
		t.Errorf("%d addresses are remembered", len(k.peers))
	}
}

// A token that was accepted before is asked about again whatever else its address asks; and a question that is not asked says
// nothing of the API server, so that no earlier answer counts instead.
func TestTokensThatWereAccepted(t *testing.T) {
	a := kubetest.New(t)
	a.Review(reviewer)
	k := NewTokens(clusterOf(t, a), "cluster.local")
	var later atomic.Int64
	k.now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	from := peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1}})
	good := jwtUntil("good", time.Now().Add(time.Hour))
	if _, err := k.Review(from, good); err != nil {
		t.Fatal(err)
	}
	later.Store(int64(time.Minute)) // the answer does not count any more
	let := make(chan struct{})
	var under atomic.Int32
	a.Fail(func(r *http.Request) int {
		if r.URL.Path == reviews && under.Add(1) <= peerMost {
			<-let
		}
		return 0
	})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(let)
	for i := range peerMost {
		wg.Go(func() { _, _ = k.Review(from, jwtUntil(fmt.Sprint("bad", i), time.Now().Add(time.Hour))) })
	}
	await(t, "the others' questions", func() bool { return under.Load() == peerMost })
	if _, err := k.Review(from, good); err != nil || under.Load() != peerMost+1 {
		t.Errorf("%d questions, %v", under.Load()-peerMost, err)
	}
	ended, cancel := context.WithCancel(from)
	cancel()
	if _, err := k.Review(ended, jwtUntil("good2", time.Now().Add(time.Hour))); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "too many questions") {
		t.Error(err)
	}
	if _, err := k.inTurn(ended, good); !errors.Is(err, errBusy) || errors.Is(err, errAway) {
		t.Errorf("being over the limit is %v", err)
	}
}

func TestTokensAreBounded(t *testing.T) {
	k := NewTokens(nil, "cluster.local")
	now := time.Now()
	for i := range maxReviews + 10 {
		sum := [32]byte{byte(i), byte(i >> 8), byte(i >> 16)}
		k.flying[sum] = make(chan struct{})
		k.answer(sum, jwtUntil("x", now.Add(time.Hour)), nil, token.Claims{}, nil)
	}
	if len(k.known) > maxReviews {
		t.Error(len(k.known))
	}
}

func TestPlaces(t *testing.T) {
	p := NewPlaces()
	pod := func(name, uid, node string, phase object.Phase) object.Event {
		return object.Put(&object.Pod{Meta: object.Meta{Namespace: "ns", Name: name, UID: uid}, Node: node, ServiceAccount: "sa", Phase: phase})
	}
	ctx := t.Context()
	caller := identity.ID{TrustDomain: "cluster.local", Namespace: "ns", ServiceAccount: "sa"}
	p.take(pod("a", "u1", "n1", object.Running))
	go p.Synced() // a question asked before waits for it
	if node, err := p.Node(ctx, caller, server.Pod{Name: "a", UID: "u1"}); node != "n1" || err != nil {
		t.Error(node, err)
	}
	p.take(pod("b", "u2", "n2", object.Pending))
	for node, want := range map[string]bool{"n1": true, "n2": true} {
		if got, err := p.Runs(ctx, node, "ns", "sa"); got != want || err != nil {
			t.Error(node, got, err)
		}
	}
	// A pod that the control plane hears of while it is asked about.
	go p.take(pod("c", "u3", "n3", object.Running))
	if got, err := p.Runs(ctx, "n3", "ns", "sa"); !got || err != nil {
		t.Error(got, err)
	}
	p.take(pod("c", "u3", "n3", object.Failed))
	p.take(object.Delete(object.Key{Kind: object.KindPod, Namespace: "ns", Name: "b"}))
	p.take(pod("a", "u9", "n1", object.Running)) // a StatefulSet's next
	if len(p.count) != 1 || len(p.pods) != 2 {
		t.Errorf("%v %v", p.count, p.pods)
	}
	done := make(chan string, 4)
	go func() {
		_, err := p.Node(ctx, caller, server.Pod{Name: "a", UID: "u1"})
		done <- fmt.Sprint(err)
	}()
	go func() {
		got, err := p.Runs(ctx, "n3", "ns", "sa")
		done <- fmt.Sprint(got, err)
	}()
	go func() {
		_, err := p.Node(ctx, identity.ID{Namespace: "ns", ServiceAccount: "other"}, server.Pod{Name: "a", UID: "u9"})
		done <- fmt.Sprint(err)
	}()
	go func() {
		_, err := NewPlaces().Runs(ctx, "n1", "ns", "sa")
		done <- fmt.Sprint(err)
	}()
	all := <-done + <-done + <-done + <-done
	for _, want := range []string{"another one now", "false <nil>", "not other", "has not read the cluster"} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is not in %s", want, all)
		}
	}
}
