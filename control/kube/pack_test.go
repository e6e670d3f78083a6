package kube

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ambit-mesh/ambit/control/kube/kubetest"
	"github.com/ambit-mesh/ambit/control/object"
)

// noise is a policy of about some bytes that nothing makes smaller.
func noise(seed uint64, bytes int) string {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, bytes*3/4)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return fmt.Sprintf(`{"kind": "AuthorizationPolicy", "metadata": {"annotations": {"text": %q}}}`, base64.StdEncoding.EncodeToString(b))
}

func policyIn(ns, name string) object.Key {
	return object.Key{Kind: object.KindAuthorizationPolicy, Namespace: ns, Name: name}
}

// TestPack: nobody's last good versions take another's place, and what is kept fits into a Secret.
func TestPack(t *testing.T) {
	held := map[object.Key][]byte{policyIn("greedy", "huge"): []byte(noise(1, 1200<<10)), policyIn("greedy", "small"): []byte(noise(2, 1000))}
	for i := range 300 {
		held[policyIn("many", fmt.Sprint(i))] = []byte(noise(uint64(i+10), 5000))
	}
	for i := range 100 {
		held[policyIn(fmt.Sprintf("shop-%d", i), "web")] = []byte(noise(uint64(i+1000), 2000))
	}
	held[policyIn("ambit-system", "deny-all")] = []byte(noise(3, 100<<10))
	data, without := pack(held, "ambit-system")
	if len(data)+len(without) != len(held) {
		t.Fatalf("%d kept and %d not, of %d", len(data), len(without), len(held))
	}
	size := 0
	for k, v := range data {
		b, err := base64.StdEncoding.DecodeString(v.(string))
		if err != nil {
			t.Fatal(err)
		}
		size += len(k) + len(b)
	}
	if size > keepMost || size < keepMost*9/10 {
		t.Errorf("%d bytes are kept of at most %d", size, keepMost)
	}
	if !slices.Contains(without, policyIn("greedy", "huge")) {
		t.Error("what is larger than a Secret is kept in one")
	}
	for _, key := range without {
		if key.Namespace != "many" && key != policyIn("greedy", "huge") {
			t.Errorf("%s lost its place to others", key)
		}
	}
	again, _ := pack(held, "ambit-system")
	if !same(data, again) {
		t.Error("the same versions give other data, so that they would be written again and again")
	}
}

// TestRootNamespaceComesFirst: policies for the whole mesh are noted before others, wherever the control plane runs.
func TestRootNamespaceComesFirst(t *testing.T) {
	a := kubetest.New(t)
	w := startWith(t, a, func(c *SourceConfig) { c.RootNamespace = "istio-system" })
	root, own := policyIn("istio-system", "deny-all"), policyIn("ambit-system", "own")
	for key, bytes := range map[object.Key]int{root: 900 << 10, own: 500 << 10, policyIn("shop", "web"): 20 << 10} {
		w.source.keep.hold(key, []byte(noise(uint64(bytes), bytes)))
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { w.source.KeepLastGood(ctx) })
	defer wg.Wait()
	defer cancel()
	await(t, "the note", func() bool { return a.Object("api/v1/secrets", "ambit-system", keepSecret) != nil })
	data, _ := a.Object("api/v1/secrets", "ambit-system", keepSecret)["data"].(kubetest.Doc)
	if data[keyOf(root)] == nil || data[keyOf(own)] != nil || len(data) != 2 || w.source.NotKept() != 1 {
		t.Errorf("%d are noted, and not that for the whole mesh first", len(data))
	}
	if _, without := pack(map[object.Key][]byte{own: []byte(noise(1, 1000<<10)), policyIn("shop", "web"): []byte(noise(2, 400<<10))}, "istio-system", "ambit-system"); !slices.Equal(without, []object.Key{policyIn("shop", "web")}) {
		t.Errorf("the control plane's own namespace is not before others: %v", without)
	}
}

// TestPackAsIs: what fits is written as the release before wrote it, which reads nothing compressed.
func TestPackAsIs(t *testing.T) {
	held, want := map[object.Key][]byte{}, map[string]any{}
	for i := range 100 {
		key := policyIn(fmt.Sprintf("shop-%d", i), "web")
		held[key] = []byte(`{"kind":"AuthorizationPolicy","status":{"conditions":[]},"spec":{"action":"DENY","text":"` + strings.Repeat("x", 8000) + `"}}`)
		want[fmt.Sprintf("%x", sha256.Sum256([]byte(key.String())))] = base64.StdEncoding.EncodeToString(held[key])
	}
	data, without := pack(held, "ambit-system")
	if len(without) > 0 || len(data) != len(want) || !same(want, data) {
		t.Errorf("%d of %d are kept, or not as they are", len(data), len(want))
	}
	for i := range 20 { // more than there is room for
		held[policyIn("more", fmt.Sprint(i))] = bytes.Repeat([]byte("y"), 8000)
	}
	data, without = pack(held, "ambit-system")
	if len(without) > 0 || len(data) != len(held) {
		t.Errorf("%d of %d are kept, though they fit when they are compressed", len(data), len(held))
	}
}

// TestDeflate: a version is what it was, without its status; and what an older control plane wrote is read.
func TestDeflate(t *testing.T) {
	raw := []byte(`{"kind": "AuthorizationPolicy","status":{"conditions":[]},"spec":{"action":"DENY"}}`)
	small := deflate(gzip.NewWriter(nil), raw)
	got, err := inflate(small)
	if err != nil || bytes.Contains(got, []byte("status")) || !bytes.Contains(got, []byte("DENY")) {
		t.Errorf("%s %v", got, err)
	}
	if got, err := inflate(raw); err != nil || !bytes.Equal(got, raw) {
		t.Errorf("%s %v", got, err)
	}
	if _, err := inflate(small[:len(small)-3]); err == nil {
		t.Error("half a version is read")
	}
	if _, err := inflate(deflate(gzip.NewWriter(nil), bytes.Repeat([]byte("a"), inflateMost+1))); err == nil {
		t.Error("a bomb is read")
	}
}

// TestLargePolicyLeavesRoom: when one policy is too large to be noted the others are, and it is told which is not.
func TestLargePolicyLeavesRoom(t *testing.T) {
	a := kubetest.New(t)
	a.Serve(policies, "AuthorizationPolicy", true)
	a.Put(shop)
	a.Put(fmt.Sprintf(policy, "bad"))
	large := strings.Replace(fmt.Sprintf(policy, "bad"), "name: web", "name: large, annotations: {text: '"+base64.StdEncoding.EncodeToString([]byte(noise(1, 1300<<10)))+"'}", 1)
	a.Put(large)
	w := start(t, a)
	w.synced(t)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { w.source.KeepLastGood(ctx) })
	defer wg.Wait()
	defer cancel()
	a.Put(strings.Replace(large, "DENY", "MAYBE", 1))
	await(t, "word of what is not kept", func() bool {
		for _, e := range w.status.List() {
			if e.Name == keepSecret && strings.Contains(e.Problem, "AuthorizationPolicy shop/large") {
				return w.source.NotKept() == 1
			}
		}
		return false
	})
	a.Put(strings.Replace(fmt.Sprintf(policy, "worse"), "DENY", "MAYBE", 1))
	await(t, "the note of the other", func() bool {
		data, _ := a.Object("api/v1/secrets", "ambit-system", keepSecret)["data"].(kubetest.Doc)
		return len(data) == 1
	})
	a.Put(large)
	await(t, "the end of the trouble", func() bool { return w.source.NotKept() == 0 })
}
