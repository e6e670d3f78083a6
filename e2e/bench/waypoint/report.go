package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// results are the figures of one run.
type results struct {
	Time   time.Time     `json:"time"`
	Go     string        `json:"go"`
	Kernel string        `json:"kernel"`
	Cores  int           `json:"cores"`
	Load   string        `json:"load"` // the machine's, before
	Scale  *scaleFigures `json:"scale,omitempty"`
	Hop    *hopFigures   `json:"hop,omitempty"`
}

// scaleFigures are those of a large waypoint. Times are in milliseconds, memory in MiB.
type scaleFigures struct {
	Services int `json:"services"`
	Pods     int `json:"podsEach"`
	// Ready is from the start of the waypoint's process to its probe, Serving to the first answered request.
	Ready    []float64 `json:"readyMs"`
	Serving  []float64 `json:"servingMs"`
	StartCPU struct {
		Agent []float64 `json:"agentMs"`
		Envoy []float64 `json:"envoyMs"`
	} `json:"startCPU"`
	StartBytes float64         `json:"startBytes"`
	Memory     []memoryFigure  `json:"memory"`
	Changes    []changeFigures `json:"changes"`
}

type memoryFigure struct {
	When, Process  string
	RSS, Anonymous float64
}

// changeFigures are those of one kind of change.
type changeFigures struct {
	Kind string `json:"kind"`
	// File is from the file in place to the first request that sees it, Push from when a second client has it.
	File []float64 `json:"fromFileMs"`
	Push []float64 `json:"fromPushMs"`
	// Bytes is what the agent gets for one, CPU what each process needs.
	Bytes float64            `json:"bytes"`
	CPU   map[string]float64 `json:"cpuMs"`
}

func (f *scaleFigures) memory(b *bench, when string) {
	for _, p := range []struct {
		name string
		pid  int
	}{{"agent", b.agent.pid()}, {"Envoy", b.envoy}, {"ambitd", b.ambitd.pid()}} {
		rss, anonymous := memory(p.pid)
		f.Memory = append(f.Memory, memoryFigure{when, p.name, rss, anonymous})
	}
}

// hopFigures are those of the hop.
type hopFigures struct {
	Rounds  int       `json:"rounds"`
	Seconds float64   `json:"sampleSeconds"`
	Figures []*figure `json:"figures"`
}

// figure is one load on one way, with a sample for each round.
type figure struct {
	Load        string    `json:"load"`
	Connections int       `json:"connections"`
	Way         string    `json:"way"`
	Rate        []float64 `json:"perSecond"`
	P50         []float64 `json:"p50us"`
	P99         []float64 `json:"p99us"`
	// NodeCPU is of both node proxies, EnvoyCPU of the Envoy between, in µs for one request.
	NodeCPU  []float64 `json:"nodeProxiesUs"`
	EnvoyCPU []float64 `json:"envoyUs"`
	// Failed are connections that ended with an error.
	Failed int `json:"failed"`
}

func (f *hopFigures) add(load string, n int, w *way, s sample) {
	i := slices.IndexFunc(f.Figures, func(g *figure) bool { return g.Load == load && g.Connections == n && g.Way == w.Name })
	if i < 0 {
		i = len(f.Figures)
		f.Figures = append(f.Figures, &figure{Load: load, Connections: n, Way: w.Name})
	}
	g := f.Figures[i]
	g.Rate, g.P50, g.P99 = append(g.Rate, s.rate), append(g.P50, s.p50*1e6), append(g.P99, s.p99*1e6)
	g.Failed += s.failed
	if len(w.nodes) > 0 {
		g.NodeCPU = append(g.NodeCPU, s.nodeCPU*1e6)
	}
	if w.envoy > 0 {
		g.EnvoyCPU = append(g.EnvoyCPU, s.envoyCPU*1e6)
	}
}

func (f *hopFigures) print(out io.Writer) {
	fmt.Fprintf(out, "\nthe hop, %d × %.1f s, median [least–most]; times in µs, CPU for one request\n", f.Rounds, f.Seconds)
	tw := tabwriter.NewWriter(out, 2, 0, 2, ' ', 0)
	title := ""
	for _, g := range f.Figures {
		if t := fmt.Sprintf("%d %s", g.Connections, g.Load); t != title {
			title = t
			fmt.Fprintf(tw, "\n  %s\tper second\tp50\tp99\tCPU of node proxies\tof Envoy\n", title)
		}
		failed := ""
		if g.Failed > 0 {
			failed = fmt.Sprintf("%d failed", g.Failed)
		}
		fmt.Fprintf(tw, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\n", g.Way, spread(g.Rate), number(at(g.P50, 0.5)), number(at(g.P99, 0.5)), spread(g.NodeCPU), spread(g.EnvoyCPU), failed)
	}
	tw.Flush()
}

func newResults() *results {
	load, _ := os.ReadFile("/proc/loadavg")
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return &results{
		Time: time.Now().UTC().Truncate(time.Second), Go: runtime.Version(), Kernel: strings.TrimSpace(string(kernel)),
		Cores: runtime.NumCPU(), Load: strings.Join(strings.Fields(string(load))[:3], " "),
	}
}

func (r *results) write(file string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o644)
}

func (r *results) print(out io.Writer) {
	fmt.Fprintf(out, "\n%s, Linux %s, %d cores, load before %s, %s\n", r.Go, r.Kernel, r.Cores, r.Load, r.Time.Format(time.RFC3339))
	if r.Scale != nil {
		r.Scale.print(out)
	}
	if r.Hop != nil {
		r.Hop.print(out)
	}
}

func (f *scaleFigures) print(out io.Writer) {
	fmt.Fprintf(out, "\none waypoint, %d services × %d pods\n", f.Services, f.Pods)
	tw := tabwriter.NewWriter(out, 2, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "  start to ready\t%s ms\n", spread(f.Ready))
	fmt.Fprintf(tw, "  start to first answer\t%s ms\n", spread(f.Serving))
	fmt.Fprintf(tw, "  CPU of a start\tagent %s ms, Envoy %s ms\n", spread(f.StartCPU.Agent), spread(f.StartCPU.Envoy))
	fmt.Fprintf(tw, "  from the control plane at the start\t%s\n", size(f.StartBytes))
	for _, m := range f.Memory {
		fmt.Fprintf(tw, "  memory of %s %s\t%.1f MiB, its own %.1f\n", m.Process, m.When, m.RSS, m.Anonymous)
	}
	tw.Flush()
	fmt.Fprintln(out, "\nmilliseconds until a request sees a change: median / 9 of 10 / worst; CPU and bytes of one")
	tw = tabwriter.NewWriter(out, 2, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "  change\tfrom the file\tfrom the push\ttries\tambitd CPU\tagent CPU\tEnvoy CPU\tto the agent")
	for _, c := range f.Changes {
		fmt.Fprintf(tw, "  %s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\n", c.Kind, three(c.File), three(c.Push), len(c.File), c.cpu("ambitd"), c.cpu("agent"), c.cpu("Envoy"), size(c.Bytes))
	}
	tw.Flush()
}

func (c changeFigures) cpu(process string) string {
	v, ok := c.CPU[process]
	if !ok {
		return "–"
	}
	return number(v) + " ms"
}

// at is a quantile; 1 is the worst.
func at(samples []float64, q float64) float64 {
	if len(samples) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(samples))
	return s[min(len(s)-1, int(q*float64(len(s))))]
}

func three(samples []float64) string {
	if len(samples) == 0 {
		return "–"
	}
	return fmt.Sprintf("%s / %s / %s", number(at(samples, 0.5)), number(at(samples, 0.9)), number(at(samples, 1)))
}

func spread(samples []float64) string {
	if len(samples) < 2 {
		return number(at(samples, 0.5))
	}
	return fmt.Sprintf("%s [%s–%s]", number(at(samples, 0.5)), number(at(samples, 0)), number(at(samples, 1)))
}

func number(v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case math.Abs(v) >= 100:
		return fmt.Sprintf("%.0f", v)
	case math.Abs(v) >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func size(bytes float64) string {
	switch {
	case bytes >= 1e6:
		return fmt.Sprintf("%.2f MB", bytes/1e6)
	case bytes >= 1e4:
		return fmt.Sprintf("%.0f KB", bytes/1e3)
	}
	return fmt.Sprintf("%.0f B", bytes)
}
