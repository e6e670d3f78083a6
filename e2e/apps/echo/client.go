package echo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Request is one HTTP request to make.
type Request struct {
	URL string
	// Method is GET if empty.
	Method string
	Header http.Header
	Body   string
	// HTTP2 speaks it from the first byte, without TLS.
	HTTP2 bool
	// Head writes the status line and the header before the body.
	Head    bool
	Timeout time.Duration
}

// Do makes the request once and writes the answer's body to out. A status of 400 or more is an error.
func (q Request) Do(ctx context.Context, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, q.Timeout)
	defer cancel()
	transport := q.transport()
	defer transport.CloseIdleConnections()
	resp, err := q.send(ctx, &http.Client{Transport: transport, CheckRedirect: stay})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if q.Head {
		fmt.Fprintf(out, "%s %s\n", resp.Proto, resp.Status)
		if err := resp.Header.Write(out); err != nil {
			return err
		}
		fmt.Fprintln(out)
	}
	if _, err := io.Copy(out, resp.Body); err != nil {
		return fmt.Errorf("get %s: %w", q.URL, err)
	}
	if resp.StatusCode >= 400 {
		return fmt.Errorf("get %s: status %s", q.URL, resp.Status)
	}
	return nil
}

// stay shows redirects instead of following them.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// transport uses no proxy from the environment: what is tried out is the network between these two.
func (q Request) transport() *http.Transport {
	t := &http.Transport{DisableKeepAlives: !q.HTTP2}
	if q.HTTP2 {
		t.Protocols = new(http.Protocols)
		t.Protocols.SetUnencryptedHTTP2(true)
	}
	return t
}

func (q Request) send(ctx context.Context, client *http.Client) (*http.Response, error) {
	method := q.Method
	if method == "" {
		method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(ctx, method, q.URL, strings.NewReader(q.Body))
	if err != nil {
		return nil, fmt.Errorf("get: %w", err)
	}
	for k, v := range q.Header {
		req.Header[k] = v
	}
	if host := q.Header.Get("Host"); host != "" {
		req.Host = host
		req.Header.Del("Host")
	}
	return client.Do(req)
}

// Held is how a held connection fared.
type Held struct {
	// Lasted is from the connection's opening to its end.
	Lasted time.Duration `json:"lasted"`
	// Echoes counts the lines that came back.
	Echoes int `json:"echoes"`
	// Longest is the longest wait for one of them.
	Longest time.Duration `json:"longest"`
}

// Hold opens a connection to a server of the TCP kind and has a line echoed every interval until ctx ends, which is the
// good end. Any other end is an error that says when it came. Events, if not nil, hears of the opening.
func Hold(ctx context.Context, addr string, interval time.Duration, opened func(local, remote net.Addr)) (Held, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return Held{}, fmt.Errorf("hold: %w", err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	if opened != nil {
		opened(c.LocalAddr(), c.RemoteAddr())
	}
	began := time.Now()
	var h Held
	in := bufio.NewReader(c)
	for i := 0; ; i++ {
		sent := time.Now()
		line := fmt.Sprintf("line %d\n", i)
		_, err := io.WriteString(c, line)
		var got string
		if err == nil {
			got, err = in.ReadString('\n')
		}
		h.Lasted = time.Since(began)
		switch {
		case ctx.Err() != nil:
			return h, nil
		case errors.Is(err, io.EOF):
			return h, fmt.Errorf("connection was closed after %v and %d echoes", h.Lasted.Round(time.Millisecond), h.Echoes)
		case err != nil:
			return h, fmt.Errorf("connection ended after %v and %d echoes: %w", h.Lasted.Round(time.Millisecond), h.Echoes, err)
		case got != line:
			return h, fmt.Errorf("line %d came back as %q", i, got)
		}
		h.Echoes++
		h.Longest = max(h.Longest, time.Since(sent))
		if !wait(ctx, interval) {
			h.Lasted = time.Since(began)
			return h, nil
		}
	}
}

// Greeting connects to a server of the First kind and returns the line it speaks before it is spoken to.
func Greeting(ctx context.Context, addr string) (string, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return "", fmt.Errorf("greeting: %w", err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("greeting from %s: %w", addr, err)
	}
	return strings.TrimSpace(line), nil
}

// Bulk is how much went how fast.
type Bulk struct {
	Streams int           `json:"streams"`
	Bytes   int64         `json:"bytes"`
	Took    time.Duration `json:"took"`
}

// Gbps is the rate in gigabits a second.
func (b Bulk) Gbps() float64 { return float64(b.Bytes) * 8 / b.Took.Seconds() / 1e9 }

// Send pushes bytes to a server of the Sink kind over several connections, each its share, and checks that all arrived.
func Send(ctx context.Context, addr string, bytes int64, streams int) (Bulk, error) {
	return inParallel(streams, func(i int) (int64, error) {
		share := bytes/int64(streams) + boolTo(i < int(bytes%int64(streams)))
		return share, send(ctx, addr, share)
	})
}

func boolTo(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func inParallel(n int, fn func(i int) (int64, error)) (Bulk, error) {
	began := time.Now()
	b := Bulk{Streams: n}
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			k, err := fn(i)
			mu.Lock()
			defer mu.Unlock()
			b.Bytes += k
			if err != nil {
				errs = append(errs, fmt.Errorf("stream %d: %w", i, err))
			}
		})
	}
	wg.Wait()
	b.Took = time.Since(began)
	return b, errors.Join(errs...)
}

func send(ctx context.Context, addr string, n int64) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	block := make([]byte, 128<<10)
	fill(block)
	for left := n; left > 0; {
		k, err := c.Write(block[:min(left, int64(len(block)))])
		if err != nil {
			return fmt.Errorf("after %d bytes: %w", n-left, err)
		}
		left -= int64(k)
	}
	if err := closeWrite(c, nil); err != nil {
		return err
	}
	var arrived int64
	if _, err := fmt.Fscan(c, &arrived); err != nil {
		return fmt.Errorf("read receipt: %w", err)
	}
	if arrived != n {
		return fmt.Errorf("%d bytes were sent and %d arrived", n, arrived)
	}
	return nil
}

// Receive pulls bytes from a server of the Source kind over several connections.
func Receive(ctx context.Context, addr string, bytes int64, streams int) (Bulk, error) {
	return inParallel(streams, func(i int) (int64, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			return 0, err
		}
		defer c.Close()
		defer context.AfterFunc(ctx, func() { _ = c.Close() })()
		return io.CopyN(io.Discard, c, bytes/int64(streams)+boolTo(i < int(bytes%int64(streams))))
	})
}
