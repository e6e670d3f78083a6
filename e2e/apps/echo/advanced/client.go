package advanced

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Call is a request to make, or several of the same.
type Call struct {
	// URL has one of the schemes http, https and grpc.
	URL    string
	Method string
	Header http.Header
	// Count is how often; 0 means once.
	Count   int
	Timeout time.Duration
}

// maxAnswer is how much of an answer is shown.
const maxAnswer = 1 << 20

// Do makes the requests, one after the other, and writes what came back, an empty line after each. An answer of any status
// is a success; none is an error.
func (c Call) Do(ctx context.Context, out io.Writer) error {
	u, err := url.Parse(c.URL)
	if err != nil {
		return err
	}
	var once func(context.Context) (string, error)
	switch u.Scheme {
	case "http", "https":
		t := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // servers of tests make up their certificates
		defer t.CloseIdleConnections()
		client := &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		once = func(ctx context.Context) (string, error) { return c.http(ctx, client) }
	case "grpc":
		conn, err := grpc.NewClient("passthrough:///"+u.Host, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
		if err != nil {
			return err
		}
		defer conn.Close()
		once = func(ctx context.Context) (string, error) { return c.grpc(ctx, conn) }
	default:
		return fmt.Errorf("%s: http, https and grpc are known", c.URL)
	}
	for i := range max(c.Count, 1) {
		one, cancel := context.WithTimeout(ctx, c.Timeout)
		text, err := once(one)
		cancel()
		if err != nil {
			return fmt.Errorf("request %d: %w", i, err)
		}
		for line := range strings.Lines(strings.TrimRight(text, "\n") + "\n") {
			if _, err := fmt.Fprintf(out, "[%d] %s", i, line); err != nil {
				return err
			}
		}
		fmt.Fprintln(out)
	}
	return nil
}

func (c Call) http(ctx context.Context, client *http.Client) (string, error) {
	req, err := http.NewRequestWithContext(ctx, c.Method, c.URL, nil)
	if err != nil {
		return "", err
	}
	for k, v := range c.Header {
		req.Header[k] = v
	}
	if host := req.Header.Get("Host"); host != "" {
		req.Host = host
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	lines := headerLines("ResponseHeader", resp.Header)
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("Url=%s\nStatusCode=%d\n%s\n%s", c.URL, resp.StatusCode, strings.Join(lines, "\n"), quoted(string(body))), nil
}

func (c Call) grpc(ctx context.Context, conn *grpc.ClientConn) (string, error) {
	for k, values := range c.Header {
		for _, v := range values {
			ctx = metadata.AppendToOutgoingContext(ctx, strings.ToLower(k), v)
		}
	}
	var headers metadata.MD
	var answer wrapperspb.StringValue
	if err := conn.Invoke(ctx, "/"+service+"/"+method, wrapperspb.String("hello"), &answer, grpc.Header(&headers)); err != nil {
		return "", err
	}
	lines := headerLines("ResponseHeader", headers)
	return fmt.Sprintf("Url=%s\nStatusCode=200\n%s\n%s", c.URL, strings.Join(lines, "\n"), quoted(answer.Value)), nil
}

// quoted is the answer's text, each line marked as such; empty lines would end the answer.
func quoted(body string) string {
	var out strings.Builder
	for line := range strings.Lines(body) {
		if line = strings.TrimSpace(line); line != "" {
			out.WriteString("body] " + line + "\n")
		}
	}
	return out.String()
}
