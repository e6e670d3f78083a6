package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/ambit-mesh/ambit/ca/issuer"
)

func hostname() string {
	name, _ := os.Hostname()
	name, _, _ = strings.Cut(name, ".")
	return strings.ToLower(name)
}

// runAdmin serves the admin endpoint until ctx ends.
func (d *Daemon) runAdmin(ctx context.Context) error {
	l, err := listenAdmin(ctx, d.cfg.Admin)
	if err != nil {
		return fmt.Errorf("admin endpoint: %w", err)
	}
	srv := &http.Server{Handler: d.admin(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	ctx, cancel := context.WithCancel(ctx)
	var closer sync.WaitGroup
	closer.Go(func() {
		<-ctx.Done()
		_ = srv.Close()
	})
	err = srv.Serve(l)
	asked := ctx.Err() != nil
	cancel()
	closer.Wait()
	if asked {
		return nil
	}
	return fmt.Errorf("admin endpoint: %w", err)
}

// listenAdmin listens on host:port or unix:PATH; a socket left by a process that was killed is in nobody's way.
func listenAdmin(ctx context.Context, addr string) (net.Listener, error) {
	path, ok := strings.CutPrefix(addr, "unix:")
	if !ok {
		return new(net.ListenConfig).Listen(ctx, "tcp", addr)
	}
	if st, err := os.Lstat(path); err == nil && st.Mode()&fs.ModeSocket != 0 {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (d *Daemon) admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", d.readyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(d.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /config_dump", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(d.dump())
	})
	mux.HandleFunc("GET /roots", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-pem-file")
		_, _ = w.Write(d.issuer.Bundle().PEM())
	})
	mux.HandleFunc("POST /rotate", func(w http.ResponseWriter, _ *http.Request) {
		// A loopback port is open to every user of the machine, and to every page in their browsers.
		if !strings.HasPrefix(d.cfg.Admin, "unix:") {
			http.Error(w, "only over a unix socket: start with --admin unix:PATH", http.StatusForbidden)
			return
		}
		if err := d.issuer.Rotate(); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		fmt.Fprintln(w, "rotated")
	})
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	return mux
}

// readyz is 200 while certificates can be issued. What is amiss besides is listed, one line each: it does not keep callers
// from their own identities.
func (d *Daemon) readyz(w http.ResponseWriter, _ *http.Request) {
	var blockers []string
	select {
	case <-d.ready:
	default:
		blockers = append(blockers, "listener")
	}
	if !time.Now().Before(d.issuer.Current().Until) {
		blockers = append(blockers, "issuer expired")
	}
	if len(blockers) > 0 {
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, "not ready, pending: %s\n", strings.Join(blockers, ", "))
		return
	}
	fmt.Fprintln(w, "ready")
	for _, warning := range d.warnings() {
		fmt.Fprintln(w, "warning:", warning)
	}
}

// warnings is what an operator should look at although the daemon serves.
func (d *Daemon) warnings() []string {
	var out []string
	if err := d.issuer.Refused(); err != nil {
		out = append(out, err.Error())
	}
	if d.keys != nil {
		if err := d.keys.Err(); err != nil {
			out = append(out, err.Error())
		}
	}
	if d.table == nil {
		out = append(out, "no control plane is configured, so no identity is impersonated")
	} else if !d.table.Ready() {
		out = append(out, fmt.Sprintf("the control plane %s has not been reached yet, so no identity is impersonated", d.cfg.XDSAddress))
	}
	return out
}

// dump is the state that really decides.
func (d *Daemon) dump() any {
	var out struct {
		issuer.Dump
		Serving             []issuer.Certificate `json:"serving"`
		TrustedNodeAccounts []string             `json:"trustedNodeAccounts"`
		Pods                int                  `json:"pods"`
		Warnings            []string             `json:"warnings"`
	}
	out.Dump = d.issuer.Dump()
	for _, s := range d.serving {
		out.Serving = append(out.Serving, issuer.Show(s.Certificate().Leaf))
	}
	out.TrustedNodeAccounts = d.cfg.TrustedNodeAccounts
	if d.table != nil {
		out.Pods = d.table.Len()
	}
	out.Warnings = d.warnings()
	return out
}
