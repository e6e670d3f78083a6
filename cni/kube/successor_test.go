package kube

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestSuccessor(t *testing.T) {
	const set, node = "/apis/apps/v1/namespaces/ambit-system/daemonsets/agents", "/api/v1/nodes/node-1"
	daemonset := func(meta, spec doc) doc {
		return doc{"kind": "DaemonSet", "apiVersion": "apps/v1", "metadata": merge(doc{"name": "agents"}, meta), "spec": doc{"template": doc{"spec": spec}}}
	}
	linux := doc{"kind": "Node", "apiVersion": "v1", "metadata": doc{"name": "node-1", "labels": doc{"kubernetes.io/os": "linux"}}}
	space := doc{"kind": "Namespace", "apiVersion": "v1", "metadata": doc{"name": "ambit-system"}}
	going := merge(space, doc{"metadata": doc{"deletionTimestamp": "2026-01-01T00:00:00Z"}})
	for name, c := range map[string]struct {
		set, node doc
		fail      int
		space     doc // of the namespace
		role      int // what the DaemonSet alone is answered with
		token     string
		want      bool
		why       string
		unsure    bool
	}{
		"upgrade":            {set: daemonset(nil, nil), node: linux, want: true, why: "goes on"},
		"deleted":            {node: linux, want: false, why: "there is no DaemonSet ambit-system/agents"},
		"being deleted":      {set: daemonset(doc{"deletionTimestamp": "2026-01-01T00:00:00Z"}, nil), node: linux, want: false, why: "is being deleted"},
		"not for this node":  {set: daemonset(nil, doc{"nodeSelector": doc{"mesh": "yes"}}), node: linux, want: false, why: "does not select node node-1"},
		"for this node":      {set: daemonset(nil, doc{"nodeSelector": doc{"kubernetes.io/os": "linux"}}), node: linux, want: true},
		"the node is gone":   {set: daemonset(nil, nil), want: true, why: "cannot be read"},
		"account is gone":    {fail: 401, want: false, why: "does not know the agent", unsure: true},
		"token has ended":    {fail: 401, token: lasting(-time.Minute), want: true, why: "token has ended"},
		"token is good":      {fail: 401, token: lasting(time.Hour), want: false, why: "does not know the agent", unsure: true},
		"rights are gone":    {fail: 403, want: true, why: "cannot be read"},
		"namespace goes":     {set: daemonset(nil, nil), node: linux, space: going, want: false, why: "namespace ambit-system is being deleted"},
		"its role is gone":   {role: 403, space: going, want: false, why: "namespace ambit-system is being deleted"},
		"a role is gone":     {role: 403, space: space, want: true, why: "cannot be read"},
		"API server is away": {fail: 503, want: true, why: "cannot be read"},
	} {
		api, cluster := newServer(t)
		cluster.config.BearerToken = c.token
		api.set(set, c.set)
		api.set(node, c.node)
		api.set("/api/v1/namespaces/ambit-system", c.space)
		api.fail(func(r *http.Request) int {
			if r.URL.Path == set && c.role != 0 {
				return c.role
			}
			return c.fail
		})
		got, sure, why := NewSource(cluster, "node-1").Successor(t.Context(), "ambit-system", "agents")
		if got != c.want || sure == c.unsure || !strings.Contains(why, c.why) {
			t.Errorf("%s: %v, sure: %v, %s", name, got, sure, why)
		}
	}
}

// TestSuccessorAfterUninstall: Helm deletes the DaemonSet, and then the rights to read it, before an agent is told to end. Without
// the first the second is no uninstall.
func TestSuccessorAfterUninstall(t *testing.T) {
	const folder = "/apis/apps/v1/namespaces/ambit-system/daemonsets"
	set := func(name string, meta doc) doc {
		return doc{"kind": "DaemonSet", "apiVersion": "apps/v1", "metadata": merge(doc{"name": name, "namespace": "ambit-system", "uid": "1"}, meta)}
	}
	for name, c := range map[string]struct {
		happens func(*server)
		want    bool
		why     string
	}{
		"rights alone": {func(*server) {}, true, "cannot be read"},
		"uninstalled":  {func(s *server) { s.set(folder+"/agents", nil) }, false, "was deleted"},
		"being deleted": {func(s *server) {
			s.set(folder+"/agents", set("agents", doc{"deletionTimestamp": "2026-01-01T00:00:00Z"}))
		}, false, "was deleted"},
		"made anew": {func(s *server) {
			s.set(folder+"/agents", nil)
			s.set(folder+"/agents", set("agents", doc{"uid": "2"}))
		}, true, "cannot be read"},
	} {
		for code, account := range map[int]string{403: "rights", 401: "account"} {
			api, cluster := newServer(t)
			cluster.config.BearerToken = lasting(-time.Minute)
			api.set(folder+"/agents", set("agents", nil))
			source := NewSource(cluster, "node-1")
			source.FollowOwn("ambit-system", "agents")
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- source.Run(ctx, &sink{}) }()
			soon := func(f func() bool) {
				for deadline := time.Now().Add(10 * time.Second); !f() && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
				}
			}
			soon(func() bool { api.mu.Lock(); defer api.mu.Unlock(); return len(api.queries[folder]) > 0 })
			c.happens(api)
			soon(func() bool { return source.own.isGone("ambit-system", "agents") != c.want })
			api.fail(func(*http.Request) int { return code })
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			stays, sure, why := source.Successor(t.Context(), "ambit-system", "agents")
			if stays != c.want || !sure || code == 403 && !strings.Contains(why, c.why) {
				t.Errorf("%s, the %s gone: %v, sure: %v, %s", name, account, stays, sure, why)
			}
		}
	}
}

// lasting is a token that ends so long from now.
func lasting(d time.Duration) string {
	claims := fmt.Sprintf(`{"exp": %d}`, time.Now().Add(d).Unix())
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
}

func TestPlaces(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"zone": "a", "cpus": "8"}}}
	r := func(key string, op corev1.NodeSelectorOperator, values ...string) corev1.NodeSelectorRequirement {
		return corev1.NodeSelectorRequirement{Key: key, Operator: op, Values: values}
	}
	type term = corev1.NodeSelectorTerm
	type reqs = []corev1.NodeSelectorRequirement
	for name, c := range map[string]struct {
		terms []term
		want  bool
	}{
		"in":                  {[]term{{MatchExpressions: reqs{r("zone", "In", "a", "b")}}}, true},
		"not in that one":     {[]term{{MatchExpressions: reqs{r("zone", "In", "b")}}}, false},
		"all of a term":       {[]term{{MatchExpressions: reqs{r("zone", "In", "a"), r("arch", "Exists")}}}, false},
		"one of the terms":    {[]term{{MatchExpressions: reqs{r("arch", "Exists")}}, {MatchExpressions: reqs{r("arch", "DoesNotExist")}}}, true},
		"not in":              {[]term{{MatchExpressions: reqs{r("zone", "NotIn", "a")}}}, false},
		"not in, not there":   {[]term{{MatchExpressions: reqs{r("arch", "NotIn", "a")}}}, true},
		"more":                {[]term{{MatchExpressions: reqs{r("cpus", "Gt", "4")}}}, true},
		"not more":            {[]term{{MatchExpressions: reqs{r("cpus", "Gt", "8")}}}, false},
		"less":                {[]term{{MatchExpressions: reqs{r("cpus", "Lt", "9")}}}, true},
		"not less":            {[]term{{MatchExpressions: reqs{r("cpus", "Lt", "8")}}}, false},
		"no number":           {[]term{{MatchExpressions: reqs{r("zone", "Gt", "8")}}}, false},
		"by name":             {[]term{{MatchFields: reqs{r("metadata.name", "In", "n1")}}}, true},
		"by another name":     {[]term{{MatchFields: reqs{r("metadata.name", "In", "n2")}}}, false},
		"an empty term":       {[]term{{}}, false},
		"an unknown operator": {[]term{{MatchExpressions: reqs{r("zone", "Like", "a")}}}, false},
	} {
		spec := &corev1.PodSpec{Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: c.terms},
		}}}
		if got := places(spec, node); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
