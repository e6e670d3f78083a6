package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// results are the figures of one run.
type results struct {
	Time    time.Time `json:"time"`
	Go      string    `json:"go"`
	Kernel  string    `json:"kernel"`
	Cores   int       `json:"cores"`
	Rounds  int       `json:"rounds"`
	Seconds float64   `json:"sampleSeconds"`
	Paths   []*path   `json:"paths"`
	Figures []*figure `json:"figures"`
}

// figure is one quantity on one path.
type figure struct {
	// Measure is bulk, http, connect or idle; N its parallel connections.
	Measure string `json:"measure"`
	N       int    `json:"connections,omitempty"`
	Path    string `json:"path"`
	// Quantity is rate, cpu, p50, p99 or memory, in the unit named.
	Quantity string    `json:"quantity"`
	Unit     string    `json:"unit"`
	Samples  []float64 `json:"samples"`
	Median   float64   `json:"median"`
	Min      float64   `json:"min"`
	Max      float64   `json:"max"`
	// ToDirect and ToNaive are ratios of medians, 0 where there is nothing to compare with.
	ToDirect float64 `json:"toDirect,omitempty"`
	ToNaive  float64 `json:"toNaive,omitempty"`
}

// cell is a measure at one number of connections.
type cell struct {
	measure string
	n       int
	run     func(context.Context, *path, int) (sample, error)
}

// measure goes round all cells and paths, so that no path has the machine's good minutes to itself.
func (w *world) measure(ctx context.Context) (*results, error) {
	res := &results{
		Time: time.Now().UTC().Truncate(time.Second), Go: runtime.Version(), Kernel: kernel(), Cores: runtime.NumCPU(),
		Rounds: w.cfg.rounds, Seconds: w.cfg.sample.Seconds(), Paths: w.paths,
	}
	if w.cfg.wants("idle") && w.cfg.idle > 0 {
		if err := w.measureIdle(ctx, res); err != nil {
			return nil, err
		}
	}
	var cells []cell
	for measure, run := range map[string]func(context.Context, *path, int) (sample, error){
		"bulk": w.bulk, "http": w.http, "connect": w.connect,
	} {
		if !w.cfg.wants(measure) {
			continue
		}
		counts := map[string][]int{"bulk": {1, 8, 64}, "http": {1, 16, 64}, "connect": {1, 16}}[measure]
		for _, n := range counts {
			cells = append(cells, cell{measure, n, run})
		}
	}
	slices.SortFunc(cells, func(a, b cell) int { return strings.Compare(a.measure, b.measure)*1000 + a.n - b.n })
	for round := range w.cfg.rounds {
		for _, c := range cells {
			step("round %d of %d: %s with %d", round+1, w.cfg.rounds, c.measure, c.n)
			for _, p := range w.paths {
				profiled := w.profile(ctx, p, fmt.Sprintf("%s-%d", c.measure, c.n))
				s, err := c.run(ctx, p, c.n)
				profiled()
				if err != nil {
					return nil, err
				}
				res.add(c, p, s)
			}
		}
	}
	res.compare()
	return res, nil
}

// measureIdle holds idle connections on the paths with most proxies first. A proxy is measured once: memory that it has
// grown to before says nothing about the next thousand connections.
func (w *world) measureIdle(ctx context.Context, res *results) error {
	measured := map[string]bool{}
	for _, p := range slices.SortedStableFunc(slices.Values(w.paths), func(a, b *path) int { return len(b.Proxies) - len(a.Proxies) }) {
		known := func(name string) bool { return measured[name] }
		if len(p.Proxies) == 0 || slices.ContainsFunc(p.Proxies, known) {
			continue
		}
		for _, name := range p.Proxies {
			measured[name] = true
		}
		step("memory: %d idle connections, %s", w.cfg.idle, p.Name)
		base, err := w.memory(ctx, p)
		if err != nil {
			return err
		}
		per, err := w.idle(ctx, p)
		if err != nil {
			return err
		}
		for i, name := range p.Proxies {
			role := "client's proxy"
			if i > 0 {
				role = "server's proxy"
			}
			res.record("idle", w.cfg.idle, p.Name, "memory of "+name+" before", "MB", base[i]/1e6)
			res.record("idle", w.cfg.idle, p.Name, "memory per connection, "+role, "KB", per[i]/1e3)
		}
	}
	return nil
}

func (r *results) add(c cell, p *path, s sample) {
	switch c.measure {
	case "bulk":
		r.record(c.measure, c.n, p.Name, "rate", "GB/s", s.rate/1e9)
		if len(p.Proxies) > 0 {
			r.record(c.measure, c.n, p.Name, "cpu", "s/GB", s.cpu*1e9)
		}
	default:
		r.record(c.measure, c.n, p.Name, "rate", "1/s", s.rate)
		if s.p50 > 0 {
			r.record(c.measure, c.n, p.Name, "p50", "µs", s.p50*1e6)
			r.record(c.measure, c.n, p.Name, "p99", "µs", s.p99*1e6)
		}
		if len(p.Proxies) > 0 {
			r.record(c.measure, c.n, p.Name, "cpu", "µs each", s.cpu*1e6)
		}
	}
}

func (r *results) record(measure string, n int, path, quantity, unit string, v float64) {
	for _, f := range r.Figures {
		if f.Measure == measure && f.N == n && f.Path == path && f.Quantity == quantity {
			f.Samples = append(f.Samples, v)
			return
		}
	}
	r.Figures = append(r.Figures, &figure{Measure: measure, N: n, Path: path, Quantity: quantity, Unit: unit, Samples: []float64{v}})
}

// compare fills in medians, spreads and ratios.
func (r *results) compare() {
	find := func(f *figure, path string) float64 {
		for _, o := range r.Figures {
			if o.Measure == f.Measure && o.N == f.N && o.Quantity == f.Quantity && o.Path == path {
				return o.Median
			}
		}
		return 0
	}
	for _, f := range r.Figures {
		s := slices.Sorted(slices.Values(f.Samples))
		f.Median, f.Min, f.Max = s[len(s)/2], s[0], s[len(s)-1]
		if len(s)%2 == 0 {
			f.Median = (s[len(s)/2-1] + s[len(s)/2]) / 2
		}
	}
	base := map[string]string{}
	for _, p := range r.Paths {
		base[p.Name] = p.Base
	}
	for _, f := range r.Figures {
		if b := find(f, base[f.Path]); b > 0 {
			f.ToDirect = f.Median / b
		}
		if base[f.Path] == "" {
			continue
		}
		naive := naiveCross
		if base[f.Path] == directSame {
			naive = "naive, one node"
		}
		if b := find(f, naive); b > 0 && f.Path != naive {
			f.ToNaive = f.Median / b
		}
	}
}

// print writes one table per measure and number of connections: paths down, quantities across.
func (r *results) print(out io.Writer) {
	fmt.Fprintf(out, "\n%s, Linux %s, %d cores, %d × %.1f s, %s\n", r.Go, r.Kernel, r.Cores, r.Rounds, r.Seconds, r.Time.Format(time.RFC3339))
	fmt.Fprintln(out, "median [least–most] ×ratio to direct, and to naive after the slash; CPU is the proxies' alone")
	type key struct {
		measure string
		n       int
	}
	var keys []key
	for _, f := range r.Figures {
		if k := (key{f.Measure, f.N}); !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	for _, k := range keys {
		fmt.Fprintf(out, "\n%s, %d connections\n", k.measure, k.n)
		tw := tabwriter.NewWriter(out, 2, 0, 2, ' ', 0)
		for _, p := range r.Paths {
			var line []string
			for _, f := range r.Figures {
				if f.Measure == k.measure && f.N == k.n && f.Path == p.Name {
					line = append(line, f.String())
				}
			}
			if len(line) > 0 {
				fmt.Fprintf(tw, "  %s\t%s\n", p.Name, strings.Join(line, "\t"))
			}
		}
		tw.Flush()
	}
}

func (f *figure) String() string {
	s := fmt.Sprintf("%s %s %s", f.Quantity, number(f.Median), f.Unit)
	if len(f.Samples) > 1 {
		s += fmt.Sprintf(" [%s–%s]", number(f.Min), number(f.Max))
	}
	switch {
	case f.ToDirect > 0 && f.ToNaive > 0:
		s += fmt.Sprintf(" ×%.2f/%.2f", f.ToDirect, f.ToNaive)
	case f.ToDirect > 0:
		s += fmt.Sprintf(" ×%.2f", f.ToDirect)
	case f.ToNaive > 0:
		s += fmt.Sprintf(" /%.2f", f.ToNaive)
	}
	return s
}

func number(v float64) string {
	switch {
	case v >= 100 || v <= -100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func (r *results) write(file string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o644)
}

func kernel() string {
	data, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(data))
}
