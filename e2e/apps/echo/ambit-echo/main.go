// Command ambit-echo is a server and a client for trying out networks.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/ambit-mesh/ambit/e2e/apps/echo"
	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{Use: "ambit-echo", Short: "A server and a client for trying out networks", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(serve(), get(), tally(), websocket(), loop(), hold(), bulk(), greeting(), idle(), file())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "ambit-echo:", err)
		os.Exit(1) //nolint:gocritic // the process ends here, and stop with it
	}
}

func serve() *cobra.Command {
	var s echo.Server
	c := &cobra.Command{Use: "serve", Short: "Serve until told to end", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.Run(cmd.Context()) }}
	c.Flags().StringVar(&s.HTTP, "http", ":8080", "HTTP: any path says who served and who asked; /download?bytes=N, /upload, /hold, /delay?d=1s, /status/N, /ws; HTTP/2 without TLS too")
	c.Flags().StringVar(&s.TCP, "tcp", ":9000", "TCP that sends back what it gets")
	c.Flags().StringVar(&s.First, "first", ":9001", "TCP that greets first")
	c.Flags().StringVar(&s.Sink, "sink", ":9002", "TCP that takes everything and says how much it was")
	c.Flags().StringVar(&s.Source, "source", ":9003", "TCP that sends until the client goes")
	c.Flags().StringVar(&s.Health, "health", ":9004", "gRPC health checks")
	c.Flags().DurationVar(&s.LameDuck, "lame-duck", 500*time.Millisecond, "how long HTTP is served as before after the end was asked for")
	c.Flags().StringVar(&s.Text, "text", os.Getenv("ECHO_TEXT"), "part of every answer (ECHO_TEXT)")
	return c
}

func get() *cobra.Command {
	var q echo.Request
	c := &cobra.Command{Use: "get URL", Short: "Make one HTTP request", Args: cobra.ExactArgs(1)}
	request(c, &q)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		q.URL = args[0]
		return q.Do(cmd.Context(), os.Stdout)
	}
	c.Flags().BoolVarP(&q.Head, "include", "i", false, "show the status line and the header too")
	return c
}

// request adds the flags that describe an HTTP request.
func request(c *cobra.Command, q *echo.Request) {
	var headers []string
	c.PreRunE = func(*cobra.Command, []string) error {
		q.Header = http.Header{}
		for _, line := range headers {
			k, v, ok := strings.Cut(line, ":")
			if !ok {
				return fmt.Errorf("header %q: NAME: VALUE", line)
			}
			q.Header.Add(k, strings.TrimSpace(v))
		}
		return nil
	}
	c.Flags().StringArrayVarP(&headers, "header", "H", nil, "header, as NAME: VALUE")
	c.Flags().StringVarP(&q.Method, "request", "X", "GET", "method")
	c.Flags().StringVarP(&q.Body, "data", "d", "", "body to send")
	c.Flags().BoolVar(&q.HTTP2, "http2", false, "speak HTTP/2 from the first byte")
	c.Flags().DurationVar(&q.Timeout, "timeout", 5*time.Second, "give up after this long")
}

func tally() *cobra.Command {
	var t echo.Tally
	c := &cobra.Command{Use: "tally URL", Short: "Make many HTTP requests, and count the answers by kind", Args: cobra.ExactArgs(1)}
	request(c, &t.Request)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		t.URL = args[0]
		if t.Requests < 1 {
			return errors.New("--requests: at least 1")
		}
		fmt.Print(echo.Table(t.Run(cmd.Context())))
		return nil
	}
	c.Flags().IntVarP(&t.Requests, "requests", "n", 100, "how many")
	c.Flags().IntVar(&t.Workers, "workers", 4, "how many at the same time")
	c.Flags().StringVar(&t.By, "by", "", "tell answers apart by this field of their JSON, Name=value line, or header")
	return c
}

func websocket() *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{Use: "websocket URL [MESSAGE]", Short: "Send a message over a WebSocket (ws://HOST/ws) and show what comes back", Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			text, err := echo.WebSocket(ctx, args[0], append(args, "hello")[1])
			if err != nil {
				return err
			}
			fmt.Println(text)
			return nil
		}}
	c.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "give up after this long")
	return c
}

func loop() *cobra.Command {
	var l echo.Load
	var duration time.Duration
	var output string
	var quiet, untilEOF bool
	allow := 0
	c := &cobra.Command{Use: "loop URL", Short: "Fetch a URL again and again, and report errors and latencies", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), duration)
			defer cancel()
			l.URL = args[0]
			if untilEOF {
				atEOF(cancel)
			}
			if !quiet {
				l.Progress = os.Stderr
			}
			r := l.Run(ctx)
			if output == "json" {
				fmt.Println(r.JSON())
			} else {
				fmt.Print(r)
			}
			if r.Errors > allow || r.Requests == 0 {
				return fmt.Errorf("%d of %d requests failed", r.Errors, r.Requests)
			}
			return nil
		}}
	f := c.Flags()
	f.Float64Var(&l.Rate, "rate", 0, "requests a second in all; 0: as many as fit")
	f.IntVar(&l.Workers, "workers", 1, "requests at the same time")
	f.IntVar(&l.Requests, "requests", 0, "end after so many; 0: when the time is up")
	f.DurationVar(&duration, "duration", 10*time.Second, "how long")
	f.DurationVar(&l.Timeout, "timeout", 5*time.Second, "for each request")
	f.BoolVar(&l.Reuse, "reuse", false, "keep connections open between requests")
	f.IntVar(&allow, "allow-errors", 0, "exit with status 0 up to so many errors")
	f.StringVarP(&output, "output", "o", "text", "text or json")
	f.BoolVarP(&quiet, "quiet", "q", false, "no progress")
	f.BoolVar(&untilEOF, "until-eof", false, "end when standard input does")
	return c
}

func hold() *cobra.Command {
	var duration, interval time.Duration
	var untilEOF bool
	c := &cobra.Command{Use: "hold HOST:PORT", Short: "Keep a TCP connection open, and say if and when it is cut", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), duration)
			defer cancel()
			if untilEOF {
				atEOF(cancel)
			}
			h, err := echo.Hold(ctx, args[0], interval, func(local, remote net.Addr) { fmt.Printf("open from %s to %s\n", local, remote) })
			if err != nil {
				return err
			}
			fmt.Printf("still open after %v and %d echoes; slowest echo %v\n", h.Lasted.Round(time.Millisecond), h.Echoes, h.Longest.Round(time.Microsecond))
			return nil
		}}
	c.Flags().DurationVar(&duration, "duration", 10*time.Second, "how long")
	c.Flags().DurationVar(&interval, "interval", 100*time.Millisecond, "between two lines")
	c.Flags().BoolVar(&untilEOF, "until-eof", false, "end when standard input does")
	return c
}

// atEOF calls end when standard input ends. Nothing waits for this reader: it ends with the process.
func atEOF(end func()) {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		end()
	}()
}

func bulk() *cobra.Command {
	var megabytes int64
	var streams int
	var receive bool
	var timeout time.Duration
	c := &cobra.Command{Use: "bulk HOST:PORT", Short: "Push data to a sink, or pull it from a source", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if megabytes < 1 || streams < 1 {
				return errors.New("--megabytes and --streams: at least 1")
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			run := echo.Send
			if receive {
				run = echo.Receive
			}
			b, err := run(ctx, args[0], megabytes<<20, streams)
			if err != nil {
				return err
			}
			fmt.Printf("%d MiB over %d streams in %v: %.2f Gbit/s\n", b.Bytes>>20, b.Streams, b.Took.Round(time.Millisecond), b.Gbps())
			return nil
		}}
	c.Flags().Int64Var(&megabytes, "megabytes", 100, "how much")
	c.Flags().IntVar(&streams, "streams", 1, "connections at the same time")
	c.Flags().BoolVar(&receive, "receive", false, "pull from a source")
	c.Flags().DurationVar(&timeout, "timeout", time.Minute, "give up after this long")
	return c
}

func greeting() *cobra.Command {
	return &cobra.Command{Use: "greeting HOST:PORT", Short: "Show what a server that speaks first says", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), 5*time.Second)
			defer cancel()
			line, err := echo.Greeting(ctx, args[0])
			if err != nil {
				return err
			}
			fmt.Println(line)
			return nil
		}}
}

// idle is for pods that commands are run in.
func idle() *cobra.Command {
	return &cobra.Command{Use: "idle", Short: "Do nothing until told to end", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			<-cmd.Context().Done()
			return nil
		}}
}
