package kube

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	// tokenLife is what a token is asked for; the API server may give less. An admission policy of the chart refuses more.
	tokenLife = 24 * time.Hour
	// tokenPause is how long after a failure the API server is asked again, without any token after tokenSoon, and tokenWait how
	// long it is waited for: what keeps the plugin installed waits with it.
	tokenPause = 30 * time.Second
	tokenSoon  = 5 * time.Second
	tokenWait  = 2 * time.Second
)

// claims are what a token says of itself, which nobody has confirmed here. RFC 7519 §4.1
type claims struct {
	Sub string  `json:"sub"`
	Exp float64 `json:"exp"`
}

// claimed reads a token without a look at its signature.
func claimed(token string) (c claims, ok bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return c, false
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	return c, err == nil && json.Unmarshal(body, &c) == nil
}

// Tokens are those of another service account than the agent's, which may less, for the plugin. The agent's own are of no use to
// it: they end with the agent's pod, and the plugin asks the API server just when there is none. Safe for concurrent use.
type Tokens struct {
	cluster            *Cluster
	namespace, account string
	node               string
	now                func() time.Time

	mu    sync.Mutex
	token string    // guarded by mu, as all below; empty before the first
	renew time.Time // when another is asked for
	ends  time.Time // when the API server takes token no more
	loose bool      // API servers before 1.31 bind no token to a node
	err   error     // of the last request
}

// NewTokens prepares tokens of an account, for programs of one node. It sends nothing yet.
func NewTokens(c *Cluster, namespace, account, node string) *Tokens {
	return &Tokens{cluster: c, namespace: namespace, account: account, node: node, now: time.Now}
}

// Adopt goes on with a token that an agent before this one was given, until there is another or it ends. What is no token of the
// account is passed over: one of an agent's own has ended with its pod.
func (t *Tokens) Adopt(token string) {
	said, ok := claimed(token)
	if !ok || said.Sub != "system:serviceaccount:"+t.namespace+":"+t.account {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	ends, now := time.Unix(int64(said.Exp), 0), t.now()
	if t.token != "" || !now.Before(ends) {
		return
	}
	t.token, t.ends = token, ends
	if latest := now.Add(tokenLife); ends.After(latest) {
		t.ends = latest
	}
}

// Token is good for half of its life and more, as long as the API server gives another in time. It ends with its account, and
// where API servers can (1.31), with the node.
func (t *Tokens) Token(ctx context.Context) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := t.now(); !now.Before(t.renew) {
		before := t.err
		if t.err = t.ask(ctx, now); t.err != nil {
			t.renew = now.Add(tokenPause)
			if t.token == "" {
				t.renew = now.Add(tokenSoon)
			} else if before == nil {
				t.cluster.log.Warn("the plugin keeps the token it has", "ends", t.ends, "err", t.err)
			}
		}
	}
	if t.token != "" && t.now().Before(t.ends) {
		return t.token, nil
	}
	return "", t.err
}

// ask gets a new token. The caller has locked mu.
func (t *Tokens) ask(ctx context.Context, now time.Time) error {
	got, err := t.request(ctx, t.loose)
	if apierrors.IsBadRequest(err) && !t.loose {
		// It may know tokens of pods and secrets only: k8s.io/kubernetes pkg/registry/core/serviceaccount/storage, TokenREST.Create.
		got, err = t.request(ctx, true)
		t.loose = err == nil
	}
	if err != nil {
		return fmt.Errorf("token of ServiceAccount %s/%s: %w", t.namespace, t.account, err)
	}
	// The clocks of node and API server may differ.
	life := min(tokenLife, max(got.Status.ExpirationTimestamp.Sub(now), 2*tokenPause))
	t.token, t.renew, t.ends = got.Status.Token, now.Add(life/2), now.Add(life)
	return nil
}

func (t *Tokens) request(ctx context.Context, loose bool) (*authenticationv1.TokenRequest, error) {
	ctx, cancel := context.WithTimeout(ctx, tokenWait)
	defer cancel()
	seconds := int64(tokenLife / time.Second)
	ask := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}
	if !loose {
		ask.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Node", Name: t.node}
	}
	got := &authenticationv1.TokenRequest{}
	err := t.cluster.core.Post().Namespace(t.namespace).Resource("serviceaccounts").Name(t.account).SubResource("token").Body(ask).Do(ctx).Into(got)
	return got, err
}
