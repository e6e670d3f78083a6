package echo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// Tally counts answers by their status and by what they say of themselves.
type Tally struct {
	Request
	// Requests is how many are made, Workers how many of them at the same time; 0 means 1.
	Requests, Workers int
	// By is what answers are told apart by besides their status: a field of a JSON body, a "Name=value" line of a text one,
	// or a response header. Empty: the status alone.
	By string
}

// maxAnswer is how much of an answer is looked at.
const maxAnswer = 1 << 20

// Run makes the requests and returns how often each kind of answer came.
func (t Tally) Run(ctx context.Context) map[string]int {
	transport := t.transport()
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: t.Timeout, CheckRedirect: stay}
	tickets := make(chan struct{})
	counts := map[string]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range max(t.Workers, 1) {
		wg.Go(func() {
			for range tickets {
				kind := t.one(ctx, client)
				mu.Lock()
				counts[kind]++
				mu.Unlock()
			}
		})
	}
	for range t.Requests {
		if ctx.Err() != nil {
			break
		}
		tickets <- struct{}{}
	}
	close(tickets)
	wg.Wait()
	return counts
}

func (t Tally) one(ctx context.Context, client *http.Client) string {
	resp, err := t.send(ctx, client)
	if err != nil {
		return "error: " + err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return "error: " + err.Error()
	}
	kind := fmt.Sprint(resp.StatusCode)
	if v := t.value(resp, body); v != "" {
		kind += " " + v
	}
	return kind
}

// value finds what the answer is told apart by.
func (t Tally) value(resp *http.Response, body []byte) string {
	if t.By == "" {
		return ""
	}
	var fields map[string]any
	if json.Unmarshal(body, &fields) == nil {
		if v, ok := fields[t.By]; ok {
			return fmt.Sprint(v)
		}
	}
	for line := range strings.Lines(string(body)) {
		if v, ok := strings.CutPrefix(line, t.By+"="); ok {
			return strings.TrimSpace(v)
		}
	}
	return resp.Header.Get(t.By)
}

// Table lists counts, the most frequent kind first.
func Table(counts map[string]int) string {
	kinds := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		if counts[a] != counts[b] {
			return counts[b] - counts[a]
		}
		return strings.Compare(a, b)
	})
	var b strings.Builder
	for _, k := range kinds {
		fmt.Fprintf(&b, "%6d  %s\n", counts[k], k)
	}
	return b.String()
}
