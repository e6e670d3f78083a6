package echo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Load asks a URL again and again.
type Load struct {
	URL string
	// Workers ask at the same time; 0 means 1.
	Workers int
	// Rate is how many requests a second there are in all; 0 means as many as fit.
	Rate float64
	// Requests ends the load after so many; 0 means when the context ends.
	Requests int
	// Reuse keeps connections open between requests. Without it each has its own, which is what shows a broken listener.
	Reuse bool
	// Timeout is each request's; 0 means 5 s.
	Timeout time.Duration
	// Progress, if not nil, gets a line a second, and every new kind of error when it first comes.
	Progress io.Writer
}

// Report is how a load fared.
type Report struct {
	Requests int           `json:"requests"`
	Errors   int           `json:"errors"`
	Took     time.Duration `json:"took"`
	// Kinds counts errors by text.
	Kinds map[string]int `json:"kinds,omitempty"`
	// Pods counts answers by who gave them.
	Pods map[string]int `json:"pods,omitempty"`
	// Percentiles of what succeeded.
	P50, P90, P99, Max time.Duration
	// Gap is the longest time without an answer that was any good, the measure of an outage.
	Gap time.Duration `json:"gap"`
}

// maxSamples bounds memory; beyond it every further latency replaces an earlier one in turn.
const maxSamples = 1 << 20

type run struct {
	load   Load
	client *http.Client

	mu      sync.Mutex
	report  Report
	samples []time.Duration
	lastOK  time.Time
	began   time.Time
}

// Run asks until ctx ends or all requests are done.
func (l Load) Run(ctx context.Context) Report {
	if l.Workers < 1 {
		l.Workers = 1
	}
	if l.Timeout == 0 {
		l.Timeout = 5 * time.Second
	}
	transport := &http.Transport{DisableKeepAlives: !l.Reuse, MaxIdleConnsPerHost: l.Workers}
	defer transport.CloseIdleConnections()
	now := time.Now()
	r := &run{
		load: l, client: &http.Client{Transport: transport, Timeout: l.Timeout}, lastOK: now, began: now,
		report: Report{Kinds: map[string]int{}, Pods: map[string]int{}},
	}
	tickets := make(chan struct{})
	var wg sync.WaitGroup
	for range l.Workers {
		wg.Go(func() {
			for range tickets {
				r.once(ctx)
			}
		})
	}
	ticking, stop := context.WithCancel(ctx)
	var progress sync.WaitGroup
	progress.Go(func() { r.tell(ticking) })
	r.issue(ctx, tickets)
	close(tickets)
	wg.Wait()
	stop()
	progress.Wait()
	return r.finish()
}

// issue hands out tickets at the load's rate. Late tickets are handed out as soon as a worker is free, so that the rate
// holds over an outage.
func (r *run) issue(ctx context.Context, tickets chan<- struct{}) {
	for n := 0; r.load.Requests == 0 || n < r.load.Requests; n++ {
		if r.load.Rate > 0 {
			due := r.began.Add(time.Duration(float64(n) / r.load.Rate * float64(time.Second)))
			if d := time.Until(due); d > 0 && !wait(ctx, d) {
				return
			}
		}
		select {
		case tickets <- struct{}{}:
		case <-ctx.Done():
			return
		}
	}
}

func (r *run) once(ctx context.Context) {
	began := time.Now()
	pod, err := r.ask(ctx)
	if ctx.Err() != nil {
		// The end of the load is no error of the server's.
		return
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Requests++
	if err != nil {
		r.report.Errors++
		text := kind(err)
		if r.report.Kinds[text]++; r.report.Kinds[text] == 1 && r.load.Progress != nil {
			fmt.Fprintf(r.load.Progress, "%6.1fs  %v\n", now.Sub(r.began).Seconds(), err)
		}
		return
	}
	r.report.Gap = max(r.report.Gap, now.Sub(r.lastOK))
	r.lastOK = now
	if pod != "" {
		r.report.Pods[pod]++
	}
	if len(r.samples) < maxSamples {
		r.samples = append(r.samples, now.Sub(began))
	} else {
		r.samples[r.report.Requests%maxSamples] = now.Sub(began)
	}
}

// ask makes one request and returns the name of the pod that answered, if it says so.
func (r *run) ask(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.load.URL, nil)
	if err != nil {
		return "", err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	head := make([]byte, 256)
	n, err := io.ReadFull(resp.Body, head)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
	}
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return "", fmt.Errorf("read body: %w", err)
	}
	if resp.StatusCode >= 400 {
		return "", fmt.Errorf("status %d", resp.StatusCode)
	}
	first, _, _ := strings.Cut(string(head[:n]), "\n")
	pod, ok := strings.CutPrefix(first, "Hostname=")
	if !ok {
		pod = ""
	}
	return pod, nil
}

// kind is an error without what differs from one to the next: local ports.
func kind(err error) string {
	text := err.Error()
	if i := strings.Index(text, "read tcp "); i >= 0 {
		if j := strings.Index(text[i:], ": "); j >= 0 {
			text = text[:i] + "read tcp" + text[i+j:]
		}
	}
	return text
}

func (r *run) tell(ctx context.Context) {
	if r.load.Progress == nil {
		return
	}
	for last := 0; wait(ctx, time.Second); {
		r.mu.Lock()
		fmt.Fprintf(r.load.Progress, "%6.1fs  %d requests, %d in the last second, %d errors\n",
			time.Since(r.began).Seconds(), r.report.Requests, r.report.Requests-last, r.report.Errors)
		last = r.report.Requests
		r.mu.Unlock()
	}
}

func (r *run) finish() Report {
	now := time.Now()
	r.report.Took = now.Sub(r.began)
	// An outage that lasts to the end counts as well.
	r.report.Gap = max(r.report.Gap, now.Sub(r.lastOK))
	if n := len(r.samples); n > 0 {
		slices.Sort(r.samples)
		at := func(p float64) time.Duration { return r.samples[min(n-1, int(p*float64(n)))] }
		r.report.P50, r.report.P90, r.report.P99, r.report.Max = at(.5), at(.9), at(.99), r.samples[n-1]
	}
	return r.report
}

// String is the report for people.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d requests in %.1fs (%.0f/s), %d errors\n", r.Requests, r.Took.Seconds(), float64(r.Requests)/max(r.Took.Seconds(), 1e-9), r.Errors)
	fmt.Fprintf(&b, "latency p50 %v, p90 %v, p99 %v, max %v; longest gap without an answer %v\n",
		round(r.P50), round(r.P90), round(r.P99), round(r.Max), round(r.Gap))
	for _, m := range []map[string]int{r.Pods, r.Kinds} {
		for _, k := range sortedKeys(m) {
			fmt.Fprintf(&b, "%8d  %s\n", m[k], k)
		}
	}
	return b.String()
}

func sortedKeys(m map[string]int) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

// JSON is the report for programs.
func (r Report) JSON() string {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return "{}"
	}
	return string(data)
}
