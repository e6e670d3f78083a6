package kube

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/ambit-mesh/ambit/ca/catest"
	"github.com/ambit-mesh/ambit/ca/issuer"
	"github.com/ambit-mesh/ambit/control/conditions"
	"github.com/ambit-mesh/ambit/control/gateways"
	"github.com/ambit-mesh/ambit/control/kube/kubetest"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

const (
	routes       = "apis/gateway.networking.k8s.io/v1/httproutes"
	gatewaysPath = "apis/gateway.networking.k8s.io/v1/gateways"
)

// Status goes to the object with what others wrote left alone, and is not written when it says nothing new.
func TestConditions(t *testing.T) {
	a := kubetest.New(t)
	a.Serve(routes, "HTTPRoute", true)
	a.Put(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec: {}
status: {parents: [{controllerName: example.com/x, parentRef: {name: theirs}, conditions: []}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{port: 80}]}
status: {loadBalancer: {ingress: [{ip: 1.2.3.4}]}, conditions: [{type: Theirs, status: "True"}]}
`)
	w := start(t, a)
	w.synced(t)
	writer := NewWriter(w.source)
	ctx := t.Context()
	add := func(o conditions.Object) conditions.Object {
		status := o["status"].(kubetest.Doc)
		parents, _ := status["parents"].([]any)
		status["parents"] = append(parents, kubetest.Doc{"controllerName": "istio.io/gateway-controller"})
		return o
	}
	key := conditions.Key{Kind: "HTTPRoute", Namespace: "shop", Name: "r"}
	// Somebody else writes between our read and our write: the first try is a conflict.
	raced := false
	a.Fail(func(r *http.Request) int {
		if r.Method == "PATCH" && !raced {
			raced = true
			return 409
		}
		return 0
	})
	if err := writer.Update(ctx, key, add); err != nil {
		t.Fatal(err)
	}
	if list := a.Object(routes, "shop", "r")["status"].(kubetest.Doc)["parents"].([]any); len(list) != 2 {
		t.Error(list)
	}
	version := a.Version()
	if err := writer.Update(ctx, key, func(o conditions.Object) conditions.Object { return o }); err != nil || a.Version() != version {
		t.Error("the same was written again", err)
	}
	svc := conditions.Key{Kind: "Service", Namespace: "shop", Name: "web"}
	if err := writer.Update(ctx, svc, func(o conditions.Object) conditions.Object {
		s := o["status"].(kubetest.Doc)
		s["conditions"] = append(s["conditions"].([]any), kubetest.Doc{"type": "istio.io/WaypointBound", "status": "True"})
		return o
	}); err != nil {
		t.Fatal(err)
	}
	// The fake merges mappings only, so what was sent is what stands there: ours alone, which a real one merges by type.
	o := a.Object("api/v1/services", "shop", "web")["status"].(kubetest.Doc)
	if c := o["conditions"].([]any); len(c) != 1 || c[0].(kubetest.Doc)["type"] != "istio.io/WaypointBound" || o["loadBalancer"] == nil {
		t.Error(o)
	}
	for _, k := range []conditions.Key{{Kind: "HTTPRoute", Namespace: "shop", Name: "none"}, {Kind: "TCPRoute", Namespace: "shop", Name: "r"}} {
		if err := writer.Update(ctx, k, add); !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	}
}

// What was not made for a Gateway is neither overwritten nor deleted.
func TestApplierLeavesStrangersAlone(t *testing.T) {
	a := kubetest.New(t)
	a.Put("apiVersion: v1\nkind: Service\nmetadata: {name: wp, namespace: shop}\nspec: {ports: [{port: 80}]}\n")
	w := start(t, a)
	w.synced(t)
	writer := NewWriter(w.source)
	ours := gateways.Object{"apiVersion": "v1", "kind": "Service", "metadata": kubetest.Doc{"name": "wp", "namespace": "shop", "labels": kubetest.Doc{
		"gateway.istio.io/managed": "istio.io-mesh-controller", "gateway.networking.k8s.io/gateway-name": "wp",
	}}, "spec": kubetest.Doc{"ports": []any{kubetest.Doc{"port": 15008}}}}
	if err := writer.Apply(t.Context(), ours); err == nil || !strings.Contains(err.Error(), "was not made for this Gateway") {
		t.Error(err)
	}
	k := gateways.Key{Kind: "Service", Namespace: "shop", Name: "wp"}
	if err := writer.Delete(t.Context(), k); err != nil || a.Object("api/v1/services", "shop", "wp") == nil {
		t.Error("deleted somebody's Service", err)
	}
	a.Remove("api/v1/services", "shop", "wp")
	if err := writer.Apply(t.Context(), ours); err != nil {
		t.Fatal(err)
	}
	if err := writer.Delete(t.Context(), k); err != nil || a.Object("api/v1/services", "shop", "wp") != nil {
		t.Error("not deleted", err)
	}
}

// One replica leads; when it stops the other does at once, when it is cut off after a while.
func TestLeader(t *testing.T) {
	a := kubetest.New(t)
	lead := make(chan string, 8)
	run := func(name string, c *Cluster) (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		l := NewLeader(LeaderConfig{Cluster: c, Namespace: "ambit-system", Identity: name, Duration: 600 * time.Millisecond, Renew: 300 * time.Millisecond, Retry: 20 * time.Millisecond})
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = l.Run(ctx, func(ctx context.Context) {
				lead <- "+" + name
				<-ctx.Done()
				lead <- "-" + name
			})
		}()
		return func() { cancel(); <-done }
	}
	one := run("one", clusterOf(t, a))
	if got := <-lead; got != "+one" {
		t.Fatal(got)
	}
	two := run("two", clusterOf(t, a))
	defer two()
	time.AfterFunc(100*time.Millisecond, one)
	if a, b := <-lead, <-lead; a != "-one" || b != "+two" {
		t.Fatal(a, b)
	}
	a.Fail(func(*http.Request) int { return 503 })
	if got := <-lead; got != "-two" {
		t.Fatal(got)
	}
	a.Fail(nil)
	if got := <-lead; got != "+two" {
		t.Fatal(got)
	}
}

// A leader whose questions are not answered ends before another may begin.
func TestLeaderEndsInTime(t *testing.T) {
	a := kubetest.New(t)
	const duration = 3 * time.Second
	l := NewLeader(LeaderConfig{Cluster: clusterOf(t, a), Namespace: "ambit-system", Identity: "one", Duration: duration, Renew: 2 * time.Second, Retry: 400 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	begun, ended := make(chan struct{}), make(chan time.Time)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = l.Run(ctx, func(own context.Context) {
			close(begun)
			<-own.Done()
			ended <- time.Now()
			<-ctx.Done()
		})
	}()
	<-begun
	a.Fail(func(r *http.Request) int {
		<-r.Context().Done()
		return 503
	})
	since := time.Now()
	if d := (<-ended).Sub(since); d >= duration {
		t.Errorf("it led for %s after its last renewal, and another may after %s", d, duration)
	}
	cancel()
	<-done
}

// Replicas that start at once have one root, which survives the loss of its Secret; an operator's own comes first.
func TestAuthority(t *testing.T) {
	a := kubetest.New(t)
	open := func() (*Authority, *issuer.Issuer) {
		au := NewAuthority(AuthorityConfig{Cluster: clusterOf(t, a), Namespace: "ambit-system", Dir: t.TempDir(), Issuer: issuer.Config{Poll: 20 * time.Millisecond}})
		iss, err := au.Open(t.Context())
		if err != nil {
			t.Error(err)
		}
		return au, iss
	}
	issuers, authorities := make([]*issuer.Issuer, 3), make([]*Authority, 3)
	var wg sync.WaitGroup
	for i := range issuers {
		wg.Go(func() { authorities[i], issuers[i] = open() })
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for _, i := range issuers {
		if !i.Bundle().Equal(issuers[0].Bundle()) {
			t.Error("replicas have different roots")
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	wg.Go(func() { _ = authorities[0].Run(ctx) })
	wg.Go(func() { _ = issuers[0].Run(ctx) })
	defer wg.Wait()
	defer cancel()
	secrets := "api/v1/secrets"
	before := a.Object(secrets, "ambit-system", madeSecret)["data"].(kubetest.Doc)["ca-cert.pem"]
	await(t, "the watch", func() bool {
		return a.Watches() == 2
	})
	a.Remove(secrets, "ambit-system", madeSecret)
	await(t, "the Secret's return", func() bool { return a.Object(secrets, "ambit-system", madeSecret) != nil })
	if a.Object(secrets, "ambit-system", madeSecret)["data"].(kubetest.Doc)["ca-cert.pem"] != before {
		t.Error("the Secret came back with another key")
	}
	if err := authorities[0].rotate(ctx); err != nil {
		t.Error(err)
	}
	if now := a.Object(secrets, "ambit-system", madeSecret)["data"].(kubetest.Doc)["ca-cert.pem"]; now != before {
		t.Error("a root that is new was rotated")
	}
	old := issuers[0].Bundle()
	if err := authorities[0].RotateNow(ctx); err != nil {
		t.Error(err)
	}
	await(t, "the rotated root, beside the old one", func() bool {
		now := issuers[0].Bundle()
		return !now.Equal(old) && bytes.Contains(now.PEM(), bytes.TrimSpace(old.PEM()))
	})
	if err := authorities[1].RotateNow(ctx); err == nil || !strings.Contains(err.Error(), "just been replaced") {
		t.Errorf("a replica that has not heard of the new root rotates the old one: %v", err)
	}
	own, err := authorities[1].root(nil, false)
	if err != nil {
		t.Fatal(err)
	}
	data := kubetest.Doc{}
	for name, b := range own {
		data[name] = base64.StdEncoding.EncodeToString(b)
	}
	a.PutDoc(kubetest.Doc{"apiVersion": "v1", "kind": "Secret", "metadata": kubetest.Doc{"name": pluggedSecret, "namespace": "ambit-system"}, "data": data})
	await(t, "the operator's root", func() bool {
		return bytes.Equal(bytes.TrimSpace(issuers[0].Bundle().PEM()), bytes.TrimSpace(own["root-cert.pem"]))
	})
	if err := authorities[0].RotateNow(ctx); err == nil || !strings.Contains(err.Error(), "operator's own") {
		t.Errorf("an operator's own root is rotated: %v", err)
	}
	if _, iss := open(); !iss.Bundle().Equal(issuers[0].Bundle()) {
		t.Error("a replica that starts later has another root")
	}
}

// The roots are in every namespace, also in new ones and where somebody removed or changed them.
func TestRoots(t *testing.T) {
	a := kubetest.New(t)
	a.Put(shop)
	a.Put("apiVersion: v1\nkind: Namespace\nmetadata: {name: kube-system}\n")
	var mu sync.Mutex
	bundle, changed := "one", make(chan struct{})
	r := NewRoots(PublisherConfig{Cluster: clusterOf(t, a), Bundle: func() []byte { mu.Lock(); defer mu.Unlock(); return []byte(bundle) },
		Changed: func() <-chan struct{} { mu.Lock(); defer mu.Unlock(); return changed }})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { r.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	says := func(ns, want string) func() bool {
		return func() bool {
			data, _ := a.Object("api/v1/configmaps", ns, rootsName)["data"].(kubetest.Doc)
			return data[rootsKey] == want
		}
	}
	await(t, "the roots", says("shop", "one"))
	a.Put("apiVersion: v1\nkind: Namespace\nmetadata: {name: later}\n")
	await(t, "those of a new namespace", says("later", "one"))
	a.Remove("api/v1/configmaps", "shop", rootsName)
	await(t, "their return", says("shop", "one"))
	a.Put("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio-ca-root-cert, namespace: shop}\ndata: {root-cert.pem: forged}\n")
	await(t, "their mending", says("shop", "one"))
	mu.Lock()
	bundle = "two"
	close(changed)
	changed = make(chan struct{})
	mu.Unlock()
	await(t, "the new roots", func() bool { return says("shop", "two")() && says("later", "two")() })
	if a.Object("api/v1/configmaps", "kube-system", rootsName) != nil {
		t.Error("kube-system has no use for them")
	}
}

// Revocation lists of both sources are in every namespace, in PEM, for as long as there are any; what is damaged changes nothing,
// and what somebody else made is not taken away.
func TestLists(t *testing.T) {
	a := kubetest.New(t)
	a.Put(shop)
	a.Put("apiVersion: v1\nkind: Namespace\nmetadata: {name: later}\n")
	ca, other := catest.New(), catest.New()
	one, two := string(ca.RevocationList(time.Now().Add(time.Hour))), string(other.RevocationList(time.Now().Add(time.Hour)))
	named := func(text string) {
		a.PutDoc(kubetest.Doc{"apiVersion": "v1", "kind": "ConfigMap", "metadata": kubetest.Doc{"name": "revoked", "namespace": "ambit-system"}, "data": kubetest.Doc{listsKey: text}})
	}
	secret := func(text string) {
		a.PutDoc(kubetest.Doc{"apiVersion": "v1", "kind": "Secret", "metadata": kubetest.Doc{"name": pluggedSecret, "namespace": "ambit-system"},
			"data": kubetest.Doc{listsKey: base64.StdEncoding.EncodeToString([]byte(text))}})
	}
	// There before the mesh's first list, by a control plane of Istio's.
	theirs := func(ns string) {
		a.PutDoc(kubetest.Doc{"apiVersion": "v1", "kind": "ConfigMap", "metadata": kubetest.Doc{"name": listsName, "namespace": ns}, "data": kubetest.Doc{listsKey: "theirs"}})
	}
	theirs("later")
	var log lockedBuffer
	cluster := clusterOf(t, a)
	from := NewRevocations(RevocationsConfig{Cluster: cluster, Namespace: "ambit-system", ConfigMap: "revoked", Logger: slog.New(slog.NewTextHandler(&log, nil))})
	r := NewLists(PublisherConfig{Cluster: cluster, Bundle: from.Lists, Changed: from.Changed})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { from.Run(ctx) })
	wg.Go(func() { r.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	says := func(ns, want string) func() bool {
		return func() bool {
			data, _ := a.Object("api/v1/configmaps", ns, listsName)["data"].(kubetest.Doc)
			text, _ := data[listsKey].(string)
			return text == want
		}
	}
	await(t, "both sources", func() bool { return from.Lists() != nil })
	a.Put("apiVersion: v1\nkind: Namespace\nmetadata: {name: last}\n")
	theirs("last")
	named("# of today\n" + one)
	await(t, "the ConfigMap's list", func() bool { return says("shop", one)() && says("later", one)() && says("last", one)() })
	secret(two)
	await(t, "the Secret's as well", func() bool { return says("shop", two+one)() && says("later", two+one)() })
	named(one[:len(one)/2])
	await(t, "a word about half a list", func() bool { return strings.Contains(log.String(), "refused") })
	secret(one)
	await(t, "the last good one beside", says("shop", one+one))
	a.Remove("api/v1/configmaps", "ambit-system", "revoked")
	await(t, "the Secret's alone", says("shop", one))
	a.Remove("api/v1/secrets", "ambit-system", pluggedSecret)
	await(t, "the end of the ConfigMap", func() bool { return a.Object("api/v1/configmaps", "shop", listsName) == nil })
	theirs("shop")
	a.PutDoc(kubetest.Doc{"apiVersion": "v1", "kind": "ConfigMap", "data": kubetest.Doc{listsKey: one},
		"metadata": kubetest.Doc{"name": listsName, "namespace": "last", "managedFields": []any{kubetest.Doc{"manager": managerRoots}}}})
	await(t, "the end of one that an earlier leader left", func() bool { return a.Object("api/v1/configmaps", "last", listsName) == nil })
	if !says("shop", "theirs")() {
		t.Error("what somebody else made is taken away")
	}
}

// As long as a source was never well there is no telling what is revoked, and what an earlier leader wrote stays.
func TestListsUnknown(t *testing.T) {
	a := kubetest.New(t)
	a.Put(shop)
	a.PutDoc(kubetest.Doc{"apiVersion": "v1", "kind": "ConfigMap", "metadata": kubetest.Doc{"name": "revoked", "namespace": "ambit-system"}, "data": kubetest.Doc{listsKey: "nonsense"}})
	var log lockedBuffer
	from := NewRevocations(RevocationsConfig{Cluster: clusterOf(t, a), Namespace: "ambit-system", ConfigMap: "revoked", Logger: slog.New(slog.NewTextHandler(&log, nil))})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { from.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	await(t, "a word about it", func() bool { return strings.Contains(log.String(), "name=revoked") })
	if from.Lists() != nil {
		t.Error("what cannot be read is taken for no list")
	}
	a.Remove("api/v1/configmaps", "ambit-system", "revoked")
	await(t, "no list", func() bool { l := from.Lists(); return l != nil && len(l) == 0 })
}

// Namespaces that cannot be written to are tried less and less, said once, and hold up no other.
func TestRootsAreRefused(t *testing.T) {
	a := kubetest.New(t)
	const many = 20
	for i := range many {
		a.Put(fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: ns-%d}\n", i))
	}
	var patches atomic.Int32
	a.Fail(func(r *http.Request) int {
		if r.Method == "PATCH" && strings.Contains(r.URL.Path, "/namespaces/ns-") {
			patches.Add(1)
			return 403
		}
		return 0
	})
	var log lockedBuffer
	r := NewRoots(PublisherConfig{Cluster: clusterOf(t, a), Bundle: func() []byte { return []byte("one") }, Changed: func() <-chan struct{} { return nil }, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { r.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	await(t, "a first try", func() bool { return patches.Load() >= many })
	for i := range 10 { // news of other namespaces is no reason to try these again
		name := fmt.Sprintf("later-%d", i)
		a.Put("apiVersion: v1\nkind: Namespace\nmetadata: {name: " + name + "}\n")
		await(t, "the roots of another namespace", func() bool { return a.Object("api/v1/configmaps", name, rootsName) != nil })
	}
	await(t, "a second try", func() bool { return patches.Load() >= 2*many })
	if n := patches.Load(); n > 6*many {
		t.Errorf("%d tries", n)
	}
	if n := strings.Count(log.String(), "roots cannot be written"); n != 1 || !strings.Contains(log.String(), "namespaces=20") {
		t.Errorf("%d lines: %s", n, log.String())
	}
	a.Fail(nil)
	await(t, "the roots", func() bool { return a.Object("api/v1/configmaps", "ns-0", rootsName) != nil })
}

// lockedBuffer is a buffer that two goroutines may use.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A refusal becomes one Event, at the object.
func TestEvents(t *testing.T) {
	a := kubetest.New(t)
	a.Put(shop)
	w := start(t, a)
	w.synced(t)
	w.status.Set("x", status.Entry{Severity: status.Refused, Kind: "Service", Namespace: "shop", Name: "web", Field: "spec", Problem: "it is odd", Fix: "make it even"},
		status.Entry{Severity: status.Warning, Kind: "Service", Namespace: "shop", Name: "web", Problem: "no event"})
	e := NewEvents(w.source, w.status, "ambit-system", nil)
	e.round(t.Context())
	e.round(t.Context())
	all := a.Objects("api/v1/events")
	if len(all) != 1 {
		t.Fatalf("%d events", len(all))
	}
	for _, o := range all {
		about := o["involvedObject"].(kubetest.Doc)
		if o["message"] != "spec: it is odd; make it even" || about["uid"] == "" || about["apiVersion"] != "v1" || o["metadata"].(kubetest.Doc)["namespace"] != "shop" {
			t.Error(o)
		}
	}
}

// Events that could not be made, or were too many at once, are made later without any other news; long names and texts are
// cut where the API server takes them.
func TestEventsLater(t *testing.T) {
	a := kubetest.New(t)
	a.Put(shop)
	w := start(t, a)
	w.synced(t)
	var entries []status.Entry
	for i := range eventsMost + 5 {
		entries = append(entries, status.Entry{Severity: status.Refused, Kind: "Other", Namespace: "shop", Name: fmt.Sprint("o-", i), Problem: "it is odd"})
	}
	entries = append(entries, status.Entry{Severity: status.Refused, Kind: "Other", Namespace: "shop", Name: strings.Repeat("n", 253), Problem: "x" + strings.Repeat("ä", messageMost)})
	w.status.Set("x", entries...)
	var refused atomic.Int32
	a.Fail(func(r *http.Request) int {
		if r.Method == "POST" && strings.HasSuffix(r.URL.Path, "/events") && refused.Add(1) <= 2 {
			return 503
		}
		return 0
	})
	e := NewEvents(w.source, w.status, "ambit-system", nil)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { e.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	await(t, "all events", func() bool { return len(a.Objects("api/v1/events")) == len(entries) })
	for _, o := range a.Objects("api/v1/events") {
		name, text := o["metadata"].(kubetest.Doc)["name"].(string), o["message"].(string)
		if len(name) > 253 || len(text) > messageMost || strings.ContainsRune(text, utf8.RuneError) {
			t.Errorf("%d bytes of name, %d of text: %s", len(name), len(text), text)
		}
	}
}

// As many Events as one pause has, and which cannot be made, keep no others from being made.
func TestEventsThatFailAreNotInTheWay(t *testing.T) {
	a := kubetest.New(t)
	a.Put(shop)
	w := start(t, a)
	w.synced(t)
	var entries []status.Entry
	for i := range 2*eventsMost + 2 { // the last two can be made
		e := status.Entry{Severity: status.Refused, Kind: "Other", Namespace: "gone", Name: fmt.Sprintf("o-%03d", i), Problem: "it is odd"}
		if i >= 2*eventsMost {
			e.Namespace = "shop"
		}
		entries = append(entries, e)
	}
	w.status.Set("x", entries...)
	a.Fail(func(r *http.Request) int {
		if r.Method == "POST" && r.URL.Path == "/api/v1/namespaces/gone/events" {
			return 503
		}
		return 0
	})
	e := NewEvents(w.source, w.status, "ambit-system", nil)
	for round := range 3 {
		if n := len(a.Objects("api/v1/events")); n != 0 {
			t.Fatalf("%d events before round %d", n, round)
		}
		start := time.Now()
		next := e.round(t.Context())
		if next.IsZero() || round < 2 && next.After(start.Add(eventsPause)) {
			t.Errorf("round %d: the next in %s", round, next.Sub(start))
		}
		for k, s := range e.said { // nothing that failed is due again before the test is over
			if !s.at.IsZero() {
				s.at = start.Add(time.Hour)
				e.said[k] = s
			}
		}
	}
	if n := len(a.Objects("api/v1/events")); n != 2 {
		t.Errorf("%d events, want 2", n)
	}
	asked := a.Asked("POST", "/api/v1/namespaces/gone/events")
	e.round(t.Context())
	if n := a.Asked("POST", "/api/v1/namespaces/gone/events"); asked != 2*eventsMost || n != asked {
		t.Errorf("asked %d times, then %d", asked, n-asked)
	}
	for k, s := range e.said { // their time comes
		s.at = time.Time{}
		e.said[k] = s
	}
	a.Fail(nil)
	for range 2 {
		e.round(t.Context())
	}
	if n := len(a.Objects("api/v1/events")); n != len(entries) {
		t.Errorf("%d events, want %d", n, len(entries))
	}
}

// A node loses the taint, and no other, when its agent is ready.
func TestUntaint(t *testing.T) {
	a := kubetest.New(t)
	a.Put("apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nspec: {taints: [{key: cni.istio.io/not-ready, effect: NoSchedule}, {key: other, effect: NoSchedule}]}\n")
	pod := "apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: ambit-system, labels: {k8s-app: %s}}\nspec: {nodeName: n1}\nstatus: {conditions: [{type: Ready, status: %q}]}\n"
	a.Put(fmt.Sprintf(pod, "somebody", "else", "True"))
	a.Put(fmt.Sprintf(pod, "agent", "cni", "False"))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	u := &Untaint{Cluster: clusterOf(t, a), Namespace: "ambit-system", Selector: "k8s-app=cni", Logger: slog.New(slog.DiscardHandler)}
	wg.Go(func() { u.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	taints := func() int {
		return len(a.Object("api/v1/nodes", "", "n1")["spec"].(kubetest.Doc)["taints"].([]any))
	}
	await(t, "the watch", func() bool { return a.Watches() == 1 })
	if taints() != 2 {
		t.Error("untainted before its agent was ready")
	}
	a.Put(fmt.Sprintf(pod, "agent", "cni", "True"))
	await(t, "the end of the taint", func() bool { return taints() == 1 })
}

// A node that cannot be untainted holds up no other, and is when it can be, without any news of its agent.
func TestUntaintAgain(t *testing.T) {
	a := kubetest.New(t)
	for _, n := range []string{"n1", "n2", "n3"} {
		a.Put("apiVersion: v1\nkind: Node\nmetadata: {name: " + n + "}\nspec: {taints: [{key: cni.istio.io/not-ready, effect: NoSchedule}]}\n")
		a.Put("apiVersion: v1\nkind: Pod\nmetadata: {name: agent-" + n + ", namespace: ambit-system, labels: {k8s-app: cni}}\nspec: {nodeName: " + n + "}\nstatus: {conditions: [{type: Ready, status: \"True\"}]}\n")
	}
	a.Fail(func(r *http.Request) int {
		switch {
		case r.Method == "PATCH" && strings.HasSuffix(r.URL.Path, "/n1"):
			return 500
		case r.Method == "PATCH" && strings.HasSuffix(r.URL.Path, "/n2"):
			return 403
		}
		return 0
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	u := &Untaint{Cluster: clusterOf(t, a), Namespace: "ambit-system", Selector: "k8s-app=cni", Logger: slog.New(slog.DiscardHandler)}
	wg.Go(func() { u.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	tainted := func(node string) bool {
		list, _ := a.Object("api/v1/nodes", "", node)["spec"].(kubetest.Doc)["taints"].([]any)
		return len(list) > 0
	}
	await(t, "the end of the third's taint", func() bool { return !tainted("n3") })
	await(t, "a second try", func() bool { return a.Asked("PATCH", "/api/v1/nodes/n2") > 1 })
	if !tainted("n1") || !tainted("n2") {
		t.Error("untainted against the API server's will")
	}
	a.Fail(nil)
	await(t, "the end of the others' taint", func() bool { return !tainted("n1") && !tainted("n2") })
}

// A node whose time came while others were tried is tried next, not after the longest pause.
func TestUntaintIsDue(t *testing.T) {
	n := &nodes{due: map[string]attempt{"past": {failure: failure{at: time.Now().Add(-time.Second)}}, "later": {failure: failure{at: time.Now().Add(time.Hour)}}}}
	if list, wait := n.now(); len(list) != 1 || wait != 0 {
		t.Errorf("%v after %s", list, wait)
	}
}

// News of a node that come while it is tried are not forgotten when the try ends, also when they say what was known before.
func TestUntaintHearsNewsDuringTry(t *testing.T) {
	n := &nodes{due: make(map[string]attempt), wake: make(chan struct{}, 1)}
	agent := object.Key{Kind: object.KindPod, Namespace: "ambit-system", Name: "agent"}
	for _, err := range []error{nil, errors.New("away")} {
		n.add("n1", agent)
		was := n.due["n1"]
		n.add("n1", agent) // its agent was ready, was not, and is again
		if n.tried("n1", was, err) {
			t.Error("a try that was overtaken is told of")
		}
		if list, wait := n.now(); len(list) != 1 || wait != 0 {
			t.Errorf("after %v: %v in %s", err, list, wait)
		}
	}
	if n.tried("n1", n.due["n1"], nil); len(n.due) != 0 {
		t.Error("a node that was tried is still due")
	}
}

// TestDocument: what is left out of the many objects that are read is nothing that the status of a Gateway is made of.
func TestDocument(t *testing.T) {
	var u unstructured.Unstructured
	if err := u.UnmarshalJSON([]byte(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"nodeName": "n"}, "status": {
		"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready"}],
		"containerStatuses": [{"lastState": {"terminated": {"message": "no route to the control plane"}}}]}}`)); err != nil {
		t.Fatal(err)
	}
	status := document("Pod", &u)["status"].(map[string]any)
	if status["phase"] == nil || status["conditions"] == nil || status["containerStatuses"] == nil || status["podIP"] != nil {
		t.Errorf("kept %v", status)
	}
	for _, kind := range []string{"Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget", "Namespace"} {
		var was any
		for _, v := range []string{"1", "2"} {
			var u unstructured.Unstructured
			if err := u.UnmarshalJSON([]byte(`{"apiVersion": "v1", "kind": "` + kind + `", "metadata": {"name": "x", "resourceVersion": "` + v + `"}, "status": {"now": "` + v + `"}}`)); err != nil {
				t.Fatal(err)
			}
			now := document(kind, &u)
			if was != nil && !reflect.DeepEqual(was, now) {
				t.Errorf("the status of a %s is news: %v", kind, now)
			}
			was = now
		}
	}
}

// TestHandOver: what an overlay said of the number of pods, and says no more, is the autoscaler's from there on: it is given
// away once, and never set back.
func TestHandOver(t *testing.T) {
	for name, c := range map[string]struct {
		said, manager, fields string
		conflict              bool
		want                  string // what is applied, by whom and with how many pods
	}{
		"no more":       {`{}`, managerGateways, `{"f:spec": {"f:replicas": {}}}`, false, managerScale + " 3, " + managerGateways},
		"just scaled":   {`{}`, managerGateways, `{"f:spec": {"f:replicas": {}}}`, true, managerScale + " 3, " + managerGateways},
		"never":         {`{}`, managerGateways, `{"f:spec": {}}`, false, managerGateways},
		"of the scaler": {`{}`, "kube-controller-manager", `{"f:spec": {"f:replicas": {}}}`, false, managerGateways},
		"now":           {`{"replicas": 2}`, managerGateways, `{"f:spec": {"f:replicas": {}}}`, false, managerGateways + " 2"},
	} {
		t.Run(name, func(t *testing.T) {
			a := kubetest.New(t)
			w := start(t, a)
			w.synced(t)
			labels := kubetest.Doc{"gateway.istio.io/managed": "istio.io-mesh-controller", "gateway.networking.k8s.io/gateway-name": "wp"}
			there := kubetest.Doc{"apiVersion": "apps/v1", "kind": "Deployment", "spec": kubetest.Doc{"replicas": 3}, "metadata": kubetest.Doc{
				"name": "wp", "namespace": "shop", "labels": labels, "managedFields": []any{kubetest.Doc{"manager": c.manager, "fieldsV1": asDoc(t, c.fields)}},
			}}
			a.PutDoc(there)
			var mu sync.Mutex
			var applied []string
			a.Fail(func(r *http.Request) int {
				if r.Method != "PATCH" || !strings.HasSuffix(r.URL.Path, "/deployments/wp") {
					return 0
				}
				body, _ := io.ReadAll(r.Body)
				r.Body = io.NopCloser(bytes.NewReader(body))
				line := r.URL.Query().Get("fieldManager")
				if n, ok := asDoc(t, string(body))["spec"].(kubetest.Doc)["replicas"]; ok {
					line += fmt.Sprint(" ", n)
				}
				mu.Lock()
				defer mu.Unlock()
				applied = append(applied, line)
				if c.conflict && len(applied) == 1 {
					return 409
				}
				return 0
			})
			err := NewWriter(w.source).Apply(t.Context(), gateways.Object{"apiVersion": "apps/v1", "kind": "Deployment", "spec": asDoc(t, c.said), "metadata": kubetest.Doc{
				"name": "wp", "namespace": "shop", "labels": labels,
			}})
			if got := strings.Join(applied, ", "); err != nil || got != c.want {
				t.Errorf("applied %s, want %s (%v)", got, c.want, err)
			}
		})
	}
}

func asDoc(t *testing.T, text string) kubetest.Doc {
	var out kubetest.Doc
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Error(err)
	}
	return out
}
