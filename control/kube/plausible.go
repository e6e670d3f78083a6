package kube

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/peer"

	"github.com/ambit-mesh/ambit/ca/token"
)

const (
	// late is how long after its end a token is still asked about: API servers give it a minute, and clocks may differ by
	// another. Kubernetes pkg/serviceaccount validator.Validate, go-jose jwt.DefaultLeeway
	late = 2 * time.Minute
	// peerMost is how many questions of one address are under way at a time. The API server is asked in turn, so this is
	// what one address can hold up another by.
	peerMost = 8
)

// claim is what a token says of itself, which nobody has confirmed.
type claim struct {
	Exp float64         `json:"exp"`
	Aud json.RawMessage `json:"aud"`
}

// claimed reads a token without a look at its signature. RFC 7519 section 3
func claimed(raw string) (claim, error) {
	var c claim
	parts := strings.Split(raw, ".")
	if len(parts) != 3 || slices.Contains(parts, "") {
		return c, fmt.Errorf("%w: it is no JSON Web Token", token.ErrInvalid)
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(body, &c) != nil {
		return c, fmt.Errorf("%w: it is no JSON Web Token: its second part is not JSON in base64url", token.ErrInvalid)
	}
	return c, nil
}

// plausible refuses what the API server would refuse by the token's own word, so that whoever reaches the port cannot have
// it asked about anything. Who made the token is not looked at. One that says nothing of its audience or end is asked about:
// the oldest tokens of accounts are like that, and an API server may be told to take them.
func (t *Tokens) plausible(raw string) error {
	c, err := claimed(raw)
	if err != nil {
		return err
	}
	if c.Exp > 0 && c.Exp < 1<<40 {
		if end := time.Unix(int64(c.Exp), 0); t.now().Sub(end) > late {
			return fmt.Errorf("%w: the token has expired, at %s", token.ErrInvalid, end.UTC().Format(time.RFC3339))
		}
	}
	if len(c.Aud) == 0 {
		return nil
	}
	var several []string
	if json.Unmarshal(c.Aud, &several) != nil {
		var one string
		if json.Unmarshal(c.Aud, &one) != nil {
			return fmt.Errorf("%w: claim aud is neither a text nor a list of texts", token.ErrInvalid)
		}
		several = []string{one}
	}
	if len(several) > 0 && !slices.ContainsFunc(several, func(a string) bool { return slices.Contains(t.audiences, a) }) {
		return fmt.Errorf("%w: the token is not for audience %s", token.ErrInvalid, strings.Join(t.audiences, ", "))
	}
	return nil
}

// asker is an address with questions.
type asker struct {
	turns chan struct{} // full while no other may begin
	count int           // questions that are under way or wait
}

// errBusy is wrapped by the error of a question that was not asked, because its address has too many. It says nothing of the
// API server: nobody falls back on an earlier answer by asking too much.
var errBusy = errors.New("too many questions about tokens are under way")

// inTurn asks the API server when the peer's address has fewer than peerMost questions under way.
func (t *Tokens) inTurn(ctx context.Context, raw string) (token.Claims, error) {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return t.review(ctx, raw)
	}
	host, _, err := net.SplitHostPort(p.Addr.String())
	if err != nil {
		host = p.Addr.String()
	}
	t.mu.Lock()
	a := t.peers[host]
	if a == nil {
		a = &asker{turns: make(chan struct{}, peerMost)}
		t.peers[host] = a
	}
	a.count++
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if a.count--; a.count == 0 {
			delete(t.peers, host)
		}
	}()
	wait := time.NewTimer(reviewTime)
	defer wait.Stop()
	select {
	case a.turns <- struct{}{}:
		defer func() { <-a.turns }()
		return t.review(ctx, raw)
	case <-wait.C:
	case <-ctx.Done():
	}
	return token.Claims{}, fmt.Errorf("%w: those of %s", errBusy, host)
}
