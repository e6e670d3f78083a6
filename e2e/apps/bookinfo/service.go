package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// service is another service of the shop, as one asks it.
type service struct {
	base   string
	client *http.Client
}

func newService(base string) service {
	// Short, because a connection stays what it was when it was opened: kept ones would show plaintext long after the
	// pods have joined a mesh.
	transport := &http.Transport{MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Second}
	return service{base: strings.TrimSuffix(base, "/"), client: &http.Client{Transport: transport, Timeout: 3 * time.Second}}
}

// passedOn are the request headers a service hands to those it asks: what keeps a trace together, and who the user is.
var passedOn = []string{"Traceparent", "Tracestate", "X-Request-Id", "B3", "X-B3-Traceid", "X-B3-Spanid", "X-B3-Parentspanid", "X-B3-Sampled", "End-User", "Authorization"}

// get fetches a path for the sake of a request that came in, and decodes the answer.
func (s service) get(in *http.Request, path string, out any) error {
	req, err := http.NewRequestWithContext(in.Context(), http.MethodGet, s.base+path, nil)
	if err != nil {
		return fmt.Errorf("ask %s: %w", s.base, err)
	}
	for _, name := range passedOn {
		if v := in.Header.Get(name); v != "" {
			req.Header.Set(name, v)
		}
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("read answer of %s: %w", s.base, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", s.base, resp.Status)
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("decode answer of %s: %w", s.base, err)
	}
	return nil
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	// A client that has gone away is no trouble of the service's.
	_ = json.NewEncoder(w).Encode(v)
}
