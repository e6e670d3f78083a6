package kube

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
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
	if _, err := as("good2"); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
	now = now.Add(time.Hour)
	if _, err := as(good); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
	a.Fail(nil)
	if _, err := as("good2"); err != nil {
		t.Error(err)
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
