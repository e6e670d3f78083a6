package kube

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/ambit-mesh/ambit/control/kube/kubetest"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// sink remembers what it heard.
type sink struct {
	mu      sync.Mutex
	have    map[object.Key]object.Object
	deleted []object.Key
	puts    map[object.Key]int
	synced  int
	wrong   []string
}

func newSink() *sink {
	return &sink{have: map[object.Key]object.Object{}, puts: map[object.Key]int{}}
}

func (s *sink) Apply(events []object.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[object.Key]bool{}
	for _, e := range events {
		if seen[e.Key] {
			s.wrong = append(s.wrong, e.Key.String()+" twice in a batch")
		}
		seen[e.Key] = true
		if e.Object == nil {
			delete(s.have, e.Key)
			s.deleted = append(s.deleted, e.Key)
			continue
		}
		s.puts[e.Key]++
		s.have[e.Key] = e.Object
	}
}

func (s *sink) Synced() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.synced++
}

func (s *sink) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for k := range s.have {
		out = append(out, k.String())
	}
	slices.Sort(out)
	return out
}

func (s *sink) gone() []object.Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.deleted)
}

func (s *sink) get(k object.Key) object.Object {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.have[k]
}

func (s *sink) isSynced() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.synced == 1
}

// await polls, because what is waited for happens in goroutines of client-go's.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// clusterOf connects to a server.
func clusterOf(t *testing.T, a *kubetest.Server) *Cluster {
	t.Helper()
	c, err := NewCluster(&rest.Config{Host: a.URL()}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

type world struct {
	*kubetest.Server
	sink   *sink
	status *status.Registry
	source *Source
	places *Places
}

func start(t *testing.T, a *kubetest.Server, secrets ...string) *world {
	t.Helper()
	return startWith(t, a, func(c *SourceConfig) { c.Secrets = secrets })
}

func startWith(t *testing.T, a *kubetest.Server, change func(*SourceConfig)) *world {
	t.Helper()
	w := &world{Server: a, sink: newSink(), status: status.New(), places: NewPlaces()}
	cfg := SourceConfig{
		Namespace: "ambit-system", Cluster: clusterOf(t, a), Sink: w.sink, Status: w.status, Places: w.places, Discover: time.Minute, Grace: 500 * time.Millisecond, NetworkPolicies: true,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	change(&cfg)
	w.source = NewSource(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.source.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		for _, e := range w.sink.wrong {
			t.Error(e)
		}
	})
	return w
}

func (w *world) synced(t *testing.T) {
	t.Helper()

	await(t, "the first complete picture", w.sink.isSynced)
}

const (
	policies = "apis/security.istio.io/v1/authorizationpolicies"
	shop     = `apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, uid: u1, labels: {app: web}}
spec: {nodeName: n1, serviceAccountName: web, containers: [{name: c, image: x}]}
status: {phase: Running, podIP: 10.1.0.5}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.9, ports: [{port: 80}], aFieldOfTheFuture: true}
`
	policy = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web, namespace: shop}
spec: {action: DENY, rules: [{from: [{source: {namespaces: [%s]}}]}]}
`
)

var policyKey = object.Key{Kind: object.KindAuthorizationPolicy, Namespace: "shop", Name: "web"}

func shown(o object.Object) string { return fmt.Sprintf("%+v", o) }

// What is there when the source starts comes before Synced, without the kinds that are not served; those that come later
// are read when they come, and their end takes nothing back.
func TestKindsComeAndGo(t *testing.T) {
	a := kubetest.New(t)
	a.Put(shop)
	w := start(t, a)
	w.synced(t)
	want := []string{"Namespace shop", "Pod shop/web-1", "Service shop/web"}
	if got := w.sink.names(); !slices.Equal(got, want) {
		t.Fatalf("got %v", got)
	}
	a.Serve(policies, "AuthorizationPolicy", true)
	a.Put(fmt.Sprintf(policy, "bad"))
	await(t, "a policy of a new kind", func() bool { return w.sink.get(policyKey) != nil })
	a.Unserve(policies)
	await(t, "word of the kind's absence", func() bool {
		return slices.ContainsFunc(w.status.List(), func(e status.Entry) bool {
			return e.Kind == "AuthorizationPolicy" && strings.Contains(e.Problem, "1 objects it told of stay in force")
		})
	})
	if w.sink.get(policyKey) == nil || len(w.sink.gone()) > 0 {
		t.Error("the policy was taken back with its kind")
	}
	if l := w.status.List(); len(l) != 1 {
		t.Errorf("more is said than that the kind is absent: %v", l)
	}
	a.Serve(policies, "AuthorizationPolicy", true)
	await(t, "the end of a policy that did not come back", func() bool { return w.sink.get(policyKey) == nil })
	if l := w.status.List(); len(l) > 0 {
		t.Errorf("still said: %v", l)
	}
}

// When the definition of a kind is deleted the API server deletes all its objects. What they said stays in force, also in
// the next process, until the kind is served again; the end of a single one is what it always is.
func TestDefinitionIsDeleted(t *testing.T) {
	a := kubetest.New(t)
	a.Serve(policies, "AuthorizationPolicy", true)
	a.Put(shop)
	a.Put(fmt.Sprintf(policy, "bad"))
	a.Put(strings.Replace(fmt.Sprintf(policy, "bad"), "name: web", "name: other", 1))
	w := start(t, a)
	w.synced(t)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { w.source.KeepLastGood(ctx) })
	a.Remove(policies, "shop", "other")
	await(t, "the end of a policy", func() bool { return len(w.sink.gone()) == 1 })

	asked := a.Asked("GET", definitionsPath)
	a.Undefine(policies)
	await(t, "the question what an end means", func() bool { return a.Asked("GET", definitionsPath) > asked })
	a.Unserve(policies)
	absent := func(w *world) func() bool {
		return func() bool {
			return slices.ContainsFunc(w.status.List(), func(e status.Entry) bool {
				return e.Kind == "AuthorizationPolicy" && strings.Contains(e.Problem, "1 objects it told of stay in force")
			})
		}
	}
	await(t, "word of the kind's absence", absent(w))
	a.Put(strings.Replace(shop, "web-1", "web-2", 1))
	await(t, "other kinds", func() bool { return slices.Contains(w.sink.names(), "Pod shop/web-2") })
	if w.sink.get(policyKey) == nil || len(w.sink.gone()) != 1 {
		t.Errorf("the policy went with its definition: %v", w.sink.gone())
	}
	await(t, "the note", func() bool {
		data, _ := a.Object("api/v1/secrets", "ambit-system", keepSecret)["data"].(kubetest.Doc)
		return len(data) == 1
	})
	cancel()
	wg.Wait()

	second := start(t, a)
	second.synced(t)
	if second.sink.get(policyKey) == nil || !absent(second)() || second.source.Failing() != 1 {
		t.Errorf("the next process does without the policy: %v, %v", second.sink.names(), second.status.List())
	}
	a.Serve(policies, "AuthorizationPolicy", true)
	a.Put(strings.Replace(fmt.Sprintf(policy, "bad"), "name: web", "name: other", 1))
	for _, w := range []*world{w, second} {
		await(t, "what is there again", func() bool {
			return w.sink.get(object.Key{Kind: object.KindAuthorizationPolicy, Namespace: "shop", Name: "other"}) != nil
		})
		if w.sink.get(policyKey) == nil || len(w.status.List()) != 1 {
			t.Errorf("the policy is gone before anybody could apply it again: %v", w.status.List())
		}
	}
	for _, w := range []*world{w, second} {
		await(t, "the end of a policy that did not come back", func() bool {
			return w.sink.get(policyKey) == nil && len(w.status.List()) == 0 && w.source.Failing() == 0
		})
	}
	a.Put(fmt.Sprintf(policy, "worse"))
	for _, w := range []*world{w, second} {
		await(t, "a policy of the new definition", func() bool { return strings.Contains(shown(w.sink.get(policyKey)), "worse") })
	}
	a.Remove(policies, "shop", "web")
	for _, w := range []*world{w, second} {
		await(t, "its end", func() bool { return w.sink.get(policyKey) == nil })
	}
}

// Policies that go all at once are not asked about one by one: what is news meanwhile would wait.
func TestManyPoliciesGo(t *testing.T) {
	a := kubetest.New(t)
	a.Serve(policies, "AuthorizationPolicy", true)
	a.Put(shop)
	const many = 500
	for i := range many {
		a.Put(strings.Replace(fmt.Sprintf(policy, "bad"), "name: web", fmt.Sprintf("name: web-%d", i), 1))
	}
	w := start(t, a)
	w.synced(t)
	answer, asked := make(chan struct{}), make(chan struct{})
	var first sync.Once
	before := a.Watches()
	a.Fail(func(r *http.Request) int {
		if r.URL.Path == definitionsPath && strings.HasPrefix(r.URL.Query().Get("fieldSelector"), "metadata.name=") {
			first.Do(func() { close(asked); <-answer })
		}
		return 0
	})
	await(t, "the watches", func() bool { return a.Watches() >= before })
	questions := a.Asked("GET", definitionsPath)
	a.Remove(policies, "shop", "web-0")
	<-asked
	for i := 1; i < many; i++ {
		a.Remove(policies, "shop", fmt.Sprintf("web-%d", i))
	}
	close(answer)
	await(t, "the end of all", func() bool { return len(w.sink.gone()) == many })
	if n := a.Asked("GET", definitionsPath) - questions; n > 20 {
		t.Errorf("%d questions about one definition", n)
	}
}

// A kind that comes back is served in one of its versions a moment before the other. What is said of it stands until its policies'
// time is over.
func TestServedAgainInParts(t *testing.T) {
	a := kubetest.New(t)
	a.Serve(policies, "AuthorizationPolicy", true)
	a.Put(shop)
	a.Put(fmt.Sprintf(policy, "bad"))
	w := startWith(t, a, func(c *SourceConfig) { c.Grace = time.Hour })
	w.synced(t)
	a.Unserve(policies)
	said := func(text string) func() bool {
		return func() bool {
			return slices.ContainsFunc(w.status.List(), func(e status.Entry) bool { return strings.Contains(e.Problem, text) })
		}
	}
	await(t, "word of the kind's absence", said("does not serve the kind any more"))
	older := strings.Replace(policies, "/v1/", "/v1beta1/", 1)
	a.Serve(older, "AuthorizationPolicy", true)
	await(t, "word of its return", said("the kind is served again"))
	asked := a.Asked("GET", "/"+policies)
	a.Serve(policies, "AuthorizationPolicy", true)
	await(t, "the newer version", func() bool { return a.Asked("GET", "/"+policies) > asked })
	if !said("the kind is served again")() || w.sink.get(policyKey) == nil {
		t.Errorf("%v", w.status.List())
	}
}

// An API server that is away or starts again takes nothing back; what happened meanwhile is seen after.
func TestServerRestarts(t *testing.T) {
	a := kubetest.New(t)
	a.Serve(policies, "AuthorizationPolicy", true)
	a.Put(shop)
	a.Put(fmt.Sprintf(policy, "bad"))
	w := start(t, a)
	w.synced(t)
	before := w.sink.names()
	a.Fail(func(*http.Request) int { return 503 })
	await(t, "word of the trouble", func() bool { return len(w.status.List()) > 0 })
	a.Remove("api/v1/pods", "shop", "web-1")
	a.Put(fmt.Sprintf(policy, "worse"))
	a.Compact()
	if got := w.sink.names(); !slices.Equal(got, before) {
		t.Fatalf("got %v", got)
	}
	a.Fail(nil)
	await(t, "what happened meanwhile", func() bool {
		return w.sink.get(object.Key{Kind: object.KindPod, Namespace: "shop", Name: "web-1"}) == nil && strings.Contains(shown(w.sink.get(policyKey)), "worse")
	})
	await(t, "the end of the trouble", func() bool { return len(w.status.List()) == 0 })
	if gone := w.sink.gone(); len(gone) != 1 {
		t.Errorf("deleted %v", gone)
	}
	if n := w.sink.puts[object.Key{Kind: object.KindService, Namespace: "shop", Name: "web"}]; n != 1 {
		t.Errorf("a Service that did not change was told %d times", n)
	}
}

// A start waits for an API server that is away, and says so.
func TestServerIsAwayAtTheStart(t *testing.T) {
	a := kubetest.New(t)
	a.Put(shop)
	a.Fail(func(*http.Request) int { return 503 })
	w := start(t, a)
	await(t, "word of the trouble", func() bool { return len(w.status.List()) > 0 && len(w.source.Waiting()) > 0 })
	a.Fail(nil)
	w.synced(t)
	await(t, "the end of the trouble", func() bool { return len(w.status.List()) == 0 })
	if len(w.sink.names()) != 3 || w.source.Failing() != 0 {
		t.Error(w.sink.names())
	}
}

// History that is forgotten (410 Gone) leads to a new list, which is compared with what was known.
func TestHistoryIsForgotten(t *testing.T) {
	a := kubetest.New(t)
	a.Put(shop)
	w := start(t, a)
	w.synced(t)
	a.Fail(func(r *http.Request) int {
		if r.URL.Query().Get("watch") != "" {
			return 503
		}
		return 0
	})
	a.Remove("api/v1/services", "shop", "web")
	a.Put(strings.Replace(shop, "web-1", "web-2", 1))
	a.Remove("api/v1/services", "shop", "web")
	a.Compact()
	a.Fail(nil)
	await(t, "the list after the gap", func() bool {
		return slices.Equal(w.sink.names(), []string{"Namespace shop", "Pod shop/web-1", "Pod shop/web-2"})
	})
}

// A kind that may not be read holds up the start, and says which and why: without its policies the mesh would be open.
func TestForbiddenKind(t *testing.T) {
	a := kubetest.New(t)
	a.Serve(policies, "AuthorizationPolicy", true)
	a.Put(shop)
	a.Fail(func(r *http.Request) int {
		if strings.Contains(r.URL.Path, "authorizationpolicies") {
			return 403
		}
		return 0
	})
	w := start(t, a)
	await(t, "the reason", func() bool {
		l := w.source.Waiting()
		return len(l) == 1 && strings.Contains(l[0], "AuthorizationPolicy cannot be read")
	})
	if w.sink.isSynced() {
		t.Error("synced without the policies")
	}
	a.Fail(nil)
	w.synced(t)
}

// A bad object is refused alone, and the last good version stays in force.
func TestBadObject(t *testing.T) {
	a := kubetest.New(t)
	a.Serve(policies, "AuthorizationPolicy", true)
	a.Put(shop)
	a.Put(fmt.Sprintf(policy, "bad"))
	w := start(t, a)
	w.synced(t)
	a.Put(strings.Replace(fmt.Sprintf(policy, "worse"), "namespaces", "nmaespaces", 1))
	await(t, "the refusal", func() bool { return len(w.status.List()) == 1 })
	e := w.status.List()[0]
	if e.Severity != status.Refused || !e.Kept || e.Namespace != "shop" || e.Name != "web" || !strings.Contains(e.Fix, "namespaces") || e.Line != 0 {
		t.Errorf("%+v", e)
	}
	if !strings.Contains(shown(w.sink.get(policyKey)), "bad") {
		t.Error("the good version is gone")
	}
	a.Put(fmt.Sprintf(policy, "worst"))
	await(t, "the mended version", func() bool { return strings.Contains(shown(w.sink.get(policyKey)), "worst") })
	await(t, "the end of the refusal", func() bool { return len(w.status.List()) == 0 })
	a.Put(strings.Replace(fmt.Sprintf(policy, "x"), "DENY", "MAYBE", 1))
	await(t, "the refusal", func() bool { return len(w.status.List()) > 0 })
	a.Remove(policies, "shop", "web")
	await(t, "the policy's end", func() bool { return w.sink.get(policyKey) == nil && len(w.status.List()) == 0 })
}

// The last good version of a refused policy outlives the process, as long as the policy is the same one.
func TestLastGoodSurvivesRestart(t *testing.T) {
	a := kubetest.New(t)
	a.Serve(policies, "AuthorizationPolicy", true)
	a.Put(shop)
	a.Put(fmt.Sprintf(policy, "bad"))
	first := start(t, a)
	first.synced(t)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { first.source.KeepLastGood(ctx) })
	a.Put(strings.Replace(fmt.Sprintf(policy, "worse"), "DENY", "MAYBE", 1))
	kept := func() int {
		data, _ := a.Object("api/v1/secrets", "ambit-system", keepSecret)["data"].(kubetest.Doc)
		return len(data)
	}
	await(t, "the note", func() bool { return kept() == 1 })
	cancel()
	wg.Wait()
	second := start(t, a)
	second.synced(t)
	if o := second.sink.get(policyKey); o == nil || !strings.Contains(shown(o), "bad") {
		t.Fatalf("the good version is gone: %v", o)
	}
	if l := second.status.List(); len(l) != 1 || !l[0].Kept {
		t.Error(l)
	}
	ctx, cancel = context.WithCancel(t.Context())
	wg.Go(func() { second.source.KeepLastGood(ctx) })
	defer wg.Wait()
	defer cancel()
	// Another policy of the same name is another policy.
	a.Remove(policies, "shop", "web")
	a.Put(strings.Replace(fmt.Sprintf(policy, "other"), "DENY", "MAYBE", 1))
	await(t, "the end of the note", func() bool { return kept() == 0 })
	third := start(t, a)
	third.synced(t)
	if third.sink.get(policyKey) != nil {
		t.Error("a policy that was deleted is in force")
	}
	a.Put(fmt.Sprintf(policy, "good"))
	await(t, "the mended policy", func() bool { return third.sink.get(policyKey) != nil && len(third.status.List()) == 0 })
}

// Secrets that nothing names are passed over; one that is named later is fetched, and let go when it no longer is.
func TestOnlyNamedSecrets(t *testing.T) {
	const gatewaysPath = "apis/gateway.networking.k8s.io/v1/gateways"
	a := kubetest.New(t)
	a.Serve(gatewaysPath, "Gateway", true)
	secret := "apiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: shop}\ntype: kubernetes.io/tls\ndata: {tls.crt: '', tls.key: ''}\n"
	gateway := "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: shop}\n" +
		"spec: {gatewayClassName: istio, listeners: [{name: s, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: %s}]}}]}\n"
	a.Put(fmt.Sprintf(secret, "one"))
	a.Put(fmt.Sprintf(secret, "two"))
	a.Put(fmt.Sprintf(gateway, "one"))
	w := start(t, a)
	w.synced(t)
	if got := w.sink.names(); !slices.Equal(got, []string{"Gateway shop/edge", "Secret shop/one"}) {
		t.Fatalf("got %v", got)
	}
	a.Put(fmt.Sprintf(gateway, "two"))
	await(t, "the other Secret", func() bool { return slices.Equal(w.sink.names(), []string{"Gateway shop/edge", "Secret shop/two"}) })
	a.Remove("api/v1/secrets", "shop", "two")
	await(t, "the Secret's end", func() bool { return slices.Equal(w.sink.names(), []string{"Gateway shop/edge"}) })
	a.Put(fmt.Sprintf(secret, "two"))
	await(t, "its return", func() bool { return len(w.sink.names()) == 2 })
	// Names are anybody's text: what is not there is not asked for, and no path leads elsewhere.
	for _, name := range []string{"none", "../../kube-system/secrets/one"} {
		a.Put(fmt.Sprintf(gateway, name))
		await(t, "the end of what is not named", func() bool { return slices.Equal(w.sink.names(), []string{"Gateway shop/edge"}) })
	}
	a.Put(fmt.Sprintf(gateway, "two"))
	await(t, "the return of what is", func() bool { return len(w.sink.names()) == 2 })
	for _, path := range []string{"/api/v1/namespaces/shop/secrets/none", "/api/v1/namespaces/kube-system/secrets/one"} {
		if n := a.Asked("GET", path); n != 0 {
			t.Errorf("%s was asked for %d times", path, n)
		}
	}
	a.Remove(gatewaysPath, "shop", "edge")
	await(t, "the end of all", func() bool { return len(w.sink.names()) == 0 })
}

// TestSlowSecrets: Secrets that are named, and which the API server is slow to give, hold up nothing else.
func TestSlowSecrets(t *testing.T) {
	a := kubetest.New(t)
	a.Serve(gatewaysPath, "Gateway", true)
	a.Put("apiVersion: v1\nkind: Secret\nmetadata: {name: one, namespace: shop}\ntype: kubernetes.io/tls\ndata: {tls.crt: '', tls.key: ''}\n")
	a.Put("apiVersion: v1\nkind: Secret\nmetadata: {name: two, namespace: shop}\ntype: kubernetes.io/tls\ndata: {tls.crt: '', tls.key: ''}\n")
	w := start(t, a)
	w.synced(t)
	let, asked := make(chan struct{}), make(chan struct{})
	var once sync.Once
	failed := false
	a.Fail(func(r *http.Request) int {
		switch r.URL.Path {
		case "/api/v1/namespaces/shop/secrets/one":
			once.Do(func() { close(asked) })
			select {
			case <-let:
			case <-r.Context().Done():
			}
		case "/api/v1/namespaces/shop/secrets/two":
			if !failed {
				failed = true
				return 503
			}
		}
		return 0
	})
	a.Put("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: shop}\n" +
		"spec: {gatewayClassName: istio, listeners: [{name: s, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: one}, {name: two}]}}]}\n")
	<-asked
	a.Put(shop)
	held := time.Now()
	await(t, "what has nothing to do with them", func() bool { return slices.Contains(w.sink.names(), "Pod shop/web-1") })
	if d := time.Since(held); d > 4*time.Second {
		t.Errorf("a Pod waited for a Secret, for %s", d)
	}
	await(t, "a Secret that could not be read at first", func() bool { return slices.Contains(w.sink.names(), "Secret shop/two") })
	close(let)
	await(t, "the other", func() bool { return slices.Contains(w.sink.names(), "Secret shop/one") })
}

// TestSecretsOfSomeNamespaces: without the right to read all Secrets those of some namespaces are read, and who names
// another is told. What goes while the API server is away, in one of them, is let go; what is in the others stays.
func TestSecretsOfSomeNamespaces(t *testing.T) {
	const gatewaysPath = "apis/gateway.networking.k8s.io/v1/gateways"
	a := kubetest.New(t)
	a.Serve(gatewaysPath, "Gateway", true)
	a.Fail(func(r *http.Request) int {
		if r.URL.Path == "/api/v1/secrets" {
			return http.StatusForbidden
		}
		return 0
	})
	secret := "apiVersion: v1\nkind: Secret\nmetadata: {name: cert, namespace: %s}\ntype: kubernetes.io/tls\ndata: {tls.crt: '', tls.key: ''}\n"
	for _, ns := range []string{"shop", "bank", "other"} {
		a.Put(fmt.Sprintf(secret, ns))
		a.Put("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: " + ns + "}\n" +
			"spec: {gatewayClassName: istio, listeners: [{name: s, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}]}\n")
	}
	w := start(t, a, "shop", "bank")
	w.synced(t)
	secrets := func() []string {
		return slices.DeleteFunc(w.sink.names(), func(n string) bool { return !strings.HasPrefix(n, "Secret ") })
	}
	if got := secrets(); !slices.Equal(got, []string{"Secret bank/cert", "Secret shop/cert"}) {
		t.Fatalf("got %v", got)
	}
	if list := w.status.List(); len(list) != 1 || list[0].Namespace != "other" || !strings.Contains(list[0].Fix, "control.secretNamespaces") {
		t.Errorf("told %v", list)
	}
	a.Remove("api/v1/secrets", "shop", "cert")
	a.Compact()
	a.Disconnect()
	await(t, "the end of one", func() bool { return slices.Equal(secrets(), []string{"Secret bank/cert"}) })
}
