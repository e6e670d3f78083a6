package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// envoyAdmin speaks to Envoy's admin interface, which is a unix socket, or a port on loopback when one was asked for.
type envoyAdmin struct {
	base   string
	client *http.Client
	// own are the ends of the names of listeners for probes and scrapes.
	own []string
}

func newEnvoyAdmin(socket string, port uint32, own ...uint32) *envoyAdmin {
	var ends []string
	for _, p := range own {
		ends = append(ends, fmt.Sprintf("_%d.downstream_cx_active", p))
	}
	return &envoyAdmin{
		own:  ends,
		base: "http://" + net.JoinHostPort("127.0.0.1", strconv.FormatUint(uint64(port), 10)),
		client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
			Proxy: nil, MaxIdleConns: 2, IdleConnTimeout: 10 * time.Second, ResponseHeaderTimeout: 20 * time.Second,
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				if socket != "" {
					network, address = "unix", socket
				}
				return new(net.Dialer).DialContext(ctx, network, address)
			},
		}},
	}
}

func (e *envoyAdmin) do(ctx context.Context, method, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, e.base+path, nil)
	if err != nil {
		return nil, err
	}
	return e.client.Do(req)
}

func (e *envoyAdmin) post(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	resp, err := e.do(ctx, http.MethodPost, path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 300))
		return fmt.Errorf("POST %s: Envoy answers %s: %s", path, resp.Status, strings.TrimSpace(string(text)))
	}
	return nil
}

// Statistics a drain goes by: connections from others by listener, streams within those that carry HBONE, and HTTP
// connections and requests within either.
const (
	statInternal  = "listener.envoy_internal_main_internal.downstream_cx_active"
	statTerminate = "http.connect_terminate.downstream_cx_active"
	statHTTP      = "http.inbound.downstream_cx_active"
	statRequests  = "http.inbound.downstream_rq_active"
	statEdge      = "http.edge.downstream_cx_active"
	statEdgeReqs  = "http.edge.downstream_rq_active"
	drainFilter   = `^(listener\..*\.downstream_cx_active|http\.(inbound|edge|connect_terminate)\.downstream_(cx|rq)_active)$`
)

// connections counts those from others, and how many of them are idle: all, when nothing in any of them is under way.
func (e *envoyAdmin) connections(ctx context.Context) (open, idle int, err error) {
	resp, err := e.do(ctx, http.MethodGet, "/stats?format=json&filter="+url.QueryEscape(drainFilter))
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	var stats struct {
		Stats []struct {
			Name  string `json:"name"`
			Value int    `json:"value"`
		} `json:"stats"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 4<<20)).Decode(&stats); err != nil {
		return 0, 0, fmt.Errorf("read the statistics of Envoy: %w", err)
	}
	value := map[string]int{}
	for _, s := range stats.Stats {
		value[s.Name] = s.Value
		if e.countsForDrain(s.Name) {
			open += s.Value
		}
	}
	// What is not HTTP may be in use however quiet it is.
	if value[statRequests] == 0 && value[statEdgeReqs] == 0 &&
		value[statInternal] <= value[statHTTP] && open <= value[statTerminate]+value[statEdge] {
		idle = open
	}
	return open, idle, nil
}

// countsForDrain leaves out the listeners of probes, scrapes and tools, per-worker figures, and internal listeners, whose
// connections are the inside of others.
func (e *envoyAdmin) countsForDrain(stat string) bool {
	if !strings.HasPrefix(stat, "listener.") || strings.HasPrefix(stat, "listener.admin.") ||
		strings.HasPrefix(stat, "listener.envoy_internal_") || strings.Contains(stat, ".worker_") {
		return false
	}
	for _, end := range e.own {
		if strings.HasSuffix(stat, end) {
			return false
		}
	}
	return true
}

// ready asks Envoy itself.
func (e *envoyAdmin) ready(ctx context.Context) error {
	resp, err := e.do(ctx, http.MethodGet, "/ready")
	if err != nil {
		return fmt.Errorf("Envoy does not answer: %w", err)
	}
	defer resp.Body.Close()
	state, err := io.ReadAll(io.LimitReader(resp.Body, 100))
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("Envoy is %s", strings.TrimSpace(string(state)))
	}
	return nil
}
