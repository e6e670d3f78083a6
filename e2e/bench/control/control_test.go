package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestSmallCell runs every measurement once, with a mesh and a fleet so small that only mistakes of ours show.
func TestSmallCell(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts a control plane")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cfg := config{pods: []int{40}, clients: []int{1, 3}, changes: 2, repeats: 2, churn: 500 * time.Millisecond, rate: 100, log: slog.New(slog.DiscardHandler)}
	res, err := run(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, r := range res.Rows {
		got[r.Measure]++
		for name, v := range r.Values {
			// Memory may well be given back while it is measured.
			negative := v.Median < 0 && !strings.HasPrefix(name, "RSS growth")
			if v.N == 0 || negative || v.P99 < v.Median && v.lag {
				t.Errorf("%s, %d proxies: %s is %+v", r.Measure, r.Clients, name, v)
			}
		}
	}
	want := map[string]int{"empty": 1, "memory": 1, "full sync": 2, "resume": 2, "pod label": 2, "service create": 2,
		"namespace policy": 2, "selector policy": 2, "churn 100/s": 2}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	var out bytes.Buffer
	res.table(&out)
	if !strings.Contains(out.String(), "full sync") {
		t.Error(out.String())
	}
	if _, err := json.Marshal(res); err != nil {
		t.Error(err)
	}
}

func TestWorldIsWrittenOncePerObject(t *testing.T) {
	w := newWorld(t.TempDir(), 1000)
	if err := w.write(); err != nil {
		t.Fatal(err)
	}
	ips := map[string]int{}
	for p := range w.pods {
		ips[podIP(p)]++
	}
	if len(ips) != w.pods {
		t.Errorf("%d addresses for %d pods", len(ips), w.pods)
	}
	for dir, want := range map[string]int{"pods": 1000, "services": maxServices, "policies": policies} {
		if files, _ := filepath.Glob(filepath.Join(w.dir, dir, "*.yaml")); len(files) != want {
			t.Errorf("%s has %d files, want %d", dir, len(files), want)
		}
	}
	for _, c := range changes() {
		for range 2 {
			if _, write := c.make(w); write() != nil {
				t.Error(c.name)
			}
		}
	}
	if err := w.tidy(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "services", "extra-1.yaml")); err == nil {
		t.Error("a created service is left behind")
	}
	if got := podIP(70_000); got != "10.65.17.112" {
		t.Error(got)
	}
}

func TestQuantiles(t *testing.T) {
	var v []float64
	for i := range 100 {
		v = append(v, float64(100-i))
	}
	if got, want := quantiles(v), (stat{N: 100, Median: 50, P99: 99, Min: 1, Max: 100, lag: true}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if s := spread([]float64{3, 1, 2}).String(); s != "2.00 [1.00–3.00]" {
		t.Error(s)
	}
	if s := quantiles([]float64{3, 1, 2}).String(); s != "2.00 / 3.00" {
		t.Error(s)
	}
}
