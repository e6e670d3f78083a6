package main

import (
	"strings"
	"testing"
)

// TestReport checks the arithmetic a reader relies on: medians, spreads, and what is compared with what.
func TestReport(t *testing.T) {
	r := &results{Paths: []*path{
		{Name: directCross}, {Name: naiveCross, Base: directCross}, {Name: "ours, two nodes", Base: directCross},
	}}
	c := cell{measure: "bulk", n: 8}
	for i, v := range []float64{3, 1, 2} {
		r.add(c, r.Paths[0], sample{rate: 4e9})
		r.add(c, &path{Name: naiveCross, Proxies: []string{"a"}}, sample{rate: 1e9, cpu: 2e-9})
		r.add(c, &path{Name: "ours, two nodes", Proxies: []string{"a"}}, sample{rate: v * 1e9, cpu: float64(i+1) * 1e-9})
	}
	r.compare()
	var out strings.Builder
	r.print(&out)
	for _, want := range []string{
		"bulk, 8 connections",
		"rate 4.00 GB/s [4.00–4.00]",
		"rate 2.00 GB/s [1.00–3.00] ×0.50/2.00",
		"cpu 2.00 s/GB [1.00–3.00] /1.00",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, &out)
		}
	}
	for _, f := range r.Figures {
		if f.Path == directCross && (f.ToDirect != 0 || f.ToNaive != 0) {
			t.Errorf("the baseline is compared with something: %+v", f)
		}
	}
}
