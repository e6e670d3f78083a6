// Command bookinfo is a bookshop of four small services, to have something worth meshing: productpage asks details and
// reviews, and reviews asks ratings. Each is one subcommand.
//
// It is an ordinary application: it knows nothing of a mesh, retries nothing, and says plainly when a service it needs
// does not answer. Start reading at productpage.go.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const usage = `usage: bookinfo (productpage | details | reviews | ratings) [flags]; -h after a service lists its flags`

// lameDuckTime is how long the service goes on as before after it was told to end.
const lameDuckTime = 500 * time.Millisecond

// drainTime is how long requests under way may take after the service was told to end.
const drainTime = 5 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bookinfo:", err)
		os.Exit(1) //nolint:gocritic // the process ends here, and stop with it
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	var addr, version, details, reviews, ratings string
	fs := flag.NewFlagSet("bookinfo "+args[0], flag.ContinueOnError)
	fs.StringVar(&addr, "listen", ":9080", "address to serve on")
	fs.StringVar(&version, "version", "v1", "version of reviews: v1 has no stars, v2 black ones, v3 red ones")
	fs.StringVar(&details, "details", "http://details:9080", "where productpage finds details")
	fs.StringVar(&reviews, "reviews", "http://reviews:9080", "where productpage finds reviews")
	fs.StringVar(&ratings, "ratings", "http://ratings:9080", "where reviews finds ratings")
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	var h http.Handler
	switch args[0] {
	case "productpage":
		h = productpage{details: newService(details), reviews: newService(reviews)}.handler()
	case "details":
		h = detailsHandler()
	case "reviews":
		h = newReviews(version, newService(ratings)).handler()
	case "ratings":
		h = ratingsHandler()
	default:
		return fmt.Errorf("there is no service %q; %s", args[0], usage)
	}
	return serve(ctx, args[0], addr, h)
}

// serve answers until ctx ends, and then finishes what is under way.
func serve(ctx context.Context, name, addr string, h http.Handler) error {
	log := slog.New(slog.NewTextHandler(os.Stdout, nil)).With("service", name)
	srv := &http.Server{Addr: addr, Handler: logged(log, h), ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- srv.ListenAndServe() }()
	log.Info("serving", "addr", addr)
	select {
	case err := <-failed:
		return fmt.Errorf("serve on %s: %w", addr, err)
	case <-ctx.Done():
	}
	// Callers need a moment to learn that this pod is leaving; until then it serves them.
	lameDuck := time.NewTimer(lameDuckTime)
	<-lameDuck.C
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	err := srv.Shutdown(ctx)
	<-failed
	return err
}

func logged(log *slog.Logger, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		h.ServeHTTP(w, r)
		if r.URL.Path != "/health" {
			log.Info("request", "path", r.URL.Path, "from", r.RemoteAddr, "dur", time.Since(began))
		}
	})
}

// mux has what every service answers besides its own.
func mux() *http.ServeMux {
	m := http.NewServeMux()
	m.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "healthy") })
	return m
}
