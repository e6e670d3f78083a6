package main

import (
	"fmt"
	"io"
	"maps"
	"math"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// results are the figures of one run.
type results struct {
	Time  time.Time `json:"time"`
	Go    string    `json:"go"`
	Cores int       `json:"cores"`
	Rows  []row     `json:"rows"`
}

// row is one measurement.
type row struct {
	Measure string          `json:"measure"`
	Pods    int             `json:"pods,omitempty"`
	Clients int             `json:"proxies,omitempty"`
	Values  map[string]stat `json:"values"`
}

// stat is a figure with its spread. Single figures have N 1 and only a median.
type stat struct {
	N      int     `json:"n"`
	Median float64 `json:"median"`
	P99    float64 `json:"p99,omitempty"`
	Min    float64 `json:"min,omitempty"`
	Max    float64 `json:"max,omitempty"`
	lag    bool
}

func newResults(config) *results {
	return &results{Time: time.Now().UTC().Truncate(time.Second), Go: runtime.Version(), Cores: runtime.NumCPU()}
}

func (r *results) add(one row) { r.Rows = append(r.Rows, one) }

func single(v float64) stat { return stat{N: 1, Median: v} }

// spread describes a few repeated measurements.
func spread(v []float64) stat {
	s := quantiles(v)
	s.lag = false
	return s
}

// quantiles describes many.
func quantiles(v []float64) stat {
	if len(v) == 0 {
		return stat{}
	}
	v = slices.Sorted(slices.Values(v))
	at := func(q float64) float64 { return v[min(len(v)-1, int(math.Ceil(q*float64(len(v))))-1)] }
	return stat{N: len(v), Median: at(0.5), P99: at(0.99), Min: v[0], Max: v[len(v)-1], lag: true}
}

func (s stat) String() string {
	switch {
	case s.lag:
		return fmt.Sprintf("%s / %s", number(s.Median), number(s.P99))
	case s.N > 1:
		return fmt.Sprintf("%s [%s–%s]", number(s.Median), number(s.Min), number(s.Max))
	}
	return number(s.Median)
}

func number(v float64) string {
	switch {
	case math.Abs(v) >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case math.Abs(v) >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

// table prints the rows. Lags are p50 / p99, repeated figures median [min–max].
func (r *results) table(w io.Writer) {
	fmt.Fprintf(w, "control plane, %s, %d cores shared with the simulated proxies; lag p50 / p99, others median [min–max]\n\n", r.Go, r.Cores)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "pods\tproxies\tmeasure\tfigures")
	for _, one := range r.Rows {
		var figures []string
		for _, name := range slices.Sorted(maps.Keys(one.Values)) {
			figures = append(figures, name+" "+one.Values[name].String())
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", count(one.Pods), count(one.Clients), one.Measure, strings.Join(figures, "; "))
	}
	_ = tw.Flush() // to a terminal or a buffer; nobody is left to tell
}

func count(n int) string {
	if n == 0 {
		return "–"
	}
	return strconv.Itoa(n)
}
