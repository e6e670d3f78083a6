package kube

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestTokens: the plugin's token is of its own account and not bound to a pod, and another is asked for before it ends.
func TestTokens(t *testing.T) {
	for name, binds := range map[string]bool{"1.31": true, "1.29": false} {
		t.Run(name, func(t *testing.T) {
			api, cluster := newServer(t)
			now, made, away := time.Now().Truncate(time.Second), 0, false
			var bound []string
			api.token = func(spec doc) (int, doc) {
				ref, _ := spec["boundObjectRef"].(doc)
				switch {
				case away:
					return 503, nil
				case ref != nil && !binds:
					return 400, nil
				case spec["expirationSeconds"] != 86400.0 || spec["audiences"] != nil:
					t.Errorf("asked for %v", spec)
				}
				bound = append(bound, fmt.Sprintf("%v %v", ref["kind"], ref["name"]))
				made++
				return 201, doc{"token": fmt.Sprint("token-", made), "expirationTimestamp": now.Add(24 * time.Hour).UTC().Format(time.RFC3339)}
			}
			tokens := NewTokens(cluster, "ambit-system", "reader", "node-1")
			tokens.now = func() time.Time { return now }
			is := func(want, trouble string) {
				t.Helper()
				got, err := tokens.Token(t.Context())
				if got != want || (err != nil) != (trouble != "") || err != nil && !strings.Contains(err.Error(), trouble) {
					t.Fatalf("%q %v, want %q", got, err, want)
				}
			}
			const why = "token of ServiceAccount ambit-system/reader"
			after := func(d time.Duration) { now = now.Add(d) }
			away = true
			is("", why)
			away = false
			after(time.Second)
			is("", why) // not so soon again
			after(tokenSoon)
			is("token-1", "")
			after(11 * time.Hour)
			is("token-1", "")
			after(2 * time.Hour)
			is("token-2", "")
			// An API server that is away for long takes nothing from the node before the token's time is over.
			away = true
			after(23 * time.Hour)
			is("token-2", "")
			after(2 * time.Hour)
			is("", why)
			away = false
			after(tokenPause)
			is("token-3", "")
			for _, b := range bound {
				if want := map[bool]string{true: "Node node-1", false: "<nil> <nil>"}[binds]; b != want {
					t.Errorf("bound to %s, want %s", b, want)
				}
			}
		})
	}
}

// TestTokensStayBound: a request that is bad for another reason does not turn the node's tokens into ones that outlive it.
func TestTokensStayBound(t *testing.T) {
	api, cluster := newServer(t)
	now, bad := time.Now(), true
	api.token = func(spec doc) (int, doc) {
		if bad {
			return 400, nil
		}
		if ref, _ := spec["boundObjectRef"].(doc); ref["name"] != "node-1" {
			t.Errorf("bound to %v", ref)
		}
		return 201, doc{"token": "one", "expirationTimestamp": now.Add(time.Hour).UTC().Format(time.RFC3339)}
	}
	tokens := NewTokens(cluster, "ambit-system", "reader", "node-1")
	tokens.now = func() time.Time { return now }
	if got, err := tokens.Token(t.Context()); err == nil {
		t.Errorf("got %q", got)
	}
	bad, now = false, now.Add(tokenSoon)
	if got, err := tokens.Token(t.Context()); got != "one" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestTokensAdopt: an agent goes on with the token of the one before it until that ends, if it is of the plugin's account.
func TestTokensAdopt(t *testing.T) {
	api, cluster := newServer(t)
	api.token = func(doc) (int, doc) { return 403, nil }
	now := time.Now()
	jwt := func(account string, ends time.Time) string {
		claims := fmt.Sprintf(`{"sub":"system:serviceaccount:ambit-system:%s","exp":%d}`, account, ends.Unix())
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
	}
	own := jwt("reader", now.Add(time.Hour))
	for name, c := range map[string]struct {
		token string
		after time.Duration
		good  bool
	}{
		"its own":      {own, 0, true},
		"ended since":  {own, 2 * time.Hour, false},
		"ended before": {jwt("reader", now.Add(-time.Second)), 0, false},
		"the agent's":  {jwt("ambit-cni", now.Add(time.Hour)), 0, false},
		"no token":     {"reader", 0, false},
		"no end":       {"e30.e30.c2ln", 0, false},
	} {
		tokens := NewTokens(cluster, "ambit-system", "reader", "node-1")
		tokens.now = func() time.Time { return now }
		tokens.Adopt(c.token)
		at := now.Add(c.after)
		tokens.now = func() time.Time { return at }
		if got, err := tokens.Token(t.Context()); (got == c.token) != c.good || (err == nil) != c.good {
			t.Errorf("%s: %q %v", name, got, err)
		}
	}
}
