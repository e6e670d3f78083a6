package kube

import (
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
