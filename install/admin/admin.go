// Package admin asks the admin endpoints of the mesh's daemons, on unix sockets and loopback addresses.
//
// It knows HTTP and how a daemon that does not answer looks; what is asked is the caller's. It starts no goroutines of
// its own. Start reading at Endpoint.
package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// Endpoint is one daemon's admin interface.
type Endpoint struct {
	// What names the daemon in messages: "ztunnel of node1".
	What string
	// Address is host:port, or unix:PATH; with Dial, only what messages call it.
	Address string
	// Dial, if set, is how to connect.
	Dial func(context.Context) (net.Conn, error)
	// Prefix stands before every path.
	Prefix string
	// Hint is what to do when it does not answer.
	Hint string
}

// maxAnswer bounds an answer: a dump of a hundred thousand workloads is below.
const maxAnswer = 1 << 30

// Get opens the answer to a GET; the caller closes it.
func (e Endpoint) Get(ctx context.Context, path string) (io.ReadCloser, error) {
	return e.do(ctx, http.MethodGet, path)
}

// Post returns the text a POST is answered with.
func (e Endpoint) Post(ctx context.Context, path string) (string, error) {
	body, err := e.do(ctx, http.MethodPost, path)
	if err != nil {
		return "", err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, 1<<20))
	return string(data), err
}

// Connect opens a connection to the daemon.
func (e Endpoint) Connect(ctx context.Context) (net.Conn, error) {
	if e.Dial != nil {
		return e.Dial(ctx)
	}
	if path, ok := strings.CutPrefix(e.Address, "unix:"); ok {
		return DialUnix(ctx, path)
	}
	return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", e.Address)
}

func (e Endpoint) do(ctx context.Context, method, path string) (io.ReadCloser, error) {
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, // one question, then the process ends
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return e.Connect(ctx) },
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://admin"+e.Prefix+path, nil)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", e.What, err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, e.explain(err)
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		return nil, &Refusal{What: e.What, Request: method + " " + path, Status: resp.Status, Code: resp.StatusCode, Text: strings.TrimSpace(string(text))}
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, maxAnswer), resp.Body}, nil
}

// Refusal is an answer that is none.
type Refusal struct {
	What, Request, Status, Text string
	Code                        int
}

// Error implements error.
func (r *Refusal) Error() string {
	if r.Code == http.StatusNotFound && strings.Contains(r.Text, " ") && !strings.HasPrefix(r.Text, "404 ") {
		return r.What + ": " + r.Text // it knows the question, and says what it does not know
	}
	return fmt.Sprintf("%s refuses %s: %s: %s", r.What, r.Request, r.Status, r.Text)
}

// explain names the usual reasons why nobody answers.
func (e Endpoint) explain(err error) error {
	reason := "it does not answer"
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED):
		reason = "it is not running, or has no admin endpoint there"
	case errors.Is(err, fs.ErrPermission):
		reason = "its socket is for root; try again with sudo"
	case strings.Contains(err.Error(), " is forbidden: "): // what an API server says, of whatever type the error is by now
		return fmt.Errorf("%s at %s: you may not connect to it: %w", e.What, e.Address, err)
	}
	text := fmt.Sprintf("%s at %s: %s", e.What, e.Address, reason)
	if e.Hint != "" {
		text += "; " + e.Hint
	}
	return fmt.Errorf("%s: %w", text, err)
}
