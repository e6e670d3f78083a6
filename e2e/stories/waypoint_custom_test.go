package stories

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWaypointAsksAnAuthorizer binds CUSTOM policies to a service: an authorizer that runs in the mesh decides, over HTTP and over
// gRPC; while it cannot be asked nobody passes, unless its provider says so.
func TestWaypointAsksAnAuthorizer(t *testing.T) {
	w := startWaypoints(t, options{nodes: 2})
	w.guardedShop()
	sample, err := os.ReadFile(filepath.Join("..", "samples", "waypoint", "authorizer.yaml"))
	w.must(err)
	authorizer := string(sample)
	w.now(authorizer + "---\n" + customPolicy("ask-http"))
	service := "http://" + w.vip("shop", "web") + "/"
	asks := func(by string) {
		t.Helper()
		w.eventually("the authorizer to be asked over "+by, func() error {
			a, err := w.fetch("shop", "client", "POST "+service, "x-ext-authz: allow")
			if err != nil || a.Status != http.StatusOK || a.Header.Get("X-Ext-Authz-Checked-By") != by {
				return fmt.Errorf("%d %q, %v", a.Status, a.Body, err)
			}
			return nil
		})
		for _, no := range []string{"x-ext-authz: deny", "x-nothing: allow"} {
			if a := w.status("shop", "client", "POST "+service, http.StatusForbidden, no); !strings.Contains(a.Body, "denied by ambit-authorizer") {
				t.Errorf("%s, %s: the refusal is %q", by, no, a.Body)
			}
		}
		// Who claims to have been checked is not believed, and what the policy does not match is not asked about.
		w.status("shop", "client", "POST "+service, http.StatusForbidden, "x-ext-authz-checked-by: "+by)
		if a := w.through("shop", "client", service, "shop/wp"); a.Header.Get("X-Ext-Authz-Checked-By") != "" {
			t.Errorf("%s: a GET was asked about", by)
		}
		w.status("shop", "client", "POST http://"+w.podIP("shop", "web")+":8080/", 0, "x-ext-authz: allow") // not around it
	}
	asks("http")
	w.now(customPolicy("ask-grpc"))
	asks("grpc")

	// Others decide besides: who allows does not overrule who denies.
	w.now(getOnly("shop", "web"))
	w.status("shop", "client", "POST "+service, http.StatusForbidden, "x-ext-authz: allow")
	w.remove(getOnly("shop", "web"))
	w.synced()
	asks("grpc")

	// Nobody to ask.
	w.now(strings.Replace(authorizer, "replicas: 1", "replicas: 0", 1))
	for _, provider := range []string{"ask-grpc", "ask-http"} {
		w.now(customPolicy(provider))
		w.eventually("refusals while nobody can be asked over "+provider, func() error {
			a, err := w.fetch("shop", "client", "POST "+service, "x-ext-authz: allow")
			if err != nil || a.Status != http.StatusForbidden || strings.Contains(a.Body, "denied by ambit-authorizer") {
				return fmt.Errorf("%d %q, %v", a.Status, a.Body, err)
			}
			return nil
		})
		w.through("shop", "client", service, "shop/wp")
	}
	down := strings.Replace(authorizer, "replicas: 1", "replicas: 0", 1)
	w.now(strings.ReplaceAll(down, "port: 8000\n        include", "port: 8000\n        statusOnError: \"503\"\n        include"))
	w.status("shop", "client", "POST "+service, http.StatusServiceUnavailable, "x-ext-authz: allow")
	w.now(strings.ReplaceAll(down, "port: 8000\n        include", "port: 8000\n        failOpen: true\n        include"))
	w.status("shop", "client", "POST "+service, http.StatusOK, "x-ext-authz: deny")

	// It comes back, and with it what was.
	w.now(authorizer)
	asks("http")

	// A name nobody has: what the policy matches is denied, and said.
	w.now(customPolicy("nobody"))
	w.status("shop", "client", "POST "+service, http.StatusForbidden, "x-ext-authz: allow")
	w.through("shop", "client", service, "shop/wp")
	w.said("AuthorizationPolicy shop/custom", "nobody")
}

// customPolicy has somebody else decide about POST.
func customPolicy(provider string) string {
	return fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: custom, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  action: CUSTOM
  provider: {name: %s}
  rules: [{to: [{operation: {methods: [POST]}}]}]
---
`, provider)
}
