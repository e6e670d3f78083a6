package kube

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ca/server"
	"github.com/ambit-mesh/ambit/ca/token"
)

// Tokens has the API server review bearer tokens. It implements server.Authenticator for the authority, and Review is
// what the xDS server asks.
//
// An answer counts for a few seconds, so that the several questions of one connection are one. While the API server is
// away a token it accepted lately is accepted until its end: proxies that have to connect anew then must not be cut off.
type Tokens struct {
	cluster     *Cluster
	trustDomain string
	audiences   []string
	now         func() time.Time

	mu sync.Mutex
	// guarded by mu
	known  map[[sha256.Size]byte]*review
	flying map[[sha256.Size]byte]chan struct{} // closed when a question under way is answered
	peers  map[string]*asker                   // by address, while they have questions
}

// review is an answer.
type review struct {
	at     time.Time
	until  time.Time // the token's own end
	claims token.Claims
	err    error // the token was refused
}

const (
	fresh      = 10 * time.Second // how long an answer counts
	refusedFor = 2 * time.Second  // and one that refuses
	maxReviews = 20_000
	reviewTime = 5 * time.Second
	maxToken   = 16 << 10 // a cluster's own are about 1 KiB
)

// Audience is what tokens must be made for. Istio ambient wire contract, CA authentication.
const Audience = "istio-ca"

// NewTokens returns a reviewer of tokens for the mesh's audience.
func NewTokens(c *Cluster, trustDomain string) *Tokens {
	return &Tokens{
		cluster: c, trustDomain: trustDomain, audiences: []string{Audience}, now: time.Now,
		known: make(map[[sha256.Size]byte]*review), flying: make(map[[sha256.Size]byte]chan struct{}),
		peers: make(map[string]*asker),
	}
}

// Authenticate implements server.Authenticator.
func (t *Tokens) Authenticate(ctx context.Context) (server.Caller, error) {
	raw, err := token.FromIncoming(ctx)
	if errors.Is(err, token.ErrNoToken) {
		return server.Caller{}, server.ErrNoCredential
	}
	if err != nil {
		return server.Caller{}, err
	}
	c, err := t.Review(ctx, raw)
	if err != nil {
		return server.Caller{}, err
	}
	caller := server.Caller{
		ID:  identity.ID{TrustDomain: t.trustDomain, Namespace: c.Namespace, ServiceAccount: c.ServiceAccount},
		Pod: server.Pod{Name: c.PodName, UID: c.PodUID, Node: c.Node},
	}
	if err := caller.ID.Validate(); err != nil {
		return server.Caller{}, fmt.Errorf("token: %w", err)
	}
	return caller, nil
}

// Review says whose token it is.
func (t *Tokens) Review(ctx context.Context, raw string) (token.Claims, error) {
	if len(raw) > maxToken {
		return token.Claims{}, fmt.Errorf("%w: it has %d bytes", token.ErrInvalid, len(raw))
	}
	if err := t.plausible(raw); err != nil {
		return token.Claims{}, err
	}
	sum := sha256.Sum256([]byte(raw))
	for {
		t.mu.Lock()
		have := t.known[sum]
		if have != nil && have.counts(t.now()) {
			t.mu.Unlock()
			return have.claims, have.err
		}
		wait, busy := t.flying[sum]
		if !busy {
			wait = make(chan struct{})
			t.flying[sum] = wait
		}
		t.mu.Unlock()
		if !busy {
			claims, err := t.ask(ctx, raw, have)
			t.answer(sum, raw, have, claims, err)
			return claims, err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return token.Claims{}, status.FromContextError(ctx.Err()).Err()
		}
	}
}

func (r *review) counts(now time.Time) bool {
	if r.err != nil {
		return now.Sub(r.at) < refusedFor
	}
	return now.Sub(r.at) < fresh && now.Before(r.until)
}

// errAway is wrapped by the error of a question that was not answered.
var errAway = errors.New("the API server cannot be asked about the token")

// ask asks the API server, and falls back on what it said before while it is away. What it accepted before waits for no
// turn: that is a proxy of the mesh, and whoever shares its address must not hold it up.
func (t *Tokens) ask(ctx context.Context, raw string, before *review) (token.Claims, error) {
	accepted := before != nil && before.err == nil
	ask := t.inTurn
	if accepted {
		ask = t.review
	}
	claims, err := ask(ctx, raw)
	switch {
	case errors.Is(err, errAway) && accepted && t.now().Before(before.until):
		return before.claims, nil
	case errors.Is(err, errAway), errors.Is(err, errBusy):
		return token.Claims{}, status.Error(codes.Unavailable, err.Error())
	}
	return claims, err
}

// answer keeps an answer and wakes who waits for it.
func (t *Tokens) answer(sum [sha256.Size]byte, raw string, before *review, claims token.Claims, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.flying[sum])
	delete(t.flying, sum)
	if status.Code(err) == codes.Unavailable {
		return
	}
	now := t.now()
	if before == nil && len(t.known) >= maxReviews {
		t.sweep(now)
	}
	t.known[sum] = &review{at: now, until: expiry(raw, now), claims: claims, err: err}
}

// sweep makes room: what has ended goes, and if that is not enough, anything. The mutex is held.
func (t *Tokens) sweep(now time.Time) {
	for sum, r := range t.known {
		if r.err != nil && !r.counts(now) || !now.Before(r.until) {
			delete(t.known, sum)
		}
	}
	for sum := range t.known {
		if len(t.known) < maxReviews*3/4 {
			return
		}
		delete(t.known, sum)
	}
}

// expiry is when a token that the API server has just accepted ends, by its own word. RFC 7519 §4.1.4. A token that does
// not say is not remembered beyond its answer.
func expiry(raw string, now time.Time) time.Time {
	c, err := claimed(raw)
	if err != nil || c.Exp <= 0 || c.Exp > 1<<40 {
		return now.Add(fresh)
	}
	return time.Unix(int64(c.Exp), 0)
}

// Keys of what the API server adds to the name of a service account. Kubernetes apiserver/pkg/authentication/serviceaccount
const (
	accountPrefix = "system:serviceaccount:"
	extraPod      = "authentication.kubernetes.io/pod-name"
	extraPodUID   = "authentication.kubernetes.io/pod-uid"
	extraNode     = "authentication.kubernetes.io/node-name"
)

func (t *Tokens) review(ctx context.Context, raw string) (token.Claims, error) {
	ctx, cancel := context.WithTimeout(ctx, reviewTime)
	defer cancel()
	audiences := make([]any, 0, len(t.audiences))
	for _, a := range t.audiences {
		audiences = append(audiences, a)
	}
	out, err := t.cluster.reviews.Resource(schema.GroupVersionResource{Group: "authentication.k8s.io", Version: "v1", Resource: "tokenreviews"}).Create(ctx,
		&unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": map[string]any{"token": raw, "audiences": audiences},
		}}, metav1.CreateOptions{})
	if err != nil {
		return token.Claims{}, fmt.Errorf("%w: %v", errAway, err)
	}
	if ok, _, _ := unstructured.NestedBool(out.Object, "status", "authenticated"); !ok {
		why, _, _ := unstructured.NestedString(out.Object, "status", "error")
		if why == "" {
			why = "it is not valid, or not for audience " + strings.Join(t.audiences, ", ")
		}
		return token.Claims{}, fmt.Errorf("%w: the API server refuses the token: %s", token.ErrInvalid, why)
	}
	// An API server that does not know audiences answers without any: the token may be for somebody else.
	granted, _, _ := unstructured.NestedStringSlice(out.Object, "status", "audiences")
	if !slices.ContainsFunc(granted, func(a string) bool { return slices.Contains(t.audiences, a) }) {
		return token.Claims{}, fmt.Errorf("%w: the token is not for audience %s", token.ErrInvalid, strings.Join(t.audiences, ", "))
	}
	return claimsOf(out)
}

func claimsOf(out *unstructured.Unstructured) (token.Claims, error) {
	name, _, _ := unstructured.NestedString(out.Object, "status", "user", "username")
	rest, ok := strings.CutPrefix(name, accountPrefix)
	ns, account, ok2 := strings.Cut(rest, ":")
	if !ok || !ok2 || ns == "" || account == "" {
		return token.Claims{}, fmt.Errorf("%w: %q is no service account", token.ErrInvalid, name)
	}
	extra := func(key string) string {
		v, _, _ := unstructured.NestedStringSlice(out.Object, "status", "user", "extra", key)
		if len(v) != 1 {
			return ""
		}
		return v[0]
	}
	uid, _, _ := unstructured.NestedString(out.Object, "status", "user", "uid")
	return token.Claims{
		Namespace: ns, ServiceAccount: account, ServiceAccountUID: uid,
		PodName: extra(extraPod), PodUID: extra(extraPodUID), Node: extra(extraNode),
	}, nil
}
