package xds

import (
	"fmt"
	"testing"
)

// filled is a collection of n workloads, and what a client that has all of them would say.
func filled(n int) (*Collection, map[string]string) {
	c := NewCollection(addressType)
	versions := make(map[string]string, n)
	var put []*Resource
	for i := range n {
		r := &Resource{
			Name:    fmt.Sprintf("Kubernetes//Pod/ns-%d/app-%d-7d4b9c5f6-%05d", i%10, i%500, i),
			Version: fmt.Sprintf("%016x", i*0x9e3779b9),
			Aliases: []string{fmt.Sprintf("network/10.%d.%d.%d", i>>16, i>>8&255, i&255)},
			Body:    fmt.Appendf(nil, "%0250d", i),
			Node:    fmt.Sprintf("node-%d", i%100),
		}
		versions[r.Name] = r.Version
		put = append(put, r)
	}
	c.Apply(put, nil)
	return c, versions
}

func BenchmarkResume(b *testing.B) {
	c, versions := filled(50_000)
	req := request{typeURL: addressType, known: knownOf(versions)}
	raw := req.encode()
	b.ReportAllocs()
	for b.Loop() {
		var got request
		if err := got.decode(raw); err != nil {
			b.Fatal(err)
		}
		if diff, _, err := c.resume(got.known); err != nil || !diff.empty() {
			b.Fatalf("%d resources differ, %v", len(diff.resources), err)
		}
	}
}

func BenchmarkApplyOne(b *testing.B) {
	c, _ := filled(50_000)
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		i++
		c.Apply([]*Resource{{Name: fmt.Sprintf("Kubernetes//Pod/ns-%d/app-%d-7d4b9c5f6-%05d", i%10, i%500, i%50_000), Version: fmt.Sprint(i), Body: []byte("x")}}, nil)
	}
}

func BenchmarkFirstAnswer(b *testing.B) {
	c, _ := filled(50_000)
	b.ReportAllocs()
	for b.Loop() {
		img := c.everything()
		_ = (&batch{resources: img.slabs, bytes: img.slabs.Len()}).response(addressType, "1", "1")
	}
}
